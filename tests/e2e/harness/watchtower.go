package harness

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"byrnie.dev/apps/node"
	corev1 "k8s.io/api/core/v1"
)

// A Watchtower is a pod on every node that sees its packets and processes. It is outside the mesh.
type Watchtower struct {
	space *Space
	pods  map[string]corev1.Pod // by node
}

// Canaries are texts that the tests send: Secret only between meshed pods, Open in clear.
type Canaries struct{ Secret, Open string }

// Watch starts the towers, which look for the canaries from then on.
func (c *Cluster) Watch(t *testing.T, canaries Canaries) *Watchtower {
	t.Helper()
	space := c.Space(t, "watch", Labelled(PodSecurityEnforce, "privileged"))
	space.DaemonSet(App{
		Name: "watch", NoService: true,
		Args: []string{"node", "capture", "--interface", "cni0", "--find", "secret=" + canaries.Secret, "--find", "open=" + canaries.Open},
		Change: func(spec *corev1.PodSpec) {
			spec.HostNetwork, spec.HostPID = true, true
			root, privileged := int64(0), true
			spec.Containers[0].SecurityContext = &corev1.SecurityContext{RunAsUser: &root, Privileged: &privileged}
			spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
			spec.TopologySpreadConstraints = nil
		},
	})
	tower := &Watchtower{space: space, pods: map[string]corev1.Pod{}}
	for _, pod := range space.ReadyPods("watch", len(c.Nodes(t))) {
		tower.pods[pod.Spec.NodeName] = pod
	}
	return tower
}

// Counts adds up what the captures on all nodes have seen.
func (w *Watchtower) Counts(t *testing.T) node.Counts {
	t.Helper()
	total := node.Counts{Found: map[string]int64{}, Examples: map[string][]string{}}
	for name, pod := range w.pods {
		var counts node.Counts
		w.run(t, pod, &counts, "call", "--body-only", "http://127.0.0.1:17998/")
		total.Interface = counts.Interface
		total.Packets += counts.Packets
		total.Dropped += counts.Dropped
		for text, count := range counts.Found {
			total.Found[text] += count
		}
		for text, examples := range counts.Examples {
			for _, example := range examples {
				total.Examples[text] = append(total.Examples[text], name+": "+example)
			}
		}
	}
	return total
}

// Place is the tower on a node: in the node's network, outside the mesh.
func (w *Watchtower) Place(node string) Place { return w.space.In(w.pods[node]) }

// Memory is what a container's processes hold.
func (w *Watchtower) Memory(t *testing.T, pod corev1.Pod, container string) node.Memory {
	t.Helper()
	var memory node.Memory
	w.run(t, w.pods[pod.Spec.NodeName], &memory, "node", "memory", containerID(t, pod, container))
	return memory
}

// Kill ends a container's processes without warning.
func (w *Watchtower) Kill(t *testing.T, pod corev1.Pod, container string) {
	t.Helper()
	w.Signal(t, pod, container, "KILL")
}

// Signal sends KILL, STOP or CONT to a container's processes.
func (w *Watchtower) Signal(t *testing.T, pod corev1.Pod, container, signal string) {
	t.Helper()
	w.run(t, w.pods[pod.Spec.NodeName], nil, "node", "signal", signal, containerID(t, pod, container))
}

func containerID(t *testing.T, pod corev1.Pod, container string) string {
	t.Helper()
	for _, status := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
		if status.Name == container {
			if _, id, ok := strings.Cut(status.ContainerID, "://"); ok {
				return id
			}
		}
	}
	t.Fatalf("pod %s/%s has no running container %s", pod.Namespace, pod.Name, container)
	return ""
}

func (w *Watchtower) run(t *testing.T, pod corev1.Pod, into any, args ...string) {
	t.Helper()
	stdout, stderr, code, err := w.space.In(pod).Exec(t.Context(), nil, args...)
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code %d: %s", code, stderr)
	}
	if err == nil && into != nil {
		err = json.Unmarshal([]byte(stdout), into)
	}
	if err != nil {
		t.Fatalf("%v on node %s: %v", args, pod.Spec.NodeName, err)
	}
}
