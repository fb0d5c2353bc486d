// Package e2e is what the mesh promises, tried on a real cluster. The chart is installed before; the
// tests run in namespaces of their own.
package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"byrnie.dev/e2e/harness"
)

// suite is what the tests share.
type suite struct {
	*harness.Cluster
	watch *harness.Watchtower
}

// canaries cross the cluster in every test: the first only between meshed pods, the second in clear.
var canaries = harness.Canaries{
	Secret: "canary-secret-" + strings.Repeat("7", 18),
	Open:   "canary-open-" + strings.Repeat("3", 18),
}

// secretHeader carries the first canary in a call or load between meshed pods, openHeader the second.
var (
	secretHeader = "x-canary=" + canaries.Secret
	openHeader   = "x-canary=" + canaries.Open
)

func TestMain(m *testing.M) {
	code := m.Run()
	harness.PrintBars()
	os.Exit(code)
}

// TestMesh runs the tests in this order: figures while nothing else runs, then what can run together,
// then what disturbs everybody, then what was seen on the wire, and at the end the mesh goes and comes.
func TestMesh(t *testing.T) {
	cluster, err := harness.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := &suite{Cluster: cluster}
	s.watch = cluster.Watch(t, canaries)
	s.phase(t, "baseline", true,
		test{"without the mesh every protocol works", s.protocolsInClear},
	)
	if err := harness.Eventually(t.Context(), time.Minute, cluster.Installed); err != nil {
		t.Fatal(err)
	}
	s.phase(t, "figures", true,
		test{"policy change to refusal", s.policyLatency},
		test{"pod start", s.podStart},
	)
	s.phase(t, "together", false,
		test{"unlabelled namespaces are untouched", s.unlabelled},
		test{"labelled pods are injected", s.labelled},
		test{"kinds of workload", s.workloads},
		test{"every protocol, two nodes", s.protocols},
		test{"real redis", s.redis},
		test{"strict and permissive", s.mutualTLS},
		test{"authorization", s.authorization},
		test{"open connections are cut", s.revocation},
		test{"splits: SMI examples", s.smiExamples},
		test{"splits: 90 to 10", s.splitAccuracy},
		test{"splits: weights change", s.splitChanges},
		test{"splits: edges", s.splitEdges},
		test{"zones and weights", s.zones},
		test{"admission of our kinds", s.admission},
		test{"admission of pods", s.podAdmission},
		test{"ways around a proxy", s.bypass},
		test{"enforced namespaces", s.enforcement},
		test{"tokens", s.tokens},
		test{"the webhook changes its certificate", s.webhookCertificate},
	)
	s.phase(t, "disruption", true,
		test{"bad input", s.badInput},
		test{"the operator is killed", s.killOperator},
		test{"an injector is killed", s.killInjector},
		test{"a proxy is killed", s.killProxy},
	)
	t.Run("on the wire", s.onTheWire)
	s.phase(t, "at rest", true,
		test{"private keys", s.privateKeys},
		test{"permissions", s.permissions},
	)
	t.Run("install, upgrade, uninstall", s.lifecycle)
}

type test struct {
	name string
	run  func(*testing.T)
}

// phase runs tests and waits for all of them; alone means one after the other.
func (s *suite) phase(t *testing.T, name string, alone bool, tests ...test) {
	t.Run(name, func(t *testing.T) {
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				if !alone {
					t.Parallel()
				}
				test.run(t)
			})
		}
	})
}

// answers fails the test unless a call from the place has the status and, for an answer of a proxy, the
// reason. It repeats the call until then: policies take a moment.
func answers(t *testing.T, from harness.Place, url string, status int, reason string, flags ...string) harness.Answer {
	t.Helper()
	var answer harness.Answer
	err := harness.Eventually(t.Context(), 10*time.Second, func(ctx context.Context) (err error) {
		answer, err = from.Call(ctx, url, flags...)
		if err == nil && (answer.Error != "" || answer.Status != status || (reason != "" && answer.Reason != reason)) {
			err = fmt.Errorf("%s", answer)
		}
		return err
	})
	if err != nil {
		t.Errorf("%s -> %s %v: want %d %s, have %v", from.Pod, url, flags, status, reason, err)
	}
	return answer
}

// unanswered fails the test unless a call from the place ends without an answer.
func unanswered(t *testing.T, from harness.Place, url string, flags ...string) {
	t.Helper()
	err := harness.Eventually(t.Context(), 10*time.Second, func(ctx context.Context) error {
		answer, err := from.Call(ctx, url, flags...)
		if err == nil && answer.Error == "" {
			err = fmt.Errorf("it was answered: %s", answer)
		}
		return err
	})
	if err != nil {
		t.Errorf("%s -> %s: want no answer: %v", from.Pod, url, err)
	}
}
