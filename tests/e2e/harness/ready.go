package harness

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Ready waits until each app has as many ready pods as wanted (1 where Replicas is not set), none of
// them on its way out, and answers all of them.
func (s *Space) Ready(apps ...App) []corev1.Pod {
	s.T.Helper()
	var all []corev1.Pod
	for _, app := range apps {
		all = append(all, s.ReadyPods(app.Name, int(max(app.Replicas, 1)))...)
	}
	return all
}

// ReadyPods waits for count ready pods with the label app=name.
func (s *Space) ReadyPods(name string, count int) []corev1.Pod {
	s.T.Helper()
	var ready []corev1.Pod
	s.Eventually(2*time.Minute, fmt.Sprintf("%d ready pods of %s", count, name), func(ctx context.Context) error {
		pods, err := s.Kube.CoreV1().Pods(s.Name).List(ctx, metav1.ListOptions{LabelSelector: "app=" + name})
		if err != nil {
			return err
		}
		ready = slices.DeleteFunc(pods.Items, func(pod corev1.Pod) bool { return pod.DeletionTimestamp != nil || !IsReady(&pod) })
		if len(ready) != count {
			return fmt.Errorf("%d of %d pods are ready", len(ready), len(pods.Items))
		}
		return nil
	})
	return ready
}

// IsReady is the pod's condition.
func IsReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(condition corev1.PodCondition) bool {
		return condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue
	})
}

// Injected says whether the pod has our sidecar, as native sidecars are: an init container that restarts.
func Injected(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.InitContainers, func(container corev1.Container) bool {
		return container.Name == ProxyContainer && container.RestartPolicy != nil && *container.RestartPolicy == corev1.ContainerRestartPolicyAlways
	})
}

// Diagnose says what there is to know about the namespace's pods: states, events, the last of the logs.
func (s *Space) Diagnose(ctx context.Context) string {
	var text strings.Builder
	fmt.Fprintf(&text, "---- namespace %s\n", s.Name)
	pods, err := s.Kube.CoreV1().Pods(s.Name).List(ctx, metav1.ListOptions{})
	if err != nil {
		return text.String() + err.Error()
	}
	for _, pod := range pods.Items {
		fmt.Fprintf(&text, "pod %s on %s: %s, ready %v\n", pod.Name, pod.Spec.NodeName, pod.Status.Phase, IsReady(&pod))
		for _, container := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
			fmt.Fprintf(&text, "  %s: %s, restarts %d\n", container.Name, stateOf(container.State), container.RestartCount)
			if !container.Ready || container.Name == ProxyContainer {
				fmt.Fprint(&text, indent(s.Logs(ctx, pod.Name, container.Name, 15)))
			}
		}
	}
	events, err := s.Kube.CoreV1().Events(s.Name).List(ctx, metav1.ListOptions{})
	if err == nil {
		for _, event := range events.Items[max(0, len(events.Items)-30):] {
			if event.Type != corev1.EventTypeNormal {
				fmt.Fprintf(&text, "event %s/%s: %s: %s\n", event.InvolvedObject.Kind, event.InvolvedObject.Name, event.Reason, event.Message)
			}
		}
	}
	return text.String()
}

// Logs are the last lines of a container's.
func (s *Space) Logs(ctx context.Context, pod, container string, lines int64) string {
	stream, err := s.Kube.CoreV1().Pods(s.Name).GetLogs(pod, &corev1.PodLogOptions{Container: container, TailLines: &lines}).Stream(ctx)
	if err != nil {
		return err.Error() + "\n"
	}
	defer stream.Close()
	logs, err := io.ReadAll(io.LimitReader(stream, 1<<20))
	if err != nil {
		return err.Error() + "\n"
	}
	return string(logs)
}

func stateOf(state corev1.ContainerState) string {
	switch {
	case state.Running != nil:
		return "running"
	case state.Waiting != nil:
		return fmt.Sprintf("waiting: %s %s", state.Waiting.Reason, state.Waiting.Message)
	case state.Terminated != nil:
		return fmt.Sprintf("ended with %d: %s %s", state.Terminated.ExitCode, state.Terminated.Reason, state.Terminated.Message)
	}
	return "not started"
}

func indent(text string) string {
	var indented strings.Builder
	for line := range strings.Lines(text) {
		fmt.Fprintf(&indented, "    | %s", line)
	}
	if indented.Len() > 0 && !strings.HasSuffix(indented.String(), "\n") {
		indented.WriteByte('\n')
	}
	return indented.String()
}
