package chaos

import (
	"fmt"
	"testing"
	"time"

	"byrnie.dev/apps/load"
	"byrnie.dev/e2e/harness"
	corev1 "k8s.io/api/core/v1"
)

// fleet is twenty meshed pods, of which ten call the other ten in four protocols, 500 times a second.
type fleet struct {
	space   *harness.Space
	clients []corev1.Pod
}

const (
	servers = 10
	callers = 10
)

// calls are what one client each asks for, the last ones several.
var calls = []load.Options{
	{Kind: load.HTTP, Target: "http://server:8080/", Connections: 4},
	{Kind: load.HTTP, Target: "http://server:8081/", Connections: 4},
	{Kind: load.HTTP, Target: "http://server:8080/", Connections: 2, H2C: true, Streams: 4},
	{Kind: load.GRPC, Target: "server:9090", Connections: 2, Streams: 4, Call: "unary"},
	{Kind: load.GRPC, Target: "server:9090", Connections: 2, Call: "bidi"},
	{Kind: load.TCP, Target: "server:7070", Connections: 2, Reconnect: true},
	{Kind: load.HTTP, Target: "http://server:8080/", Connections: 4, Method: "POST", BodyBytes: 4096},
	{Kind: load.HTTP, Target: "http://server:8081/", Connections: 2, Reconnect: true},
	{Kind: load.HTTP, Target: "http://server:8080/", Connections: 2, H2C: true, Streams: 4},
	{Kind: load.GRPC, Target: "server:9090", Connections: 2, Streams: 4, Call: "unary"},
}

const rateOfCaller = 50

func (s *suite) newFleet(t *testing.T) *fleet {
	t.Helper()
	space := s.Space(t, "fleet", harness.Meshed)
	server := harness.App{Name: "server", Replicas: servers}
	client := harness.Client("client")
	client.Replicas = callers
	space.Deploy(server, client)
	space.Ready(server)
	return &fleet{space: space, clients: space.Ready(client)}
}

// traffic is what goes on during a disturbance.
type traffic struct {
	t     *testing.T
	kinds []load.Options
	runs  []*harness.Run
}

// traffic begins the fleet's calls.
func (s *suite) traffic(t *testing.T) *traffic {
	t.Helper()
	space := s.fleet.space.For(t)
	going := &traffic{t: t, kinds: calls}
	for i, pod := range s.fleet.clients {
		options := calls[i%len(calls)]
		options.Rate, options.Duration, options.GroupBy = rateOfCaller, load.Duration(30*time.Minute), []string{"reason"}
		going.runs = append(going.runs, space.In(pod).Start(options))
	}
	time.Sleep(time.Second)
	return going
}

// tally is what became of requests.
type tally struct{ requests, failed int64 }

func (sum tally) String() string {
	return fmt.Sprintf("%d of %d requests failed", sum.failed, sum.requests)
}

func (sum tally) plus(other tally) tally {
	return tally{sum.requests + other.requests, sum.failed + other.failed}
}

// stop ends it; the test fails unless every request came back well.
func (going *traffic) stop() tally {
	going.t.Helper()
	sum := going.count()
	if sum.failed > 0 || sum.requests == 0 {
		going.t.Error(sum)
	}
	return sum
}

func (going *traffic) count() (sum tally) {
	going.t.Helper()
	for i, run := range going.runs {
		report := run.Stop()
		sum = sum.plus(tally{report.Requests, report.Failed()})
		if report.Failed() > 0 || report.OK == 0 {
			kind := going.kinds[i%len(going.kinds)]
			going.t.Logf("%s %s %s%s (h2c %v): %d of %d failed: %+v %v %v", kind.Kind, kind.Target, kind.Method, kind.Call, kind.H2C,
				report.Failed(), report.Requests, report.Statuses, report.Errors, report.Groups["reason"])
		}
	}
	return sum
}
