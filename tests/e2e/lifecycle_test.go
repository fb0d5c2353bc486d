package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"byrnie.dev/e2e/harness"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// lifecycle: a second installation and an upgrade lose no request; after uninstalling nothing is left, the
// cluster works as without the mesh, and the mesh can be installed again.
func (s *suite) lifecycle(t *testing.T) {
	if s.Settings.ClusterBin == "" {
		t.Skip("BYRNIE_CLUSTER_BIN is not set: no helm")
	}
	t.Run("installed twice", func(t *testing.T) {
		before := s.SystemPods(t, "byrnie-operator")
		s.underLoad(t, "install-twice", func(*harness.Space) { s.install(t) })
		after := s.SystemPods(t, "byrnie-operator")
		if names(before) != names(after) {
			t.Errorf("the same chart restarted the operator: %s, then %s", names(before), names(after))
		}
	})
	t.Run("upgraded", func(t *testing.T) {
		s.underLoad(t, "upgrade", func(space *harness.Space) {
			s.install(t, "proxy.log=debug", "operator.log=debug", "injector.log=debug", "operator.evictUninjected=true")
			// Injectors of before serve for a few seconds, while the API server learns that they go.
			pods := s.Kube.CoreV1().Pods(space.Name)
			space.Eventually(20*time.Second, "pods get the new value", func(ctx context.Context) error {
				pod, err := pods.Create(ctx, space.Pod(harness.App{Name: "after"}), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
				if err == nil && !strings.Contains(fmt.Sprint(pod.Spec.InitContainers), "debug") {
					err = errors.New("it has the old one")
				}
				return err
			})
			if _, err := pods.Create(t.Context(), space.Pod(harness.App{Name: "after"}), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			space.ReadyPods("after", 1)
		})
	})
	t.Run("pods without a proxy", s.uninjected)
	t.Run("uninstalled", func(t *testing.T) {
		meshed := s.Space(t, "left-behind", harness.Meshed)
		meshed.Deploy(harness.App{Name: "server"})
		meshed.Ready(harness.App{Name: "server"})
		meshed.Apply(denyAll("server"))
		meshed.Apply(split("canary", "server", "server", 1))
		if err := s.Helm(harness.WithinMinutes(t, 4), "uninstall", "byrnie", "-n", harness.SystemNamespace, "--wait", "--timeout", "3m"); err != nil {
			t.Fatal(err)
		}
		meshed.Eventually(90*time.Second, "nothing is left of it", func(ctx context.Context) error {
			left, err := s.Leftovers(ctx)
			if err == nil && len(left) > 0 {
				err = fmt.Errorf("still there: %s", strings.Join(left, ", "))
			}
			return err
		})
		// A label that nobody reads any more does no harm.
		meshed.Deploy(harness.App{Name: "plain"})
		if pods := meshed.Ready(harness.App{Name: "plain"}); harness.Injected(&pods[0]) {
			t.Error("a pod was injected after uninstalling")
		}
	})
	t.Run("installed again", func(t *testing.T) {
		s.install(t)
		s.Mapper.Reset()
		s.underLoad(t, "again", func(*harness.Space) { time.Sleep(2 * time.Second) })
	})
}

func (s *suite) install(t *testing.T, values ...string) {
	t.Helper()
	if err := s.Install(harness.WithinMinutes(t, 4), values...); err != nil {
		t.Fatal(err)
	}
	if err := harness.Eventually(t.Context(), time.Minute, s.Installed); err != nil {
		t.Fatal(err)
	}
}

func names(pods []corev1.Pod) string {
	var all []string
	for _, pod := range pods {
		all = append(all, pod.Name)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}
