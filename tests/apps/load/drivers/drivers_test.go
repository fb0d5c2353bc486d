package drivers_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"byrnie.dev/apps/internal/echotest"
	"byrnie.dev/apps/load"
	"byrnie.dev/apps/load/drivers"
)

func run(t *testing.T, options load.Options) load.Report {
	t.Helper()
	if err := options.Check(); err != nil {
		t.Fatal(err)
	}
	driver, err := drivers.New(options)
	if err != nil {
		t.Fatal(err)
	}
	return load.Start(context.Background(), options, driver).Wait()
}

// Every kind of load reaches the server, keeps to its connections, and counts each request once.
func TestEveryKind(t *testing.T) {
	server := echotest.Start(t, "v1")
	base := "http://" + server.Addr("http")
	for name, options := range map[string]load.Options{
		"http":         {Kind: load.HTTP, Target: base},
		"http body":    {Kind: load.HTTP, Target: base + "/sink", BodyBytes: 10_000},
		"h2c":          {Kind: load.HTTP, Target: base, H2C: true, Streams: 4},
		"tls":          {Kind: load.TLS, Target: "https://" + server.Addr("tls")},
		"ws":           {Kind: load.WS, Target: "ws://" + server.Addr("http") + "/ws"},
		"tcp":          {Kind: load.TCP, Target: server.Addr("tcp"), Send: `PING\r\n`, Expect: "PING"},
		"server first": {Kind: load.TCP, Target: server.Addr("server-first"), Banner: "220 "},
		"grpc unary":   {Kind: load.GRPC, Target: server.Addr("grpc"), Call: "unary", Streams: 4},
		"grpc server":  {Kind: load.GRPC, Target: server.Addr("grpc"), Call: "server"},
		"grpc client":  {Kind: load.GRPC, Target: server.Addr("grpc"), Call: "client", BodyBytes: 1000},
		"grpc bidi":    {Kind: load.GRPC, Target: server.Addr("grpc"), Call: "bidi", Streams: 2},
	} {
		t.Run(name, func(t *testing.T) {
			options.Connections, options.Requests, options.GroupBy = 3, 200, []string{"version"}
			report := run(t, options)
			if report.Requests != 200 || report.OK != 200 || len(report.Errors) != 0 {
				t.Fatalf("%+v", report)
			}
			if report.Opened != 3 {
				t.Errorf("%d connections opened for 3", report.Opened)
			}
			if options.Kind != load.TCP && report.Groups["version"]["v1"] != 200 {
				t.Errorf("groups %v", report.Groups)
			}
			if report.Latency.P50 <= 0 || report.Latency.Max < report.Latency.P99 {
				t.Errorf("latency %+v", report.Latency)
			}
		})
	}
}

func TestReconnects(t *testing.T) {
	server := echotest.Start(t, "v1")
	for _, options := range []load.Options{
		{Kind: load.HTTP, Target: "http://" + server.Addr("http")}, {Kind: load.TCP, Target: server.Addr("tcp")},
	} {
		options.Requests, options.Reconnect = 20, true
		if report := run(t, options); report.Opened != 20 || report.OK != 20 {
			t.Errorf("%s: %+v", options.Kind, report)
		}
	}
}

func TestRefusalsAreCountedByStatusAndReason(t *testing.T) {
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("byrnie-reason", "no-rule-allows")
		w.WriteHeader(http.StatusForbidden)
	}))
	defer refusing.Close()
	before := time.Now().UnixNano()
	for _, options := range []load.Options{
		{Kind: load.HTTP, Target: refusing.URL},
		{Kind: load.WS, Target: strings.Replace(refusing.URL, "http", "ws", 1)},
	} {
		options.Requests, options.GroupBy = 10, []string{"reason"}
		report := run(t, options)
		if report.Count("403") != 10 || report.Failed() != 10 || report.Groups["reason"]["no-rule-allows"] != 10 {
			t.Errorf("%s: %+v", options.Kind, report)
		}
		if seen := report.Statuses["403"]; seen.FirstUnixNano < before || seen.LastUnixNano < seen.FirstUnixNano {
			t.Errorf("%s: times %+v", options.Kind, seen)
		}
	}
}

func TestErrorsAreCountedByCause(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := listener.Addr().String()
	listener.Close()
	for _, options := range []load.Options{
		{Kind: load.HTTP, Target: "http://" + closed}, {Kind: load.TCP, Target: closed},
		{Kind: load.GRPC, Target: closed, Call: "unary"}, {Kind: load.WS, Target: "ws://" + closed},
	} {
		options.Requests, options.Connections = 6, 2
		report := run(t, options)
		if report.Count(load.ErrorStatus) != 6 || len(report.Errors) != 1 || report.Opened != 0 {
			t.Errorf("%s: %+v", options.Kind, report)
		}
	}
	slow := load.Options{Kind: load.HTTP, Target: "http://" + echotest.Start(t, "v1").Addr("http") + "/?delay=1s",
		Requests: 1, Timeout: load.Duration(20 * time.Millisecond)}
	if report := run(t, slow); report.Errors["timed out"] != 1 {
		t.Errorf("%+v", report)
	}
}

func TestOpenLoopKeepsItsRateAndTellsStalls(t *testing.T) {
	target := "http://" + echotest.Start(t, "v1").Addr("http")
	report := run(t, load.Options{Kind: load.HTTP, Target: target, Connections: 4, Rate: 200, Duration: load.Duration(500 * time.Millisecond)})
	if report.Requests < 80 || report.Requests > 110 {
		t.Errorf("%d requests in half a second at 200/s", report.Requests)
	}
	// One connection of 20 ms answers serves 50/s; at 200/s the tenth request waits for nine others.
	stalled := run(t, load.Options{Kind: load.HTTP, Target: target + "/?delay=20ms", Rate: 200, Requests: 10})
	if stalled.Latency.Max < 100 {
		t.Errorf("the stall is hidden: %+v", stalled.Latency)
	}
}

func TestRefusesWhatIsUnboundedOrUnknown(t *testing.T) {
	for _, options := range []load.Options{
		{Kind: load.HTTP, Target: "http://x"},
		{Kind: load.HTTP, Requests: 1},
		{Kind: load.HTTP, Target: "http://x", Requests: 1, Connections: 1_000_000},
		{Kind: load.HTTP, Target: "http://x", Duration: load.Duration(time.Hour)},
		{Kind: load.HTTP, Target: "http://x", Requests: 1, GroupBy: []string{"weather"}},
		{Kind: load.HTTP, Target: "not a url", Requests: 1},
		{Kind: load.GRPC, Target: "x:1", Requests: 1, Call: "shout"},
		{Kind: "carrier pigeon", Target: "x", Requests: 1},
	} {
		err := options.Check()
		if err == nil {
			_, err = drivers.New(options)
		}
		if err == nil {
			t.Errorf("accepted %+v", options)
		}
	}
}

// Each connection goes to the next target, and what is due in the warm-up is sent and not counted.
func TestTargetsWarmUpAndSeries(t *testing.T) {
	var hits [2]atomic.Int64
	var urls []string
	for i := range hits {
		server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits[i].Add(1) }))
		t.Cleanup(server.Close)
		urls = append(urls, server.URL)
	}
	report := run(t, load.Options{
		Kind: load.HTTP, Target: strings.Join(urls, ","), Connections: 4, Requests: 100, Rate: 200, Poisson: true,
		WarmUp: load.Duration(200 * time.Millisecond), Series: load.Duration(100 * time.Millisecond),
	})
	if hits[0].Load()+hits[1].Load() != 100 || hits[0].Load() == 0 || hits[1].Load() == 0 {
		t.Errorf("hits %d and %d", hits[0].Load(), hits[1].Load())
	}
	var due, early int64
	for i, interval := range report.Series {
		due += interval.Due
		if i < 2 {
			early += interval.Due
		}
	}
	if due != 100 || early == 0 || report.Requests != 100-early || report.OK != report.Requests {
		t.Errorf("%d due, %d of them early, %d counted", due, early, report.Requests)
	}
}
