package e2e

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"byrnie.dev/apps/load"
	"byrnie.dev/e2e/harness"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// website is a Service in front of versions v1 and v2, which have Services of their own, and a client.
// The apex selects v1 alone, so that v2 is reached by a split only.
func website(t *testing.T, s *suite, name string) (*harness.Space, harness.Place) {
	t.Helper()
	space := s.Space(t, name, harness.Meshed)
	version := func(version string) harness.App {
		return harness.App{Name: "website-" + version, Version: version, ServiceAccount: "website"}
	}
	client := harness.Client("client")
	space.Deploy(version("v1"), version("v2"), client)
	space.Service("website", map[string]string{"app": "website-v1"})
	space.Ready(version("v1"), version("v2"))
	from := space.In(space.Ready(client)[0])
	answers(t, from, "http://website:8080/", 200, "", "--header", secretHeader)
	return space, from
}

// split is a TrafficSplit of website; backends come as "v1 90 v2 10".
func split(name, service string, backends ...any) string {
	var text strings.Builder
	fmt.Fprintf(&text, "apiVersion: split.smi-spec.io/v1alpha4\nkind: TrafficSplit\nmetadata: {name: %s}\nspec:\n  service: %s\n  backends:\n", name, service)
	for i := 0; i < len(backends); i += 2 {
		fmt.Fprintf(&text, "  - {service: %v, weight: %v}\n", backends[i], backends[i+1])
	}
	return text.String()
}

// shares are the versions' parts, in percent, of a load on the website.
func shares(t *testing.T, from harness.Place, requests int64) map[string]float64 {
	t.Helper()
	report := from.For(t).Load(load.Options{
		Kind: load.HTTP, Target: "http://website:8080/?bytes=64", Connections: 8, Requests: requests, GroupBy: []string{"version"}, Headers: []string{secretHeader},
	})
	if report.Failed() != 0 {
		t.Errorf("%d requests failed: %+v %v", report.Failed(), report.Statuses, report.Errors)
	}
	kept(t, report, 8)
	parts := map[string]float64{}
	for version, count := range report.Groups["version"] {
		parts[version] = 100 * float64(count) / float64(report.Requests)
	}
	return parts
}

func within(t *testing.T, parts map[string]float64, version string, want, tolerance float64) {
	t.Helper()
	if math.Abs(parts[version]-want) > tolerance {
		t.Errorf("%s has %.2f %%, want %.2f +- %.1f: %v", version, parts[version], want, tolerance, parts)
	}
}

// smiExamples applies the examples of SMI's texts, of each version, as they are.
func (s *suite) smiExamples(t *testing.T) {
	space, from := website(t, s, "smi")
	files, err := filepath.Glob("testdata/smi/*.yaml")
	if err != nil || len(files) != 6 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	wantV2 := map[string]float64{"v1alpha1": 100.0 / 3, "v1alpha2": 50, "v1alpha3": 10, "v1alpha4": 10}
	for _, file := range files {
		version, _, _ := strings.Cut(strings.TrimSuffix(filepath.Base(file), ".yaml"), "-")
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			objects, err := harness.Parse(string(text))
			if err != nil {
				t.Fatal(err)
			}
			name, space := objects[0].GetName(), space.For(t)
			space.Apply(string(text))
			// It reads back in its own version as it was written.
			resource := schema.GroupVersionResource{Group: harness.SplitGroup, Version: version, Resource: "trafficsplits"}
			stored, err := s.Dynamic.Resource(resource).Namespace(space.Name).Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if got, want := fmt.Sprint(stored.Object["spec"]), fmt.Sprint(objects[0].Object["spec"]); got != want {
				t.Errorf("it reads back as %s, but was written as %s", got, want)
			}
			if strings.Contains(file, "ab-test") {
				// HTTPRouteGroup is not served: nothing matches, and the website itself answers.
				space.WaitFor(harness.TrafficSplits, name, "ResolvedRefs", "False", "")
				within(t, shares(t, from, 400), "v2", 0, 0)
			} else {
				space.WaitFor(harness.TrafficSplits, name, "Accepted", "True", "")
				space.Programmed(harness.TrafficSplits, name)
				within(t, shares(t, from, 4000), "v2", wantV2[version], 3)
			}
			space.Remove(harness.TrafficSplits, name)
		})
	}
}

func (s *suite) splitAccuracy(t *testing.T) {
	space, from := website(t, s, "accuracy")
	space.Apply(split("canary", "website", "website-v1", 90, "website-v2", 10))
	space.Programmed(harness.TrafficSplits, "canary")
	parts := shares(t, from, 20_000)
	within(t, parts, "v1", 90, 1)
	within(t, parts, "v2", 10, 1)
	t.Logf("20000 requests on 8 kept connections: %.2f %% and %.2f %%", parts["v1"], parts["v2"])
}

// splitChanges moves all traffic from v1 to v2 and back, in steps, under load.
func (s *suite) splitChanges(t *testing.T) {
	space, from := website(t, s, "changes")
	run := from.Start(load.Options{
		Kind: load.HTTP, Target: "http://website:8080/?bytes=64", Connections: 8, Rate: 300, Duration: load.Duration(2 * time.Minute),
		GroupBy: []string{"version"}, Headers: []string{secretHeader},
	})
	for _, v2 := range []int{0, 10, 25, 50, 75, 100, 60, 30, 0, 100} {
		space.Apply(split("canary", "website", "website-v1", 100-v2, "website-v2", v2))
		space.Programmed(harness.TrafficSplits, "canary")
		before := run.Read().Groups["version"]
		time.Sleep(time.Second)
		after := run.Read().Groups["version"]
		count := map[string]int64{"v1": after["v1"] - before["v1"], "v2": after["v2"] - before["v2"]}
		if v2 == 100 && count["v1"] > 0 || v2 == 0 && count["v2"] > 0 {
			t.Errorf("with %d %% for v2, once in force, v1 answered %d and v2 %d", v2, count["v1"], count["v2"])
		}
	}
	space.Remove(harness.TrafficSplits, "canary")
	space.Eventually(10*time.Second, "v1 alone answers again", func(context.Context) error {
		before := run.Read().Groups["version"]["v2"]
		time.Sleep(500 * time.Millisecond)
		if after := run.Read().Groups["version"]["v2"]; after > before {
			return fmt.Errorf("v2 answered %d more", after-before)
		}
		return nil
	})
	report := run.Stop()
	if report.Failed() != 0 || report.Requests < 1000 {
		t.Errorf("%d of %d requests failed: %+v %v", report.Failed(), report.Requests, report.Statuses, report.Errors)
	}
}

// splitEdges: what SMI leaves open is defined here, and status says it.
func (s *suite) splitEdges(t *testing.T) {
	space, from := website(t, s, "edges")
	space.Service("website-empty", map[string]string{"app": "nobody"})
	space.Service("website-elsewhere", map[string]string{"app": "website-v2"}, corev1.ServicePort{Name: "http", Port: 9999, TargetPort: harness.Port(8080)})
	apply := func(t *testing.T, backends ...any) {
		t.Helper()
		space.For(t).Apply(split("edge", "website", backends...))
		t.Cleanup(func() { remove(t, space, "edge") })
	}
	says := func(t *testing.T, name, condition, status, reason, text string) {
		t.Helper()
		if seen := space.For(t).WaitFor(harness.TrafficSplits, name, condition, status, reason); !strings.Contains(seen.Message, text) {
			t.Errorf("%s does not name %q: %s", condition, text, seen)
		}
	}
	t.Run("a backend without endpoints", func(t *testing.T) {
		space := space.For(t)
		apply(t, "website-v1", 50, "website-empty", 50)
		says(t, "edge", "ResolvedRefs", "True", "NoEndpoints", "website-empty")
		space.Programmed(harness.TrafficSplits, "edge")
		within(t, shares(t, from, 400), "v1", 100, 0)
	})
	t.Run("a backend that does not exist yet", func(t *testing.T) {
		space := space.For(t)
		apply(t, "website-v1", 50, "website-later", 50)
		says(t, "edge", "ResolvedRefs", "False", "BackendNotFound", "website-later")
		within(t, shares(t, from, 400), "v1", 100, 0)
		space.Service("website-later", map[string]string{"app": "website-v2"})
		space.WaitFor(harness.TrafficSplits, "edge", "ResolvedRefs", "True", "")
		space.Programmed(harness.TrafficSplits, "edge")
		within(t, shares(t, from, 2000), "v2", 50, 5)
	})
	t.Run("a backend without the port", func(t *testing.T) {
		apply(t, "website-v1", 50, "website-elsewhere", 50)
		says(t, "edge", "ResolvedRefs", "False", "PortNotFound", "website-elsewhere")
		within(t, shares(t, from, 400), "v1", 100, 0)
	})
	t.Run("all weights zero", func(t *testing.T) {
		apply(t, "website-v1", 0, "website-v2", 0)
		says(t, "edge", "Accepted", "True", "", "weights are 0")
		if answer := answers(t, from, "http://website:8080/", 503, "", "--header", secretHeader); !strings.HasPrefix(answer.Reason, "no-") {
			t.Errorf("the reason is %q", answer.Reason)
		}
	})
	t.Run("its own Service as backend", func(t *testing.T) {
		space := space.For(t)
		apply(t, "website", 80, "website-v2", 20)
		space.WaitFor(harness.TrafficSplits, "edge", "Accepted", "True", "")
		space.Programmed(harness.TrafficSplits, "edge")
		within(t, shares(t, from, 4000), "v2", 20, 4)
	})
	t.Run("a backend with a split of its own", func(t *testing.T) {
		space := space.For(t)
		space.Apply(split("inner", "website-v2", "website-v1", 100))
		t.Cleanup(func() { remove(t, space, "inner") })
		apply(t, "website-v2", 100)
		space.Programmed(harness.TrafficSplits, "edge")
		within(t, shares(t, from, 400), "v2", 100, 0)
	})
	t.Run("two splits on one Service", func(t *testing.T) {
		space := space.For(t)
		apply(t, "website-v2", 100)
		space.WaitFor(harness.TrafficSplits, "edge", "Accepted", "True", "")
		time.Sleep(1100 * time.Millisecond) // ages are told in seconds
		space.Apply(split("younger", "website", "website-v1", 100))
		says(t, "younger", "Accepted", "False", "Conflicted", "edge")
		within(t, shares(t, from, 400), "v2", 100, 0)
		space.Remove(harness.TrafficSplits, "younger")
	})
	t.Run("another namespace's Service", func(t *testing.T) {
		space := space.For(t)
		err := space.TryApply(t.Context(), split("edge", "website.default.svc.cluster.local", "website-v1", 1))
		refusedFor(t, err, []string{"spec.service", "default"})
	})
}

// remove deletes a split at the end of a subtest, whose context has ended.
func remove(t *testing.T, space *harness.Space, name string) {
	if err := space.Dynamic.Resource(harness.TrafficSplits).Namespace(space.Name).Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}
