package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"byrnie.dev/apps/attack"
	"byrnie.dev/apps/load"
	"byrnie.dev/e2e/harness"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxGrowth is what bad input may cost a proxy.
const maxGrowth = 64 << 20

// badInput: garbage, slow clients and endless headers, at the inbound side from outside the mesh and at the
// outbound side from a member's app, while a good client's requests all succeed.
func (s *suite) badInput(t *testing.T) {
	space := s.Space(t, "bad-input", harness.Meshed, harness.Annotated(harness.MTLSAnnotation, "Permissive"))
	outside := s.Space(t, "attacker")
	server := harness.App{Name: "server"}
	space.Deploy(server, harness.Client("good"), harness.Client("bad"))
	outside.Deploy(harness.Client("stranger"))
	target := space.Ready(server)[0]
	good := space.In(space.Ready(harness.Client("good"))[0])
	member := space.Ready(harness.Client("bad"))[0]
	stranger := outside.In(outside.Ready(harness.Client("stranger"))[0])
	address := fmt.Sprintf("server.%s:8080", space.Name)

	for _, side := range []struct {
		name     string
		from     harness.Place
		attacked corev1.Pod
	}{{"inbound", stranger, target}, {"outbound", space.In(member), member}} {
		run := good.Start(load.Options{Kind: load.HTTP, Target: "http://" + address + "/", Connections: 4, Rate: 100,
			Duration: load.Duration(5 * time.Minute), Headers: []string{secretHeader}, GroupBy: []string{"reason"}})
		time.Sleep(time.Second)
		before := s.watch.Memory(t, side.attacked, harness.ProxyContainer)
		for _, args := range [][]string{
			{"garbage", "--connections", "480", "--duration", "6s"},
			{"big-headers", "--connections", "64", "--duration", "6s", "--kib", "4096"},
			{"slow", "--connections", "2000", "--duration", "20s", "--mode", "mix"},
		} {
			t.Run(side.name+" "+args[0], func(t *testing.T) {
				result := make(chan attackResult, 1)
				go func() { result <- runAttack(t.Context(), side.from, append(args, "--addr", address)) }()
				peak := before
				for {
					select {
					case done := <-result:
						judgeAttack(t, args[0], done)
						growth := peak.Resident - before.Resident
						harness.Bar(t, fmt.Sprintf("%s, %s: the proxy grows by", args[0], side.name), float64(growth)/(1<<20), 64, "MiB")
						if growth > maxGrowth {
							t.Errorf("the proxy grew by %d MiB", growth>>20)
						}
						return
					case <-time.After(time.Second):
						if now := s.watch.Memory(t, side.attacked, harness.ProxyContainer); now.Resident > peak.Resident {
							peak = now
						}
					}
				}
			})
		}
		report := run.Stop()
		if report.Failed() != 0 || report.OK < 1000 {
			t.Errorf("%s: of %d good requests %d failed: %+v %v %v", side.name, report.Requests, report.Failed(), report.Statuses, report.Errors, report.Groups["reason"])
		}
		t.Logf("%s: good requests meanwhile: %d, p50 %.1f ms, p99 %.1f ms", side.name, report.OK, report.Latency.P50, report.Latency.P99)
	}
	for _, pod := range []corev1.Pod{target, member} {
		if restarts := restartsOf(t, space, pod.Name); restarts != 0 {
			t.Errorf("the proxy of %s was restarted %d times", pod.Name, restarts)
		}
	}
}

type attackResult struct {
	attack.Result
	err error
}

func runAttack(ctx context.Context, from harness.Place, args []string) attackResult {
	stdout, stderr, code, err := from.Exec(ctx, nil, append([]string{"attack"}, args...)...)
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code %d: %s", code, stderr)
	}
	result := attackResult{err: err}
	if err == nil {
		result.err = json.Unmarshal([]byte(stdout), &result.Result)
	}
	return result
}

func judgeAttack(t *testing.T, name string, result attackResult) {
	t.Helper()
	if result.err != nil {
		t.Fatal(result.err)
	}
	t.Logf("%d connections opened, %d closed by the proxy, %d open at the end, answers %v", result.Opened, result.Closed, result.StillOpen, result.Answers)
	if result.Opened < result.Connections*9/10 {
		t.Errorf("only %d of %d connections were opened: this was no attack", result.Opened, result.Connections)
	}
	if name == "big-headers" && result.Answers["200"] > 0 {
		t.Errorf("%d requests with 4 MiB of headers were served", result.Answers["200"])
	}
}

func restartsOf(t *testing.T, space *harness.Space, pod string) int32 {
	t.Helper()
	seen, err := space.Kube.CoreV1().Pods(space.Name).Get(t.Context(), pod, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, status := range seen.Status.InitContainerStatuses {
		if status.Name == harness.ProxyContainer {
			return status.RestartCount
		}
	}
	t.Fatalf("pod %s has no proxy", pod)
	return 0
}

// underLoad runs a disturbance while requests of three kinds go on, none of which may fail.
func (s *suite) underLoad(t *testing.T, name string, disturb func(space *harness.Space)) {
	t.Helper()
	space := s.Space(t, name, harness.Meshed)
	server, client := harness.App{Name: "server", Replicas: 2}, harness.Client("client")
	space.Deploy(server, client)
	space.Ready(server)
	from := space.In(space.Ready(client)[0])
	answers(t, from, "http://server:8080/", 200, "", "--header", secretHeader)
	kinds := []load.Options{
		{Kind: load.HTTP, Target: "http://server:8080/", Connections: 4, Rate: 100},
		{Kind: load.HTTP, Target: "http://server:8081/", Reconnect: true, Connections: 2, Rate: 20},
		{Kind: load.GRPC, Target: "server:9090", Call: "bidi", Connections: 2, Rate: 20},
	}
	var runs []*harness.Run
	for _, options := range kinds {
		options.Duration, options.Headers = load.Duration(5*time.Minute), []string{secretHeader}
		runs = append(runs, from.Start(options))
	}
	time.Sleep(time.Second)
	disturb(space)
	time.Sleep(2 * time.Second)
	for i, run := range runs {
		report := run.Stop()
		if report.Failed() != 0 || report.OK == 0 {
			t.Errorf("%s %s: %d of %d requests failed: %+v %v", kinds[i].Kind, kinds[i].Target, report.Failed(), report.Requests, report.Statuses, report.Errors)
		}
	}
}

// killSystem kills one pod of a part of the control plane, sees that work is done without it, and that it
// comes back.
func (s *suite) killSystem(t *testing.T, part string, work func(space *harness.Space)) {
	s.underLoad(t, "kill", func(space *harness.Space) {
		pods := s.SystemPods(t, part)
		if len(pods) == 0 {
			t.Fatalf("no ready pod of %s", part)
		}
		now := int64(0)
		start := time.Now()
		if err := s.Kube.CoreV1().Pods(harness.SystemNamespace).Delete(t.Context(), pods[0].Name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
			t.Fatal(err)
		}
		work(space)
		space.Eventually(time.Minute, part+" is whole again", s.Installed)
		t.Logf("%s was whole again after %s", part, time.Since(start).Round(100*time.Millisecond))
	})
}

// killOperator kills its leader, whose work another takes over.
func (s *suite) killOperator(t *testing.T) {
	s.killSystem(t, "byrnie-operator", func(space *harness.Space) {
		space.Apply(policy(`
    rules: [{sources: [{anyone: true}]}]
`, space.Name, ""))
		space.Eventually(time.Minute, "a policy is in force", func(ctx context.Context) error {
			condition, err := space.Condition(ctx, harness.MeshPolicies, "tried", "Programmed")
			if err == nil && condition.Status != "True" {
				err = fmt.Errorf("it is %q", condition)
			}
			return err
		})
	})
}

func (s *suite) killInjector(t *testing.T) {
	s.killSystem(t, "byrnie-injector", func(space *harness.Space) {
		space.Eventually(20*time.Second, "a pod is injected", func(ctx context.Context) error {
			_, err := s.Kube.CoreV1().Pods(space.Name).Create(ctx, space.Pod(harness.App{Name: "meanwhile"}), metav1.CreateOptions{})
			return err
		})
		if pods := space.ReadyPods("meanwhile", 1); !harness.Injected(&pods[0]) {
			t.Error("the pod has no sidecar")
		}
	})
}

// killProxy kills the proxy of one of three replicas: another service's traffic does not notice, and the
// killed one is back.
func (s *suite) killProxy(t *testing.T) {
	s.underLoad(t, "kill-proxy", func(space *harness.Space) {
		other := harness.App{Name: "other", Replicas: 3}
		space.Deploy(other)
		pods := space.Ready(other)
		from := space.In(space.Ready(harness.Client("client"))[0])
		answers(t, from, "http://other:8080/", 200, "", "--header", secretHeader)
		run := from.Start(load.Options{Kind: load.HTTP, Target: "http://other:8080/", Connections: 4, Rate: 100,
			Duration: load.Duration(2 * time.Minute), Headers: []string{secretHeader}, GroupBy: []string{"pod", "reason"}})
		time.Sleep(time.Second)
		victim := pods[0]
		s.watch.Kill(t, victim, harness.ProxyContainer)
		start := time.Now()
		space.Eventually(time.Minute, "the proxy is back", func(ctx context.Context) error {
			pod, err := s.Kube.CoreV1().Pods(space.Name).Get(ctx, victim.Name, metav1.GetOptions{})
			if err == nil && (restartsOf(t, space, victim.Name) == 0 || !harness.IsReady(pod)) {
				err = fmt.Errorf("restarts %d, ready %v", restartsOf(t, space, victim.Name), harness.IsReady(pod))
			}
			return err
		})
		t.Logf("the proxy was back after %s", time.Since(start).Round(100*time.Millisecond))
		before := run.Read().Groups["pod"][victim.Name]
		space.Eventually(20*time.Second, "its pod serves again", func(context.Context) error {
			if now := run.Read().Groups["pod"][victim.Name]; now <= before {
				return fmt.Errorf("%d answers", now)
			}
			return nil
		})
		report := run.Stop()
		harness.Bar(t, "requests that failed when one of three proxies was killed", float64(report.Failed()), 0, "of "+fmt.Sprint(report.Requests))
		if report.Failed() > 0 {
			t.Logf("%+v %v %v", report.Statuses, report.Errors, report.Groups["reason"])
		}
		if !strings.HasPrefix(victim.Name, "other-") {
			t.Fatalf("the victim was %s", victim.Name)
		}
	})
}
