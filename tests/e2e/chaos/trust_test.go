package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"byrnie.dev/e2e/harness"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// trust is as much of MeshTrust's status as is looked at here.
type trust struct {
	Phase  string `json:"phase"`
	Epoch  int64  `json:"epoch"`
	Signer string `json:"signer"`
	Roots  []struct {
		ID    string `json:"id"`
		State string `json:"state"`
	} `json:"roots"`
	Conditions []metav1.Condition `json:"conditions"`
}

func (s *suite) trust(ctx context.Context) (trust, error) {
	object, err := s.Dynamic.Resource(harness.MeshTrusts).Get(ctx, harness.MeshTrust, metav1.GetOptions{})
	if err != nil {
		return trust{}, err
	}
	return read(object)
}

func read(object *unstructured.Unstructured) (seen trust, err error) {
	status, err := json.Marshal(object.Object["status"])
	if err == nil {
		err = json.Unmarshal(status, &seen)
	}
	return seen, err
}

func (s *suite) mustTrust(t *testing.T) trust {
	t.Helper()
	seen, err := s.trust(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

func (seen trust) condition(kind string) metav1.Condition {
	for _, condition := range seen.Conditions {
		if condition.Type == kind {
			return condition
		}
	}
	return metav1.Condition{}
}

// ask changes MeshTrust's spec.
func (s *suite) ask(t *testing.T, spec string) {
	t.Helper()
	if err := s.ChangeMeshTrust(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
}

func (s *suite) askRotation(t *testing.T) {
	t.Helper()
	s.ask(t, fmt.Sprintf(`{"rotation": {"request": "chaos-%d", "abort": null}}`, time.Now().UnixNano()))
}

// rotationLimit is for one rotation, connections that stand on the old root included.
const rotationLimit = 6 * time.Minute

// rotated waits until another root than before signs and is the only one.
func (s *suite) rotated(t *testing.T, before trust) {
	t.Helper()
	var seen trust
	err := harness.Eventually(t.Context(), rotationLimit, func(ctx context.Context) (err error) {
		seen, err = s.trust(ctx)
		if err == nil && (seen.Phase != "Stable" || seen.Signer == before.Signer) {
			err = fmt.Errorf("phase %s: %s", seen.Phase, seen.condition("Rotating").Message)
		}
		return err
	})
	if err != nil {
		t.Fatalf("no rotation within %s: %v", rotationLimit, err)
	}
	if seen.Epoch <= before.Epoch {
		t.Errorf("the epoch went from %d to %d", before.Epoch, seen.Epoch)
	}
	for _, root := range seen.Roots {
		if root.ID != seen.Signer && root.State != "Tainted" {
			t.Errorf("root %s is still %s", root.ID, root.State)
		}
	}
}

// rotations one after the other, under all of the fleet's traffic.
func (s *suite) rotations(t *testing.T) string {
	start := time.Now()
	var sum tally
	for range s.scale.rotations {
		before, going := s.mustTrust(t), s.traffic(t)
		s.askRotation(t)
		s.rotated(t, before)
		sum = sum.plus(going.stop())
	}
	took := time.Since(start) / time.Duration(s.scale.rotations)
	if sum.requests < s.scale.rotated {
		t.Errorf("only %d requests were made, of %d", sum.requests, s.scale.rotated)
	}
	return fmt.Sprintf("%d rotations, %s each; %s", s.scale.rotations, took.Round(time.Second), sum)
}

// rotationWithKills kills the leader whenever MeshTrust has changed in a rotation.
func (s *suite) rotationWithKills(t *testing.T) string {
	before := s.mustTrust(t)
	going := s.traffic(t)
	s.askRotation(t)
	var phases []string
	last := before
	deadline := time.Now().Add(2 * rotationLimit)
	for time.Now().Before(deadline) {
		seen, err := s.trust(t.Context())
		if err == nil && (seen.Phase != last.Phase || seen.Epoch != last.Epoch) {
			s.killLeader(t)
			phases, last = append(phases, seen.Phase), seen
		}
		if last.Phase == "Stable" && last.Signer != before.Signer {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.rotated(t, before)
	s.noOrphans(t)
	return fmt.Sprintf("killed after %s; %s", strings.Join(phases, ", "), going.stop())
}

// noOrphans checks that each key is of a root that MeshTrust knows.
func (s *suite) noOrphans(t *testing.T) {
	t.Helper()
	// whoever leads after the last kill has the last key to remove
	err := harness.Eventually(t.Context(), time.Minute, func(ctx context.Context) error {
		seen, err := s.trust(ctx)
		if err != nil {
			return err
		}
		keys, err := s.keys(ctx)
		if err == nil && (len(keys) != 1 || !strings.HasPrefix(seen.Signer, keys[0])) {
			err = fmt.Errorf("%s signs, and there are the keys of %v", seen.Signer, keys)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// keys are the beginnings of the ids of all roots that have one.
func (s *suite) keys(ctx context.Context) (ids []string, err error) {
	secrets, err := s.Kube.CoreV1().Secrets(harness.SystemNamespace).List(ctx, metav1.ListOptions{LabelSelector: harness.PartOfLabel + "=byrnie"})
	if err != nil {
		return nil, err
	}
	for _, secret := range secrets.Items {
		if id, ok := strings.CutPrefix(secret.Name, "byrnie-root-"); ok {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// rotationWithLaggard stops a proxy: the rotation waits for it and names it, until it goes on.
func (s *suite) rotationWithLaggard(t *testing.T) string {
	before := s.mustTrust(t)
	space := s.Space(t, "laggard", harness.Meshed)
	space.Deploy(harness.App{Name: "sleepy", NoService: true})
	pod := space.Ready(harness.App{Name: "sleepy"})[0]
	going := s.traffic(t)
	s.watch.Signal(t, pod, harness.ProxyContainer, "STOP")
	s.askRotation(t)
	named := ""
	space.Eventually(rotationLimit, "the rotation names the proxy that it waits for", func(ctx context.Context) error {
		seen, err := s.trust(ctx)
		if err == nil {
			named = seen.condition("Rotating").Message
			if !strings.Contains(named, pod.Name) {
				err = fmt.Errorf("it says %q in phase %s", named, seen.Phase)
			}
		}
		return err
	})
	space.Eventually(time.Minute, "an Event names it", func(ctx context.Context) error {
		events, err := s.Kube.EventsV1().Events(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{FieldSelector: "reason=RotationHeldUp"})
		if err == nil && !slices.ContainsFunc(events.Items, func(event eventsv1.Event) bool { return strings.Contains(event.Note, pod.Name) }) {
			err = fmt.Errorf("there are %d Events, none of it", len(events.Items))
		}
		return err
	})
	if seen := s.mustTrust(t); seen.Signer != before.Signer {
		t.Errorf("another root signs although %s does not have it", pod.Name)
	}
	s.watch.Signal(t, pod, harness.ProxyContainer, "CONT")
	s.rotated(t, before)
	return going.stop().String()
}

// abort takes a rotation back after its first step.
func (s *suite) abort(t *testing.T) string {
	before := s.mustTrust(t)
	going := s.traffic(t)
	s.askRotation(t)
	space := s.fleet.space.For(t)
	space.Eventually(time.Minute, "the rotation begins", func(ctx context.Context) error {
		seen, err := s.trust(ctx)
		if err == nil && seen.Phase == "Stable" {
			err = fmt.Errorf("it is %q", seen.condition("Rotating").Message)
		}
		return err
	})
	s.ask(t, `{"rotation": {"abort": true}}`)
	space.Eventually(rotationLimit, "the rotation is taken back", func(ctx context.Context) error {
		seen, err := s.trust(ctx)
		if err == nil && (seen.Phase != "Stable" || seen.Signer != before.Signer) {
			err = fmt.Errorf("phase %s: %q", seen.Phase, seen.condition("Rotating").Message)
		}
		return err
	})
	s.ask(t, `{"rotation": null}`)
	return going.stop().String()
}

// emergencyLimit is in how much time a compromised root must be out of force.
const emergencyLimit = 2 * time.Minute

// emergency names the root that signs as compromised.
func (s *suite) emergency(t *testing.T) string {
	before := s.mustTrust(t)
	going := s.traffic(t)
	start := time.Now()
	s.ask(t, fmt.Sprintf(`{"compromised": [%q]}`, before.Signer))
	space := s.fleet.space.For(t)
	space.Eventually(emergencyLimit, "the compromised root is out of force", func(ctx context.Context) error {
		seen, err := s.trust(ctx)
		if err != nil {
			return err
		}
		for _, root := range seen.Roots {
			if root.ID == before.Signer && root.State != "Tainted" {
				return fmt.Errorf("it is %s in phase %s: %q", root.State, seen.Phase, seen.condition("Rotating").Message)
			}
		}
		return nil
	})
	took := time.Since(start)
	s.rotated(t, before)
	s.ask(t, `{"compromised": null}`)
	return fmt.Sprintf("out of force after %s; %s, which is allowed here", took.Round(time.Second), going.count())
}
