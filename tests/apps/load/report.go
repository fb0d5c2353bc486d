package load

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"
)

// Report is what a load counted, final or so far.
type Report struct {
	Running  bool    `json:"running"`
	Seconds  float64 `json:"seconds"`
	Requests int64   `json:"requests"`
	OK       int64   `json:"ok"`
	// Statuses counts every request once: by the answer's status, or as "error".
	Statuses map[string]Seen             `json:"statuses"`
	Groups   map[string]map[string]int64 `json:"groups,omitempty"`
	// Errors counts requests without an answer, by cause.
	Errors  map[string]int64 `json:"errors,omitempty"`
	Opened  int64            `json:"connectionsOpened"`
	PerSec  float64          `json:"requestsPerSecond"`
	Latency Latency          `json:"latency"`
	// Good is the latency of the good answers alone.
	Good Latency `json:"goodLatency"`
	// Sent counts what went out: more than Requests where failed ones are sent again.
	Sent          int64 `json:"sent"`
	StartUnixNano int64 `json:"startUnixNano"`
	// Series has an entry for each interval since the start, where the options ask for them.
	Series []Interval `json:"series,omitempty"`
}

// Interval counts the requests that were due in it, and those of them that came back good, whenever they did.
type Interval struct {
	Due int64 `json:"due"`
	OK  int64 `json:"ok"`
}

// Seen says how often a status came, and when first and last (Unix time of the answer's end).
type Seen struct {
	Count         int64 `json:"count"`
	FirstUnixNano int64 `json:"firstUnixNano"`
	LastUnixNano  int64 `json:"lastUnixNano"`
}

// Latency of the requests that were answered, in milliseconds; from the time at which a request was
// due where a rate is given, so that a server that stalls cannot hide it.
type Latency struct {
	P50 float64 `json:"p50ms"`
	P90 float64 `json:"p90ms"`
	P99 float64 `json:"p99ms"`
	Top float64 `json:"p999ms"`
	Max float64 `json:"maxms"`
}

// Failed is how many requests did not come back with a good status.
func (r *Report) Failed() int64 { return r.Requests - r.OK }

// Count is how many requests came back with status.
func (r *Report) Count(status string) int64 { return r.Statuses[status].Count }

// WriteText prints the report for a person.
func (r *Report) WriteText(w io.Writer) {
	fmt.Fprintf(w, "%d requests in %.2f s (%.0f/s) on %d connections: %d ok, %d failed\n",
		r.Requests, r.Seconds, r.PerSec, r.Opened, r.OK, r.Failed())
	fmt.Fprintf(w, "latency ms: p50 %.2f  p90 %.2f  p99 %.2f  max %.2f\n", r.Latency.P50, r.Latency.P90, r.Latency.P99, r.Latency.Max)
	for _, status := range slices.Sorted(maps.Keys(r.Statuses)) {
		fmt.Fprintf(w, "status %s: %d\n", status, r.Statuses[status].Count)
	}
	for _, text := range slices.Sorted(maps.Keys(r.Errors)) {
		fmt.Fprintf(w, "error %q: %d\n", text, r.Errors[text])
	}
	for _, key := range slices.Sorted(maps.Keys(r.Groups)) {
		for _, value := range slices.Sorted(maps.Keys(r.Groups[key])) {
			fmt.Fprintf(w, "%s %s: %d\n", key, orNone(value), r.Groups[key][value])
		}
	}
}

// Latency is what the histogram holds, in few numbers.
func (h *Histogram) Latency() Latency {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	at := func(p float64) float64 { return ms(h.percentile(p)) }
	return Latency{P50: at(0.5), P90: at(0.9), P99: at(0.99), Top: at(0.999), Max: ms(h.max)}
}

func orNone(value string) string {
	if value == "" {
		return "(none)"
	}
	return value
}
