package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"byrnie.dev/e2e/harness"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func (s *suite) unlabelled(t *testing.T) {
	space := s.Space(t, "unlabelled")
	server, client := harness.App{Name: "server"}, harness.Client("client")
	space.Deploy(server, client)
	asked := space.Pod(harness.App{Name: "bare"})
	made, err := s.Kube.CoreV1().Pods(space.Name).Create(t.Context(), asked.DeepCopy(), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(made.Spec.InitContainers) != 0 || len(made.Spec.Containers) != 1 || made.Labels[harness.InjectedLabel] != "" || len(made.Annotations) != 0 {
		t.Errorf("the pod was changed: %+v", made.ObjectMeta)
	}
	from := space.In(space.Ready(server, client)[1])
	answer := answers(t, from, "http://server:8080/", 200, "", "--header", openHeader)
	if strings.Contains(strings.ToLower(answer.Body), "byrnie-") {
		t.Errorf("the server saw a header of ours: %s", answer.Body)
	}
	if _, err := s.Kube.CoreV1().ConfigMaps(space.Name).Get(t.Context(), harness.TrustConfigMap, metav1.GetOptions{}); err == nil {
		t.Errorf("namespace %s has a trust bundle", space.Name)
	}
}

func (s *suite) labelled(t *testing.T) {
	space := s.Space(t, "labelled", harness.Meshed)
	server, client := harness.App{Name: "server"}, harness.Client("client")
	// Probes of every kind reach the app although nothing but the mesh may call it.
	probed := harness.App{Name: "probed", Change: func(spec *corev1.PodSpec) {
		container := &spec.Containers[0]
		container.LivenessProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
			GRPC: &corev1.GRPCAction{Port: 9090},
		}}
		container.StartupProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
			TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(7070)},
		}}
	}}
	space.Deploy(server, client, probed)
	pods := space.Ready(server, client, probed)
	for _, pod := range pods {
		if !harness.Injected(&pod) || pod.Labels[harness.InjectedLabel] != "true" {
			t.Errorf("pod %s has no sidecar", pod.Name)
		}
		if first := pod.Spec.InitContainers[0].Name; first != harness.InitContainer {
			t.Errorf("pod %s begins with %s", pod.Name, first)
		}
		for _, container := range pod.Spec.InitContainers {
			if container.Name == harness.ProxyContainer && (container.SecurityContext == nil || *container.SecurityContext.RunAsUser != 14100 ||
				len(container.SecurityContext.Capabilities.Add) != 0) {
				t.Errorf("the proxy of %s has more rights than it needs: %+v", pod.Name, container.SecurityContext)
			}
		}
	}
	from := space.In(pods[1])
	answers(t, from, "http://server:8080/", 200, "", "--header", secretHeader)
	answer := answers(t, from, "http://probed:8080/", 200, "", "--header", secretHeader, "--header", "byrnie-client-id=spiffe://evil/ns/a/sa/b",
		"--header", "x-forwarded-client-cert=evil")
	if !strings.Contains(answer.Body, spiffe(space, "client")) || strings.Contains(answer.Body, "evil") {
		t.Errorf("the server was told %s", answer.Body)
	}
	// One pod may join by its own label.
	alone := s.Space(t, "opted-in")
	alone.Deploy(harness.App{Name: "one", Labels: map[string]string{harness.InjectLabel: "enabled"}}, harness.App{Name: "other"})
	joined := alone.Ready(harness.App{Name: "one"}, harness.App{Name: "other"})
	if !harness.Injected(&joined[0]) || harness.Injected(&joined[1]) {
		t.Error("only the pod with the label should have a sidecar")
	}
	answers(t, from, fmt.Sprintf("http://one.%s:8080/", alone.Name), 200, "", "--header", secretHeader)
}

func (s *suite) workloads(t *testing.T) {
	space := s.Space(t, "workloads", harness.Meshed)
	nodes := len(s.Nodes(t))
	set, everywhere := harness.App{Name: "set", Replicas: 2}, harness.App{Name: "everywhere", Replicas: int32(nodes)}
	client := harness.Client("client")
	space.StatefulSet(set)
	space.DaemonSet(everywhere)
	space.Deploy(client)
	job := func(name string, code int, url string) harness.App {
		return harness.App{Name: name, Args: []string{"job", "--url", url, "--exit-code", fmt.Sprint(code)}}
	}
	space.Ready(set, everywhere)
	space.Job(job("good", 0, "http://everywhere:8080/"))
	space.Job(job("bad", 3, "http://everywhere:8080/"))
	space.CronJob(job("cron", 0, "http://everywhere:8080/"))
	pods := space.Ready(client)
	for _, pod := range append(pods, append(space.ReadyPods("set", 2), space.ReadyPods("everywhere", nodes)...)...) {
		if !harness.Injected(&pod) {
			t.Errorf("pod %s has no sidecar", pod.Name)
		}
	}
	from := space.In(pods[0])
	for _, pod := range []string{"set-0", "set-1"} {
		answer := answers(t, from, fmt.Sprintf("http://%s.set:8080/", pod), 200, "", "--header", secretHeader)
		if answer.Header.Get("Echo-Pod") != pod || !strings.Contains(answer.Body, spiffe(space, "client")) {
			t.Errorf("%s.set was answered by %s: %s", pod, answer.Header.Get("Echo-Pod"), answer.Body)
		}
	}
	answers(t, from, "http://everywhere:8080/", 200, "", "--header", secretHeader)
	jobEnds(t, space, "good", batchv1.JobComplete)
	jobEnds(t, space, "bad", batchv1.JobFailed)
	if code := exitCode(t, space, "bad"); code != 3 {
		t.Errorf("the failing job ended with %d, not with its app's 3", code)
	}
	space.Eventually(2*time.Minute, "a run of the CronJob", func(ctx context.Context) error {
		jobs, err := s.Kube.BatchV1().Jobs(space.Name).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, job := range jobs.Items {
			if strings.HasPrefix(job.Name, "cron-") && job.Status.Succeeded > 0 {
				return nil
			}
		}
		return fmt.Errorf("%d jobs, no run of it has succeeded", len(jobs.Items))
	})
}

func jobEnds(t *testing.T, space *harness.Space, name string, how batchv1.JobConditionType) {
	t.Helper()
	space.Eventually(time.Minute, "the end of job "+name, func(ctx context.Context) error {
		job, err := space.Kube.BatchV1().Jobs(space.Name).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, condition := range job.Status.Conditions {
			if condition.Type == how && condition.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("its status is %+v", job.Status)
	})
}

func exitCode(t *testing.T, space *harness.Space, job string) int32 {
	t.Helper()
	pods, err := space.Kube.CoreV1().Pods(space.Name).List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + job})
	if err != nil || len(pods.Items) == 0 {
		t.Fatalf("the pod of job %s: %v", job, err)
	}
	for _, status := range pods.Items[0].Status.ContainerStatuses {
		if status.Name == "app" && status.State.Terminated != nil {
			return status.State.Terminated.ExitCode
		}
	}
	t.Fatalf("the app of job %s has not ended: %+v", job, pods.Items[0].Status)
	return 0
}

// podAdmission: pods that ask for the mesh and cannot have it are told why and what to do.
func (s *suite) podAdmission(t *testing.T) {
	restricted := s.Space(t, "restricted", harness.Meshed, harness.Labelled(harness.PodSecurityEnforce, "restricted"))
	meshed := s.Space(t, "refused", harness.Meshed)
	lenient := s.Space(t, "lenient", harness.Meshed, harness.Annotated(harness.AllowOptOut, "true"))
	for _, c := range []struct {
		name  string
		space *harness.Space
		pod   func(*corev1.Pod)
		says  []string // all of them, in the admission message; none: the pod is taken
	}{
		{"PodSecurity restricted", restricted, func(*corev1.Pod) {}, []string{restricted.Name, "PodSecurity", "restricted", "NET_ADMIN", "enforce=privileged"}},
		{"hostNetwork", meshed, func(pod *corev1.Pod) { pod.Spec.HostNetwork = true }, []string{"hostNetwork", "remove hostNetwork"}},
		{"opt-out", meshed, func(pod *corev1.Pod) { pod.Labels[harness.InjectLabel] = "disabled" }, []string{"disabled", harness.AllowOptOut}},
		{"a label that means nothing", meshed, func(pod *corev1.Pod) { pod.Labels[harness.InjectLabel] = "maybe" }, []string{"maybe", "enabled"}},
		{"skipped ports", meshed, annotated("byrnie.dev/skip-inbound-ports", "8080"), []string{"skip-inbound-ports", harness.AllowOptOut}},
		{"workers", meshed, annotated("byrnie.dev/workers", "many"), []string{"byrnie.dev/workers", "many"}},
		{"memory", meshed, annotated("byrnie.dev/proxy-memory-limit", "plenty"), []string{"proxy-memory-limit", "plenty"}},
		{"the proxy's user", meshed, func(pod *corev1.Pod) {
			user := int64(14100)
			pod.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{RunAsUser: &user}
		}, []string{"14100", "another user"}},
		{"the proxy's port", meshed, func(pod *corev1.Pod) {
			pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 14143}}
		}, []string{"14143", "another port"}},
		{"opt-out where allowed", lenient, func(pod *corev1.Pod) { pod.Labels[harness.InjectLabel] = "disabled" }, nil},
		{"skipped ports where allowed", lenient, annotated("byrnie.dev/skip-inbound-ports", "8080, 9090"), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod := c.space.For(t).Pod(harness.App{Name: "pod", Annotations: map[string]string{}})
			c.pod(pod)
			_, err := s.Kube.CoreV1().Pods(c.space.Name).Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			refusedFor(t, err, c.says)
		})
	}
}

func annotated(key, value string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Annotations[key] = value }
}

// refusedFor checks an admission error: every text must be in it. No text means no error.
func refusedFor(t *testing.T, err error, says []string) {
	t.Helper()
	switch {
	case len(says) == 0 && err != nil:
		t.Errorf("refused: %v", err)
	case len(says) > 0 && err == nil:
		t.Errorf("taken, but should be refused with %q", says)
	}
	for _, text := range says {
		if err != nil && !strings.Contains(err.Error(), text) {
			t.Errorf("%q is not in the message: %v", text, err)
		}
	}
}
