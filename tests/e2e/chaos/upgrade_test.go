package chaos

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"byrnie.dev/apps/load"
	"byrnie.dev/e2e/harness"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// withoutTCP: proxies of 0.1.0 do not try another server when one takes no connection.
var withoutTCP = slices.DeleteFunc(slices.Clone(calls), func(options load.Options) bool { return options.Kind == load.TCP })

// upgrades goes from the release before to this one and back, control plane first and proxies after it, while calls
// go on; each mixture that a careful administrator passes through is there for a while.
func (s *suite) upgrades(t *testing.T) string {
	before, now := s.Settings.Previous, s.Settings.Chart
	space := s.Space(t, "upgrades", harness.Meshed)
	server := harness.App{Name: "server", Replicas: int32(s.replicas)}
	s.helm(t, before)
	space.Deploy(server)
	space.Ready(server)
	going := s.calling(t, space, withoutTCP, nil)
	space.Apply(policy)
	space.Programmed(harness.MeshPolicies, "anyone")
	versions := []string{s.proxies(t, space)}
	for _, chart := range []string{now, before} {
		s.helm(t, chart)
		space.Remove(harness.MeshPolicies, "anyone")
		space.Apply(policy)
		space.Programmed(harness.MeshPolicies, "anyone")
		s.restartRollout(t, space, server.Name)
		versions = append(versions, s.proxies(t, space))
	}
	s.helm(t, now)
	s.restartRollout(t, space, server.Name)
	if versions[0] == versions[1] || versions[0] != versions[2] {
		t.Errorf("the servers' proxies were of versions %s", strings.Join(versions, ", "))
	}
	return fmt.Sprintf("proxies %s; %s", strings.Join(versions, ", "), going.stop())
}

func (s *suite) helm(t *testing.T, chart string) {
	t.Helper()
	if err := s.InstallChart(harness.WithinMinutes(t, 4), chart); err != nil {
		t.Fatal(err)
	}
	err := harness.Eventually(t.Context(), recoveryLimit, func(ctx context.Context) error {
		pods, err := s.Kube.CoreV1().Pods(harness.SystemNamespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, pod := range pods.Items {
			if pod.DeletionTimestamp != nil {
				// an injector of before serves on until the API server has learned that it goes
				return fmt.Errorf("pod %s is still there", pod.Name)
			}
		}
		return s.Installed(ctx)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// proxies is the version of the servers' proxies, which all have the same.
func (s *suite) proxies(t *testing.T, space *harness.Space) string {
	t.Helper()
	version := ""
	space.Eventually(recoveryLimit, "all servers have the same proxy", func(ctx context.Context) error {
		pods, err := s.Kube.CoreV1().Pods(space.Name).List(ctx, metav1.ListOptions{LabelSelector: "app=server"})
		if err != nil {
			return err
		}
		seen := map[string]bool{}
		for _, pod := range pods.Items {
			if pod.DeletionTimestamp == nil {
				version = proxyVersion(pod)
				seen[version] = true
			}
		}
		if len(seen) != 1 {
			return fmt.Errorf("there are %d versions", len(seen))
		}
		return nil
	})
	return version
}

func proxyVersion(pod corev1.Pod) string {
	for _, container := range pod.Spec.InitContainers {
		if container.Name == harness.ProxyContainer {
			return container.Image[strings.LastIndex(container.Image, ":")+1:]
		}
	}
	return "none"
}
