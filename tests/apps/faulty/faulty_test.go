package faulty

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"byrnie.dev/apps/load"
	"byrnie.dev/apps/load/drivers"
)

// start runs servers on free ports, and gives the fleet and where each is.
func start(t *testing.T, names ...string) (Fleet, map[string]string) {
	t.Helper()
	fleet, at := Fleet{}, map[string]string{}
	for _, name := range names {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		at[name] = listener.Addr().String()
		listener.Close()
		fleet[name] = newServer(name, at[name])
		if err := fleet[name].open(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(fleet[name].close)
	}
	return fleet, at
}

// tell sends behaviours to the control endpoint and returns its status.
func tell(t *testing.T, fleet Fleet, behaviours string) int {
	t.Helper()
	answer := httptest.NewRecorder()
	fleet.ServeHTTP(answer, httptest.NewRequest(http.MethodPut, "/", strings.NewReader(behaviours)))
	return answer.Code
}

func counts(t *testing.T, fleet Fleet, name string) Counts {
	t.Helper()
	answer := httptest.NewRecorder()
	fleet.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/", nil))
	all := map[string]Counts{}
	if err := json.NewDecoder(bytes.NewReader(answer.Body.Bytes())).Decode(&all); err != nil {
		t.Fatal(err)
	}
	return all[name]
}

func send(t *testing.T, options load.Options) load.Report {
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

func TestWorkersAreTheCapacity(t *testing.T) {
	fleet, at := start(t, "a")
	if code := tell(t, fleet, `{"a": {"workers": 2, "service": "20ms"}}`); code != http.StatusOK {
		t.Fatal(code)
	}
	report := send(t, load.Options{Kind: load.HTTP, Target: "http://" + at["a"], Connections: 10, Requests: 40})
	// 40 requests, two at a time: 400 ms at least, however fast the machine is
	if report.OK != 40 || report.Seconds < 0.38 || report.Latency.P50 < 80 {
		t.Fatalf("%+v", report)
	}
	if got := counts(t, fleet, "a"); got.Received != 40 || got.Started != 40 || got.Answered != 40 {
		t.Fatalf("%+v", got)
	}
}

// What is served for nobody any more takes a worker's time, unless the application looks.
func TestWorkForCallersThatAreGone(t *testing.T) {
	for behaviour, late := range map[string]int64{
		`{"a": {"workers": 1, "service": "50ms"}}`:                    9,
		`{"a": {"workers": 1, "service": "50ms", "attentive": true}}`: 0,
	} {
		fleet, at := start(t, "a")
		tell(t, fleet, behaviour)
		report := send(t, load.Options{
			Kind: load.HTTP, Target: "http://" + at["a"], Connections: 10, Requests: 10,
			Timeout: load.Duration(30 * time.Millisecond), Deadline: load.Duration(30 * time.Millisecond),
		})
		if report.OK != 0 {
			t.Fatalf("%+v", report)
		}
		waitFor(t, func() bool { return counts(t, fleet, "a").Cancelled == 10 })
		waitFor(t, func() bool {
			fleet["a"].work.mu.Lock()
			defer fleet["a"].work.mu.Unlock()
			return fleet["a"].work.busy == 0 && len(fleet["a"].work.waiting) == 0
		})
		if got := counts(t, fleet, "a"); got.StartedLate != late || got.ReceivedLate != 0 {
			t.Errorf("%s: %+v", behaviour, got)
		}
	}
}

func TestItFailsAndDiesAsItIsTold(t *testing.T) {
	fleet, at := start(t, "a", "b")
	one := func(name string) load.Report {
		return send(t, load.Options{Kind: load.HTTP, Target: "http://" + at[name], Requests: 1, Timeout: load.Duration(100 * time.Millisecond)})
	}
	tell(t, fleet, `{"a": {"failShare": 1, "failStatus": 503}, "*": {"dead": "refuses"}}`)
	if report := one("a"); report.Count("503") != 1 {
		t.Errorf("%+v", report)
	}
	if report := one("b"); !strings.Contains(first(report.Errors), "refused") {
		t.Errorf("%+v", report)
	}
	tell(t, fleet, `{"b": {"dead": "silent"}}`)
	if report := one("b"); first(report.Errors) != "timed out" {
		t.Errorf("%+v", report)
	}
	tell(t, fleet, `{"*": {}}`)
	if a, b := one("a"), one("b"); a.OK != 1 || b.OK != 1 {
		t.Errorf("%+v %+v", a, b)
	}
}

func TestItRelaysAndSpeaksGRPC(t *testing.T) {
	fleet, at := start(t, "front", "back")
	tell(t, fleet, `{"front": {"relay": "http://`+at["back"]+`/", "attempts": 3}, "back": {"failShare": 1}}`)
	report := send(t, load.Options{Kind: load.HTTP, Target: "http://" + at["front"], Requests: 2, Retries: 1})
	if got := counts(t, fleet, "back"); report.Count("500") != 2 || report.Sent != 4 || got.Received != 16 {
		t.Errorf("%+v, %+v", report, got)
	}
	tell(t, fleet, `{"*": {}}`)
	if report := send(t, load.Options{Kind: load.GRPC, Target: at["back"], Requests: 5}); report.Count("OK") != 5 {
		t.Errorf("%+v", report)
	}
}

func TestMistakesAreRefused(t *testing.T) {
	fleet, _ := start(t, "a")
	for _, wrong := range []string{
		`{"b": {}}`, `{"a": {"failShare": 2}}`, `{"a": {"workers": 1}}`, `{"a": {"dead": "maybe"}}`, `{"a": {"sped": 1}}`, `{"a": null}`, `{"a": {"relay": "there"}}`,
	} {
		if code := tell(t, fleet, wrong); code != http.StatusBadRequest {
			t.Errorf("%s: %d", wrong, code)
		}
	}
}

func first(errs map[string]int64) string {
	for text := range errs {
		return text
	}
	return ""
}

func waitFor(t *testing.T, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not come to that")
		}
	}
}
