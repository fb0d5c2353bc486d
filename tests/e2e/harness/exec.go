package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"byrnie.dev/apps/call"
	"byrnie.dev/apps/load"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
)

const binary = "/byrnie-apps"

// Place is a container in which commands of the test apps are run.
type Place struct {
	Space     *Space
	Pod       string
	Container string
}

// In is the app container of one of the space's pods.
func (s *Space) In(pod corev1.Pod) Place { return Place{Space: s, Pod: pod.Name, Container: "app"} }

// For is the same place for a subtest.
func (p Place) For(t *testing.T) Place {
	p.Space = p.Space.For(t)
	return p
}

// Exec runs a command of the test apps and answers what it printed and its exit code. The error is for
// what kept the command from running.
func (p Place) Exec(ctx context.Context, stdin io.Reader, args ...string) (stdout, stderr string, code int, err error) {
	request := p.Space.Kube.CoreV1().RESTClient().Post().Resource("pods").Namespace(p.Space.Name).Name(p.Pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{
			Container: p.Container, Command: append([]string{binary}, args...), Stdin: stdin != nil, Stdout: true, Stderr: true,
		}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(p.Space.Config, http.MethodGet, request.URL().String())
	if err != nil {
		return "", "", 0, err
	}
	var out, errOut bytes.Buffer
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: stdin, Stdout: &out, Stderr: &errOut})
	var ended utilexec.CodeExitError
	if errors.As(err, &ended) {
		code, err = ended.Code, nil
	}
	if err != nil {
		err = fmt.Errorf("run %v in %s/%s: %w", args, p.Space.Name, p.Pod, err)
	}
	return out.String(), errOut.String(), code, err
}

// Answer is what a call came to: a status, or why there is none.
type Answer struct {
	call.Answer
	Reason string // byrnie-reason, "" for an answer of the app's own
}

func (a Answer) String() string {
	if a.Error != "" {
		return "no answer: " + a.Error
	}
	if a.Reason != "" {
		return fmt.Sprintf("%d (%s)", a.Status, a.Reason)
	}
	return fmt.Sprint(a.Status)
}

// Call makes one HTTP request from the pod. Further arguments are flags of the command `call`.
func (p Place) Call(ctx context.Context, url string, flags ...string) (Answer, error) {
	stdout, stderr, _, err := p.Exec(ctx, nil, append(append([]string{"call", "--json", "--timeout", "8s"}, flags...), url)...)
	if err != nil {
		return Answer{}, err
	}
	var answer Answer
	if err := json.Unmarshal([]byte(stdout), &answer.Answer); err != nil {
		return answer, fmt.Errorf("call %s printed %q and %q: %w", url, stdout, stderr, err)
	}
	answer.Reason = answer.Header.Get(ReasonHeader)
	return answer, nil
}

// Load runs a load from the pod and waits for its end.
func (p Place) Load(options load.Options) load.Report {
	p.Space.T.Helper()
	return p.Start(options).Wait()
}

// A Run is a load in a pod whose app is a Client.
type Run struct {
	place Place
	id    int
}

// Start begins a load.
func (p Place) Start(options load.Options) *Run {
	p.Space.T.Helper()
	body, err := json.Marshal(options)
	if err != nil {
		p.Space.T.Fatal(err)
	}
	var created struct {
		ID int `json:"id"`
	}
	p.agent(time.Minute, bytes.NewReader(body), &created, "--body-stdin", "http://127.0.0.1:7999/run")
	return &Run{place: p, id: created.ID}
}

// Read answers the counters so far.
func (r *Run) Read() load.Report { return r.report(time.Minute, "GET", "") }

// Wait answers the counters at the end.
func (r *Run) Wait() load.Report { return r.report(10*time.Minute, "GET", "?wait=1") }

// Stop ends the load and answers its counters.
func (r *Run) Stop() load.Report { return r.report(time.Minute, "DELETE", "") }

func (r *Run) report(limit time.Duration, method, query string) load.Report {
	r.place.Space.T.Helper()
	var report load.Report
	r.place.agent(limit, nil, &report, "--method", method, "--timeout", limit.String(), fmt.Sprintf("http://127.0.0.1:7999/run/%d%s", r.id, query))
	return report
}

func (p Place) agent(limit time.Duration, stdin io.Reader, into any, args ...string) {
	p.Space.T.Helper()
	ctx, cancel := context.WithTimeout(p.Space.T.Context(), limit)
	defer cancel()
	stdout, stderr, code, err := p.Exec(ctx, stdin, append([]string{"call", "--body-only"}, args...)...)
	if err == nil && code != 0 {
		err = fmt.Errorf("the agent answered %s %s", strings.TrimSpace(stdout), stderr)
	}
	if err == nil {
		err = json.Unmarshal([]byte(stdout), into)
	}
	if err != nil {
		p.Space.T.Fatalf("load in %s/%s: %v", p.Space.Name, p.Pod, err)
	}
}
