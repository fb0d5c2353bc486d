package chaos

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"byrnie.dev/apps/load"
	"byrnie.dev/e2e/harness"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// restarts replaces all replicas of a server again and again, while it is called.
func (s *suite) restarts(t *testing.T) string {
	server := harness.App{Name: "server", Replicas: int32(s.replicas)}
	return s.restartsOf(t, server, s.scale.restarts, []load.Options{
		{Kind: load.HTTP, Target: "http://server:8080/", Connections: 8},
		{Kind: load.HTTP, Target: "http://server:8080/", Connections: 2, H2C: true, Streams: 8},
		{Kind: load.GRPC, Target: "server:9090", Connections: 2, Streams: 8, Call: "unary"},
	})
}

// abruptRestarts: the server exits at SIGTERM without a look at what it is doing. What it had not begun to answer is sent
// again where that is safe. So only what may be repeated is asked for, and what is answered in one piece.
func (s *suite) abruptRestarts(t *testing.T) string {
	server := harness.App{Name: "server", Replicas: int32(s.replicas), Args: []string{"echo", "--grace", "0s"}}
	return s.restartsOf(t, server, max(1, s.scale.restarts/4), []load.Options{
		{Kind: load.HTTP, Target: "http://server:8080/", Connections: 8},
		{Kind: load.HTTP, Target: "http://server:8081/", Connections: 2, Reconnect: true},
	})
}

func (s *suite) restartsOf(t *testing.T, server harness.App, times int, kinds []load.Options) string {
	t.Helper()
	space := s.Space(t, "restarts", harness.Meshed)
	space.Deploy(server)
	space.Ready(server)
	going := s.calling(t, space, kinds, nil)
	for range times {
		s.restartRollout(t, space, server.Name)
	}
	return fmt.Sprintf("%d restarts of %d replicas; %s", times, s.replicas, going.stop())
}

// calling begins calls of a space's server, each kind from a client of its own.
func (s *suite) calling(t *testing.T, space *harness.Space, kinds []load.Options, change func(*corev1.PodSpec)) *traffic {
	t.Helper()
	client := harness.Client("client")
	client.Replicas, client.Change = int32(len(kinds)), change
	space.Deploy(client)
	clients := space.Ready(client)
	going := &traffic{t: t, kinds: kinds}
	for i, options := range kinds {
		options.Rate, options.Duration, options.GroupBy = s.rate/float64(len(kinds)), load.Duration(30*time.Minute), []string{"reason"}
		going.runs = append(going.runs, space.In(clients[i]).Start(options))
	}
	time.Sleep(time.Second)
	return going
}

// drain empties a node of all its pods, those of the control plane too, as before maintenance, and takes it back.
func (s *suite) drain(t *testing.T) string {
	nodes := s.Nodes(t)
	if len(nodes) < 2 {
		t.Skip("there is only one node")
	}
	stays, drained := nodes[0], nodes[1]
	space := s.Space(t, "drain", harness.Meshed)
	server := harness.App{Name: "server", Replicas: int32(s.replicas)}
	space.Deploy(server)
	space.Ready(server)
	going := s.calling(t, space, calls[:5], func(spec *corev1.PodSpec) { spec.NodeName = stays })
	s.kubectl(t, "drain", drained, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=5m")
	space.Ready(server)
	s.kubectl(t, "uncordon", drained)
	space.Eventually(recoveryLimit, "the control plane is well", s.Installed)
	s.restartRollout(t, space, server.Name)
	return going.stop().String()
}

func (s *suite) kubectl(t *testing.T, args ...string) {
	t.Helper()
	command := exec.CommandContext(t.Context(), s.Settings.ClusterBin, append([]string{"kubectl"}, args...)...)
	command.Env = append(os.Environ(), "KUBECONFIG="+s.Settings.Kubeconfig)
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// kills ends one proxy every five seconds. Connections through it break; nobody else's do.
func (s *suite) kills(t *testing.T) string {
	space := s.Space(t, "kills", harness.Meshed)
	space.Deploy(harness.App{Name: "victim"})
	victim := space.Ready(harness.App{Name: "victim"})[0]
	going := s.traffic(t)
	count := 0
	for end := time.Now().Add(s.scale.kills); time.Now().Before(end); time.Sleep(5 * time.Second) {
		pod, err := s.Kube.CoreV1().Pods(space.Name).Get(t.Context(), victim.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, status := range pod.Status.InitContainerStatuses {
			if status.Name == harness.ProxyContainer && status.State.Running != nil {
				s.watch.Kill(t, *pod, harness.ProxyContainer)
				count++
			}
		}
	}
	space.Eventually(6*time.Minute, "the victim is ready again", func(ctx context.Context) error {
		pod, err := s.Kube.CoreV1().Pods(space.Name).Get(ctx, victim.Name, metav1.GetOptions{})
		if err == nil && !harness.IsReady(pod) {
			err = fmt.Errorf("it is not")
		}
		return err
	})
	return fmt.Sprintf("%d kills; of the others' requests %s", count, going.stop())
}

// jobs complete, with the exit code of their own and nothing else holding them.
func (s *suite) jobs(t *testing.T) string {
	space := s.Space(t, "jobs", harness.Meshed)
	space.Deploy(harness.App{Name: "server"})
	space.Ready(harness.App{Name: "server"})
	const together = 10
	for begun := 0; begun < s.scale.jobs; begun += together {
		for i := range together {
			space.Job(harness.App{Name: fmt.Sprintf("job-%d", begun+i), ServiceAccount: "worker", Args: []string{"call", "http://server:8080/"}})
		}
		space.Eventually(4*time.Minute, "the jobs complete", func(ctx context.Context) error {
			all, err := s.Kube.BatchV1().Jobs(space.Name).List(ctx, metav1.ListOptions{})
			if err != nil {
				return err
			}
			succeeded := 0
			for _, job := range all.Items {
				if job.Status.Failed > 0 {
					t.Errorf("%s failed", job.Name)
				}
				succeeded += int(job.Status.Succeeded)
			}
			if succeeded < begun+together {
				return fmt.Errorf("%d of %d succeeded", succeeded, begun+together)
			}
			return nil
		})
	}
	return fmt.Sprintf("%d jobs", s.scale.jobs)
}
