package e2e

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"byrnie.dev/apps/load"
	"byrnie.dev/e2e/harness"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// policyLatency measures from before the API call that denies to the first refused request, with a load
// that asks 500 times a second; and back.
func (s *suite) policyLatency(t *testing.T) {
	space := s.Space(t, "latency", harness.Meshed)
	server, client := harness.App{Name: "server"}, harness.Client("client")
	space.Deploy(server, client)
	space.Ready(server)
	from := space.In(space.Ready(client)[0])
	answers(t, from, "http://server:8080/", 200, "", "--header", secretHeader)
	var refused, allowed, calls []time.Duration
	for range 20 {
		seen, call := untilStatus(t, from, "403", func() { space.Create(denyAll("server")) })
		refused, calls = append(refused, seen), append(calls, call)
		seen, _ = untilStatus(t, from, "200", func() { space.Remove(harness.MeshPolicies, "deny-all") })
		allowed = append(allowed, seen)
	}
	harness.Bar(t, "policy change to first refusal, API call included, median", harness.Milliseconds(harness.Median(refused)), 10, "ms")
	harness.Bar(t, "policy change to first refusal, API call included, worst", harness.Milliseconds(slices.Max(refused)), 100, "ms")
	t.Logf("the API server answered the call after %s (median); the proxy may be told before", harness.Median(calls))
	t.Logf("policy removed to first allowed request: median %s, worst %s", harness.Median(allowed), slices.Max(allowed))
}

// untilStatus is the time from a change until the first answer with a status, and until the change's own end. Pods and tests share a
// clock: they are on one machine.
func untilStatus(t *testing.T, from harness.Place, status string, change func()) (seen, call time.Duration) {
	t.Helper()
	run := from.Start(load.Options{
		Kind: load.HTTP, Target: "http://server:8080/", Connections: 2, Rate: 500,
		Duration: load.Duration(20 * time.Second), Headers: []string{secretHeader},
	})
	defer run.Stop()
	// what starting and reading a load costs the machine is not to be measured
	time.Sleep(300 * time.Millisecond)
	start := time.Now()
	change()
	call = time.Since(start)
	time.Sleep(200 * time.Millisecond)
	var first load.Seen
	err := harness.Eventually(t.Context(), 15*time.Second, func(context.Context) error {
		report := run.Read()
		first = report.Statuses[status]
		if first.Count == 0 {
			return fmt.Errorf("no %s yet: %+v %v", status, report.Statuses, report.Errors)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return time.Unix(0, first.FirstUnixNano).Sub(start), call
}

func denyAll(service string) string {
	return fmt.Sprintf(`
apiVersion: byrnie.dev/v1alpha1
kind: MeshPolicy
metadata: {name: deny-all}
spec:
  targetRefs: [{group: "", kind: Service, name: %s}]
  authorization: {action: Deny, rules: [{sources: [{anyone: true}]}]}
`, service)
}

// podStart compares pods with and without the sidecar, in turn: from before the API call to the app's
// first line, and to Ready as a watch sees it.
func (s *suite) podStart(t *testing.T) {
	const rounds = 7
	plain, meshed := s.Space(t, "start-plain"), s.Space(t, "start-meshed", harness.Meshed)
	meshed.Eventually(20*time.Second, "the trust bundle", func(ctx context.Context) error {
		_, err := s.Kube.CoreV1().ConfigMaps(meshed.Name).Get(ctx, harness.TrustConfigMap, metav1.GetOptions{})
		return err
	})
	var running, ready [2][]time.Duration
	for round := range rounds {
		for i, space := range []*harness.Space{plain, meshed} {
			started, isReady := timeline(t, space, fmt.Sprintf("pod-%d", round))
			running[i], ready[i] = append(running[i], started), append(ready[i], isReady)
		}
	}
	t.Logf("POST to app running: plain %s, meshed %s; to Ready: plain %s, meshed %s (medians of %d)",
		harness.Median(running[0]), harness.Median(running[1]), harness.Median(ready[0]), harness.Median(ready[1]), rounds)
	harness.Bar(t, "pod start, injection adds to app running, median", (harness.Median(running[1]) - harness.Median(running[0])).Seconds(), 0.7, "s")
	harness.Bar(t, "pod start, injection adds to Ready, median", (harness.Median(ready[1]) - harness.Median(ready[0])).Seconds(), 1.0, "s")
}

func timeline(t *testing.T, space *harness.Space, name string) (running, ready time.Duration) {
	t.Helper()
	pods := space.Kube.CoreV1().Pods(space.Name)
	pod := space.Pod(harness.App{Name: name, ServiceAccount: "timeline", Args: []string{"timeline"}})
	watch, err := pods.Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	start := time.Now()
	if _, err := pods.Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	limit := time.After(time.Minute)
	for ready == 0 {
		select {
		case event := <-watch.ResultChan():
			if seen, ok := event.Object.(*corev1.Pod); ok && harness.IsReady(seen) {
				ready = time.Since(start)
			}
		case <-limit:
			t.Fatalf("pod %s is not ready within a minute", name)
		}
	}
	var nanoseconds int64
	space.Eventually(20*time.Second, "the first line of "+name, func(ctx context.Context) (err error) {
		nanoseconds, err = strconv.ParseInt(strings.TrimSpace(space.Logs(ctx, name, "app", 1)), 10, 64)
		return err
	})
	now := int64(0)
	if err := pods.Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Error(err)
	}
	return time.Unix(0, nanoseconds).Sub(start), ready
}
