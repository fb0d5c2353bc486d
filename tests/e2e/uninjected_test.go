package e2e

import (
	"context"
	"fmt"
	"regexp"
	"testing"
	"time"

	"byrnie.dev/e2e/harness"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// uninjected: pods that ran before their namespace was labelled are told of and counted, and, with
// operator.evictUninjected, those of a Deployment are made anew one after the other; a Job's and a bare pod
// stay.
func (s *suite) uninjected(t *testing.T) {
	space := s.Space(t, "older")
	old := harness.App{Name: "old", Replicas: 2}
	space.Deploy(old)
	space.Job(harness.App{Name: "job", Args: []string{"sleep"}})
	if _, err := s.Kube.CoreV1().Pods(space.Name).Create(t.Context(), space.Pod(harness.App{Name: "alone", Args: []string{"sleep"}}), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	space.Ready(old, harness.App{Name: "job"}, harness.App{Name: "alone"})
	label := fmt.Sprintf(`{"metadata":{"labels":{%q:"enabled"}}}`, harness.InjectLabel)
	if _, err := s.Kube.CoreV1().Namespaces().Patch(t.Context(), space.Name, types.MergePatchType, []byte(label), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	space.Eventually(2*time.Minute, "the Deployment's pods are in the mesh", func(ctx context.Context) error {
		pods, err := s.Kube.CoreV1().Pods(space.Name).List(ctx, metav1.ListOptions{LabelSelector: "app=old"})
		if err != nil {
			return err
		}
		ready, meshed := 0, 0
		for _, pod := range pods.Items {
			if harness.IsReady(&pod) && pod.DeletionTimestamp == nil {
				ready++
				if harness.Injected(&pod) {
					meshed++
				}
			}
		}
		if ready == 0 {
			t.Fatal("no pod of the Deployment was ready: they were evicted together")
		}
		if meshed < 2 {
			return fmt.Errorf("%d of 2", meshed)
		}
		return nil
	})
	space.Eventually(30*time.Second, "the two that stay are counted", func(ctx context.Context) error {
		if count := s.counted(t, ctx, space.Name); count != "2" {
			return fmt.Errorf("%q are counted", count)
		}
		return nil
	})
	for app, count := range map[string]int{"old": 2, "job": 1, "alone": 1} {
		told := map[string]bool{}
		events, err := s.Kube.CoreV1().Events(space.Name).List(t.Context(), metav1.ListOptions{FieldSelector: "reason=NotInjected"})
		if err != nil {
			t.Fatal(err)
		}
		for _, event := range events.Items {
			if regexp.MustCompile("^" + app + "($|-)").MatchString(event.InvolvedObject.Name) {
				told[event.InvolvedObject.Name] = true
			}
		}
		if len(told) != count {
			t.Errorf("Events NotInjected of %s: %v, want %d", app, told, count)
		}
	}
}

// counted is what the leader's metric says of a namespace.
func (s *suite) counted(t *testing.T, ctx context.Context, namespace string) string {
	t.Helper()
	pattern := regexp.MustCompile(`byrnie_operator_uninjected_pods\{namespace="` + namespace + `"\} (\d+)`)
	for _, pod := range s.SystemPods(t, "byrnie-operator") {
		text, err := s.metricsOf(ctx, pod, 14291)
		if err != nil {
			t.Fatal(err)
		}
		if found := pattern.FindSubmatch(text); found != nil {
			return string(found[1])
		}
	}
	return ""
}

// metricsOf asks a pod by way of the API server.
func (s *suite) metricsOf(ctx context.Context, pod corev1.Pod, port int) ([]byte, error) {
	path := fmt.Sprintf("/api/v1/namespaces/%s/pods/%s:%d/proxy/metrics", pod.Namespace, pod.Name, port)
	return s.Kube.CoreV1().RESTClient().Get().AbsPath(path).DoRaw(ctx)
}
