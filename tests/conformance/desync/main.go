// Command desync sends generated HTTP/1 streams through the proxy to real servers, and looks for requests that one
// of them sees and the other does not.
//
// Three say what a stream was: the proxy (its access log), the server behind it (what it read, in its answers and in
// a journal), and a strict reader of RFC 9112 written for this test. A request in the journal that is not in the log
// was smuggled; an answer to something that the strict reader does not read was misunderstood by both.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"byrnie.dev/conformance/rig"
)

// batch is after how many streams journals are compared.
const batch = 10_000

type options struct {
	proxy    string
	through  string
	backends []string
	streams  int
	seed     uint64
	only     int
	at       int
	write    string
}

func main() {
	var o options
	names := ""
	flag.StringVar(&o.proxy, "proxy", "byrnie-proxy", "the proxy's binary")
	flag.StringVar(&o.through, "through", "proxy", "what stands before the backends: proxy, or nothing, which shows what the test finds then")
	flag.StringVar(&names, "backends", "nginx,haproxy,node,go", "servers, or broken, which knows no Transfer-Encoding")
	flag.IntVar(&o.streams, "streams", 1_000_000, "how many streams")
	flag.Uint64Var(&o.seed, "seed", 1, "another seed makes other streams")
	flag.IntVar(&o.only, "only", -1, "send only this stream, and print it")
	flag.DurationVar(&patience, "patience", patience, "with a proxy that neither answers nor ends the connection")
	flag.IntVar(&o.at, "at-a-time", 32, "streams at a time")
	flag.StringVar(&o.write, "write", "", "send nothing, write the streams into this directory, a byte before each, for a fuzzer")
	flag.Parse()
	o.backends = strings.Split(names, ",")
	do := run
	if o.write != "" {
		do = write
	}
	if err := do(o); err != nil {
		fmt.Fprintln(os.Stderr, "desync:", err)
		os.Exit(1)
	}
}

func write(o options) error {
	for number := range o.streams {
		stream := append([]byte{byte(number)}, generate(o.seed, number)...)
		if err := os.WriteFile(filepath.Join(o.write, fmt.Sprintf("stream-%d", number)), stream, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// run fails when anything was smuggled, misread or invented.
func run(o options) error {
	r, err := rig.New()
	if err != nil {
		return err
	}
	defer r.Close()
	t := &test{options: o, reports: map[string]int{}}
	t.journal.Store(newJournal())
	if err := t.start(r); err != nil {
		return err
	}
	begin := time.Now()
	if o.only >= 0 {
		fmt.Printf("%q\n%+v\n", generate(o.seed, o.only), strict(generate(o.seed, o.only)))
		t.batch(o.only, o.only+1)
	} else {
		for from := 0; from < o.streams && len(t.reports) < 20; from += batch {
			t.batch(from, min(o.streams, from+batch))
			if sent := t.sent.Load(); sent%(10*batch) == 0 && sent < int64(o.streams) {
				fmt.Printf("%d streams after %.0f s\n", sent, time.Since(begin).Seconds())
			}
		}
	}
	fmt.Printf("%d streams (seed %d) in %.0f s to %s: %d requests answered by backends, %d that a strict reader would admit were refused, %d smuggled or misread\n",
		t.sent.Load(), o.seed, time.Since(begin).Seconds(), strings.Join(o.backends, ", "), t.answered.Load(), t.withheld.Load(), len(t.reports))
	if t.answered.Load() < t.sent.Load()/2 {
		return errors.New("backends saw too little for the test to mean anything")
	}
	if dropped := t.dropped(); dropped != "" {
		return errors.New("the access log is not complete: " + dropped)
	}
	if len(t.reports) > 0 {
		return errors.New("proxy and backends do not agree")
	}
	return nil
}

type test struct {
	options
	journal                  atomic.Pointer[journal]
	doors                    []string
	admin                    string
	sent, answered, withheld atomic.Int64
	reporting                sync.Mutex
	reports                  map[string]int
}

// start runs the backends, and the proxy with two listeners for each: as the caller's, and as the server's.
func (t *test) start(r *rig.Rig) error {
	if err := rig.Certificates(r.Directory, "web"); err != nil {
		return err
	}
	saw := func(backend string, kind kind, one request) { t.journal.Load().saw(backend, kind, one) }
	var listeners, services, protocols strings.Builder
	for _, name := range t.backends {
		start, known := backends[name]
		if !known {
			return fmt.Errorf("there is no backend %q", name)
		}
		address, err := start(r, saw)
		if err != nil {
			return err
		}
		outbound, inbound := rig.Free(), rig.Free()
		fmt.Fprintf(&listeners, "- {direction: Outbound, listen: %q, service: \"desync/%s:80\"}\n", outbound, name)
		fmt.Fprintf(&listeners, "- {direction: Inbound, listen: %q, application: %q}\n", inbound, address)
		fmt.Fprintf(&services, "- {name: \"desync/%s:80\", protocol: HTTP1, endpoints: [{address: %q}]}\n", name, address)
		_, port, _ := net.SplitHostPort(address)
		fmt.Fprintf(&protocols, "{port: %s, protocol: HTTP1}, ", port)
		ports[port] = name
		if t.through == "nothing" {
			outbound, inbound = address, address
		}
		t.doors = append(t.doors, outbound, inbound)
	}
	if t.through == "nothing" {
		return nil
	}
	configuration := fmt.Sprintf("accessLog: all\nlisteners:\n%sservices:\n%sinbound: {mtls: {mode: Permissive}, protocols: [%s]}\n",
		&listeners, &services, strings.TrimSuffix(protocols.String(), ", "))
	var err error
	t.admin, err = r.Proxy(t.proxy, "web", configuration, each(func(text string) {
		var line logLine
		if err := json.Unmarshal([]byte(text), &line); err == nil && line.Method != "" {
			t.journal.Load().forwards(line)
		}
	}))
	return err
}

// ports are the backends' own, by which the log knows inbound requests.
var ports = map[string]string{}

// batch sends some streams, and compares what both sides have written when all of them have ended.
func (t *test) batch(from, to int) {
	t.journal.Store(newJournal())
	numbers := make(chan int)
	var workers sync.WaitGroup
	for range t.at {
		workers.Go(func() {
			for number := range numbers {
				t.stream(number)
			}
		})
	}
	for number := from; number < to; number++ {
		numbers <- number
	}
	close(numbers)
	workers.Wait()
	if t.through == "nothing" {
		return
	}
	// both write a little later
	var smuggled, invented []string
	for until := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		smuggled, invented = t.journal.Load().differences()
		if len(smuggled)+len(invented) == 0 || time.Now().After(until) {
			break
		}
	}
	for _, what := range smuggled {
		t.report(fmt.Sprintf("streams %d to %d", from, to-1), "smuggled past the proxy: "+what)
	}
	for _, what := range invented {
		t.report(fmt.Sprintf("streams %d to %d", from, to-1), "answered by a backend that did not see it: "+what)
	}
}

func (t *test) stream(number int) {
	stream := generate(t.seed, number)
	outcome := send(t.doors[number%len(t.doors)], stream, rand.New(rand.NewPCG(t.seed+1, uint64(number))))
	t.sent.Add(1)
	t.answered.Add(int64(outcome.answered))
	t.withheld.Add(int64(outcome.withheld))
	if outcome.wrong != "" {
		t.report(fmt.Sprintf("stream %d to %s", number, t.backends[number%len(t.doors)/2]), fmt.Sprintf("%s\n%q", outcome.wrong, stream))
	}
}

func (t *test) report(where, what string) {
	t.reporting.Lock()
	defer t.reporting.Unlock()
	if len(t.reports) < 20 {
		fmt.Printf("%s: %s\n  again: desync -seed %d -only N\n", where, what, t.seed)
	}
	t.reports[where+what]++
}

// dropped says how many lines the access log has lost.
func (t *test) dropped() string {
	if t.admin == "" {
		return ""
	}
	answer, err := http.Get("http://" + t.admin + "/metrics")
	if err != nil {
		return err.Error()
	}
	defer answer.Body.Close()
	metrics, err := io.ReadAll(answer.Body)
	if err != nil {
		return err.Error()
	}
	for line := range strings.Lines(string(metrics)) {
		if strings.HasPrefix(line, "byrnie_access_log_dropped_total ") && strings.TrimSpace(line) != "byrnie_access_log_dropped_total 0" {
			return line
		}
	}
	return ""
}
