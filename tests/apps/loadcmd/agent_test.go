package loadcmd_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"byrnie.dev/apps/internal/echotest"
	"byrnie.dev/apps/load"
	"byrnie.dev/apps/loadcmd"
)

func call[T any](t *testing.T, method, url, body string, want int) T {
	t.Helper()
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != want {
		t.Fatalf("%s %s: status %d, want %d", method, url, response.StatusCode, want)
	}
	var value T
	if want == http.StatusOK {
		if err := json.NewDecoder(response.Body).Decode(&value); err != nil {
			t.Fatal(err)
		}
	}
	return value
}

func TestAgentRunsReadsAndStops(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	agent := httptest.NewServer(loadcmd.NewAgent(ctx).Handler())
	defer agent.Close()
	options := fmt.Sprintf(`{"kind":"http","target":"http://%s","duration":"30s","rate":200}`, echotest.Start(t, "v1").Addr("http"))
	id := call[map[string]int](t, "POST", agent.URL+"/run", options, http.StatusOK)["id"]
	run := fmt.Sprintf("%s/run/%d", agent.URL, id)

	deadline := time.Now().Add(5 * time.Second)
	for call[load.Report](t, "GET", run, "", http.StatusOK).OK < 10 {
		if time.Now().After(deadline) {
			t.Fatal("no request within 5 s")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if report := call[load.Report](t, "GET", run, "", http.StatusOK); !report.Running {
		t.Error("ended early")
	}
	report := call[load.Report](t, "DELETE", run, "", http.StatusOK)
	if report.Running || report.Failed() != 0 || report.Seconds > 10 {
		t.Errorf("%+v", report)
	}
	if again := call[load.Report](t, "GET", run+"?wait=1", "", http.StatusOK); again.Requests != report.Requests {
		t.Errorf("%d requests, then %d", report.Requests, again.Requests)
	}
	call[load.Report](t, "GET", agent.URL+"/run/7", "", http.StatusNotFound)
	call[load.Report](t, "POST", agent.URL+"/run", `{"kind":"http","target":"http://x","requests":1,"speed":9}`, http.StatusBadRequest)
	call[load.Report](t, "POST", agent.URL+"/run", `{"kind":"http","target":"http://x"}`, http.StatusBadRequest)
}
