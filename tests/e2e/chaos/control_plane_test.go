package chaos

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"byrnie.dev/e2e/harness"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	operator       = "byrnie-operator"
	injector       = "byrnie-injector"
	leaderLease    = "byrnie-operator"
	operatorsOwn   = "operator"
	recoveryLimit  = 2 * time.Minute
	takeOverLimit  = time.Minute
	wakeUpAfter    = 5 * time.Second
	injectionLimit = 30 * time.Second
)

// leader is the operator's pod that holds the Lease.
func (s *suite) leader(ctx context.Context) (*corev1.Pod, error) {
	lease, err := s.Kube.CoordinationV1().Leases(harness.SystemNamespace).Get(ctx, leaderLease, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if lease.Spec.HolderIdentity == nil {
		return nil, fmt.Errorf("nobody leads")
	}
	pod, _, _ := strings.Cut(*lease.Spec.HolderIdentity, "_") // POD_PROCESS
	return s.Kube.CoreV1().Pods(harness.SystemNamespace).Get(ctx, pod, metav1.GetOptions{})
}

// killLeader ends the leader's process without a warning.
func (s *suite) killLeader(t *testing.T) {
	t.Helper()
	pod, err := s.leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	running := slices.ContainsFunc(pod.Status.ContainerStatuses, func(status corev1.ContainerStatus) bool {
		return status.Name == operatorsOwn && status.State.Running != nil
	})
	if running {
		s.watch.Signal(t, *pod, operatorsOwn, "KILL")
	}
}

// twoLeaders stops the leader's process until another one leads, and lets it go on: it must notice.
func (s *suite) twoLeaders(t *testing.T) string {
	going := s.traffic(t)
	first, err := s.leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	before := s.mustTrust(t)
	s.askRotation(t)
	s.watch.Signal(t, *first, operatorsOwn, "STOP")
	space := s.fleet.space.For(t)
	space.Eventually(takeOverLimit, "another one leads", func(ctx context.Context) error {
		now, err := s.leader(ctx)
		if err == nil && now.Name == first.Name {
			err = fmt.Errorf("%s still holds the Lease", now.Name)
		}
		return err
	})
	time.Sleep(wakeUpAfter)
	s.watch.Signal(t, *first, operatorsOwn, "CONT")
	s.rotated(t, before)
	space.Eventually(recoveryLimit, "both are well", s.Installed)
	return going.stop().String()
}

// outage takes operator and injector away for long: what is known goes on.
func (s *suite) outage(t *testing.T) string {
	going := s.traffic(t)
	replicas := map[string]int32{}
	for _, name := range []string{operator, injector} {
		replicas[name] = s.setReplicas(t, name, 0)
	}
	time.Sleep(s.scale.outage)
	for name, count := range replicas {
		s.setReplicas(t, name, count)
	}
	space := s.fleet.space.For(t)
	space.Eventually(recoveryLimit, "the control plane is back", s.Installed)
	space.Apply(policy)
	space.Programmed(harness.MeshPolicies, "anyone")
	space.Remove(harness.MeshPolicies, "anyone")
	return fmt.Sprintf("away for %s; %s", s.scale.outage, going.stop())
}

// policy changes nothing; that it is programmed shows that all proxies listen.
const policy = `
apiVersion: byrnie.dev/v1alpha1
kind: MeshPolicy
metadata: {name: anyone}
spec:
  targetRefs: [{group: "", kind: Service, name: server}]
  authorization: {action: Allow, rules: [{sources: [{anyone: true}]}]}
`

func (s *suite) setReplicas(t *testing.T, deployment string, count int32) (before int32) {
	t.Helper()
	deployments := s.Kube.AppsV1().Deployments(harness.SystemNamespace)
	scale, err := deployments.GetScale(t.Context(), deployment, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	before, scale.Spec.Replicas = scale.Spec.Replicas, count
	if _, err := deployments.UpdateScale(t.Context(), deployment, scale, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	return before
}

// apiServer makes the API server answer nobody for a while, and then breaks all its connections.
func (s *suite) apiServer(t *testing.T) string {
	going := s.traffic(t)
	s.signal(t, "kube-apiserver", "STOP")
	time.Sleep(s.scale.blackhole)
	s.signal(t, "kube-apiserver", "CONT")
	space := s.fleet.space.For(t)
	space.Eventually(recoveryLimit, "the API server answers again", s.Installed)
	s.signal(t, "kube-apiserver", "KILL")
	time.Sleep(2 * time.Second)
	space.Eventually(recoveryLimit, "the API server is back", s.Installed)
	start := time.Now()
	space.Eventually(recoveryLimit, "a policy can be made", func(ctx context.Context) error { return space.TryApply(ctx, policy) })
	space.Eventually(recoveryLimit, "it is programmed", func(ctx context.Context) error {
		condition, err := space.Condition(ctx, harness.MeshPolicies, "anyone", "Programmed")
		if err == nil && condition.Status != "True" {
			err = fmt.Errorf("it is %q", condition)
		}
		return err
	})
	took := time.Since(start)
	space.Remove(harness.MeshPolicies, "anyone")
	return fmt.Sprintf("a new policy was in force %s after it was back; %s", took.Round(100*time.Millisecond), going.stop())
}

func (s *suite) signal(t *testing.T, component, signal string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), s.Settings.ClusterBin, "--name", s.Settings.ClusterName, "signal", component, signal).CombinedOutput()
	if err != nil {
		t.Fatalf("%s to %s: %v\n%s", signal, component, err, out)
	}
}

// webhook takes the injector away: what is not labelled starts, what is labelled does not, and does when it is back.
func (s *suite) webhook(t *testing.T) string {
	going := s.traffic(t)
	plain, meshed := s.Space(t, "plain"), s.Space(t, "meshed", harness.Meshed)
	count := s.setReplicas(t, injector, 0)
	plain.Eventually(recoveryLimit, "the webhook is away", func(ctx context.Context) error {
		left, err := s.Kube.CoreV1().Pods(harness.SystemNamespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=" + injector})
		if err == nil && len(left.Items) > 0 {
			err = fmt.Errorf("%d pods are left", len(left.Items))
		}
		return err
	})
	plain.Deploy(harness.App{Name: "app"})
	if pods := plain.Ready(harness.App{Name: "app"}); harness.Injected(&pods[0]) {
		t.Error("an unlabelled namespace got a sidecar")
	}
	_, err := s.Kube.CoreV1().Pods(meshed.Name).Create(t.Context(), meshed.Pod(harness.App{Name: "early"}), metav1.CreateOptions{})
	if err == nil {
		t.Error("a pod of a labelled namespace started without the webhook")
	}
	meshed.Deploy(harness.App{Name: "app"})
	s.setReplicas(t, injector, count)
	if pods := meshed.Ready(harness.App{Name: "app"}); !harness.Injected(&pods[0]) {
		t.Error("the pod has no sidecar")
	}
	return going.stop().String()
}

// restartRollout is what `kubectl rollout restart` does.
func (s *suite) restartRollout(t *testing.T, space *harness.Space, deployment string) {
	t.Helper()
	patch := fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"kubectl.kubernetes.io/restartedAt":%q}}}}}`, time.Now().Format(time.RFC3339Nano))
	if _, err := s.Kube.AppsV1().Deployments(space.Name).Patch(t.Context(), deployment, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	space.Eventually(5*time.Minute, deployment+" is restarted", func(ctx context.Context) error {
		seen, err := s.Kube.AppsV1().Deployments(space.Name).Get(ctx, deployment, metav1.GetOptions{})
		if err != nil {
			return err
		}
		status := seen.Status
		if status.ObservedGeneration < seen.Generation || status.UpdatedReplicas < *seen.Spec.Replicas || status.Replicas > status.UpdatedReplicas || status.AvailableReplicas < *seen.Spec.Replicas {
			return fmt.Errorf("%d of %d replicas are new and available", min(status.UpdatedReplicas, status.AvailableReplicas), *seen.Spec.Replicas)
		}
		return nil
	})
}
