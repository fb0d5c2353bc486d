package chaos

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"byrnie.dev/e2e/harness"
)

// restored takes a snapshot of etcd in one phase of a rotation, and puts it back when the rotation is over: MeshTrust
// then speaks of a root that no proxy believes any more, and in phase Stable the key is gone of the one that they do.
func (s *suite) restored(phase string) func(*testing.T) string {
	return func(t *testing.T) string {
		before, going := s.mustTrust(t), s.traffic(t)
		snapshot := filepath.Join(t.TempDir(), "snapshot")
		if phase == "Stable" {
			s.etcd(t, "snapshot", snapshot)
		}
		s.askRotation(t)
		if phase != "Stable" {
			s.phase(t, phase)
			s.etcd(t, "snapshot", snapshot)
		}
		s.rotated(t, before)
		after := s.mustTrust(t)
		s.etcd(t, "restore", snapshot)
		start := time.Now()
		s.together(t, after)
		s.newcomer(t)
		took := time.Since(start)
		return fmt.Sprintf("sound after %s; %s", took.Round(time.Second), going.stop())
	}
}

// etcd calls byrnie-cluster.
func (s *suite) etcd(t *testing.T, command, file string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), s.Settings.ClusterBin, "--name", s.Settings.ClusterName, command, file).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

// phase waits for one.
func (s *suite) phase(t *testing.T, phase string) {
	t.Helper()
	s.fleet.space.For(t).Eventually(rotationLimit, "phase "+phase, func(ctx context.Context) error {
		seen, err := s.trust(ctx)
		if err == nil && seen.Phase != phase {
			err = fmt.Errorf("it is %s: %s", seen.Phase, seen.condition("Rotating").Message)
		}
		return err
	})
}

// together waits until MeshTrust is past what the proxies have seen, all of them are with it, and there is no key but
// the one that signs.
func (s *suite) together(t *testing.T, known trust) {
	t.Helper()
	s.fleet.space.For(t).Eventually(3*rotationLimit, "MeshTrust and the proxies agree", func(ctx context.Context) error {
		seen, err := s.trust(ctx)
		if err != nil {
			return err
		}
		ready := seen.condition("Ready")
		if keys, err := s.keys(ctx); err != nil {
			return err
		} else if len(keys) != 1 || !strings.HasPrefix(seen.Signer, keys[0]) {
			return fmt.Errorf("%s signs, and there are the keys of %v", seen.Signer, keys)
		}
		if seen.Epoch < known.Epoch || seen.Phase != "Stable" || ready.Status != "True" {
			return fmt.Errorf("epoch %d of %d, phase %s, Ready=%s %s: %s", seen.Epoch, known.Epoch, seen.Phase, ready.Status, ready.Message, seen.condition("Rotating").Message)
		}
		return nil
	})
}

// newcomer starts a pod, which is served.
func (s *suite) newcomer(t *testing.T) {
	t.Helper()
	space := s.Space(t, "newcomer", harness.Meshed)
	space.Deploy(harness.Client("client"))
	from := space.In(space.Ready(harness.Client("client"))[0])
	target := fmt.Sprintf("http://server.%s:8080/", s.fleet.space.Name)
	_, stderr, code, err := from.Exec(t.Context(), nil, "call", target)
	if err != nil || code != 0 {
		t.Errorf("a new pod is not served: exit code %d, %v\n%s", code, err, stderr)
	}
}
