package chaos

import (
	"context"
	"fmt"
	"testing"
	"time"

	"byrnie.dev/apps/load"
	"byrnie.dev/e2e/harness"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// restarts replaces all replicas of a server again and again, while it is called.
func (s *suite) restarts(t *testing.T) string {
	space := s.Space(t, "restarts", harness.Meshed)
	server := harness.App{Name: "server", Replicas: int32(s.replicas)}
	client := harness.Client("client")
	client.Replicas = 3
	space.Deploy(server, client)
	space.Ready(server)
	clients := space.Ready(client)
	kinds := []load.Options{
		{Kind: load.HTTP, Target: "http://server:8080/", Connections: 8},
		{Kind: load.HTTP, Target: "http://server:8080/", Connections: 2, H2C: true, Streams: 8},
		{Kind: load.GRPC, Target: "server:9090", Connections: 2, Streams: 8, Call: "unary"},
	}
	going := &traffic{t: t, kinds: kinds}
	for i, options := range kinds {
		options.Rate, options.Duration, options.GroupBy = s.rate/3, load.Duration(30*time.Minute), []string{"reason"}
		going.runs = append(going.runs, space.In(clients[i]).Start(options))
	}
	time.Sleep(time.Second)
	for range s.scale.restarts {
		s.restartRollout(t, space, server.Name)
	}
	return fmt.Sprintf("%d restarts of %d replicas; %s", s.scale.restarts, s.replicas, going.stop())
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
