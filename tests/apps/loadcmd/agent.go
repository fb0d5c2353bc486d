package loadcmd

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"byrnie.dev/apps/load"
)

// maxRuns bounds what one agent keeps: a test pod needs a handful.
const maxRuns = 256

// Agent runs loads on request:
//
//	POST   /run      options as JSON -> {"id": 1}
//	GET    /run/ID   the counters so far; ?wait=1 waits for the end
//	DELETE /run/ID   stops it and answers the final counters
type Agent struct {
	ctx  context.Context // of the agent: its runs end with it
	mu   sync.Mutex
	runs []*load.Run // index is the id minus 1
}

// NewAgent makes an agent whose runs end with ctx.
func NewAgent(ctx context.Context) *Agent { return &Agent{ctx: ctx} }

// Handler is the agent's API.
func (a *Agent) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /run", a.create)
	mux.HandleFunc("GET /run/{id}", a.read)
	mux.HandleFunc("DELETE /run/{id}", a.stop)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	return mux
}

func (a *Agent) create(w http.ResponseWriter, r *http.Request) {
	var options load.Options
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&options); err != nil {
		http.Error(w, "options: "+err.Error(), http.StatusBadRequest)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.runs) >= maxRuns {
		http.Error(w, fmt.Sprintf("this agent has had its %d runs", maxRuns), http.StatusTooManyRequests)
		return
	}
	run, err := start(a.ctx, options)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	a.runs = append(a.runs, run)
	answer(w, map[string]int{"id": len(a.runs)})
}

func (a *Agent) read(w http.ResponseWriter, r *http.Request) {
	run := a.find(w, r)
	if run == nil {
		return
	}
	if r.URL.Query().Get("wait") == "1" {
		select {
		case <-run.Done():
		case <-r.Context().Done():
			return
		}
	}
	answer(w, run.Report())
}

func (a *Agent) stop(w http.ResponseWriter, r *http.Request) {
	if run := a.find(w, r); run != nil {
		run.Stop()
		answer(w, run.Wait())
	}
}

func (a *Agent) find(w http.ResponseWriter, r *http.Request) *load.Run {
	a.mu.Lock()
	defer a.mu.Unlock()
	id, err := strconv.Atoi(r.PathValue("id"))
	if err != nil || id < 1 || id > len(a.runs) {
		http.Error(w, "no such run", http.StatusNotFound)
		return nil
	}
	return a.runs[id-1]
}

func answer(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(value); err != nil {
		panic(http.ErrAbortHandler) // the reader is gone
	}
}

func agentMain(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("load agent", flag.ContinueOnError)
	address := flags.String("listen", "127.0.0.1:7999", "`address` of the control API; it starts traffic, so keep it inside the pod")
	if err := flags.Parse(args); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: NewAgent(ctx).Handler(), ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(listener); ctx.Err() == nil {
		return err
	}
	return nil
}
