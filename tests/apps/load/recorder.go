package load

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"byrnie.dev/apps/internal/whoami"
)

// ErrorStatus is the status under which requests are counted that got no answer.
const ErrorStatus = "error"

const (
	maxErrors = 32    // distinct error texts kept
	maxGroups = 1_000 // distinct values kept of each group
	overflow  = "(other)"
)

// A recorder belongs to one worker; its lock is contended only while somebody takes a snapshot.
type recorder struct {
	mu       sync.Mutex
	headers  []string // canonical header of each group, same order as keys
	keys     []string
	latency  Histogram // of every answer
	good     Histogram // of the good ones
	series   []Interval
	sent     int64
	statuses map[string]*Seen
	groups   map[string]map[string]int64
	errors   map[string]int64
	ok       int64
}

func newRecorder(groupBy []string) *recorder {
	r := &recorder{keys: groupBy, statuses: map[string]*Seen{}, groups: map[string]map[string]int64{}, errors: map[string]int64{}}
	for _, key := range groupBy {
		header, err := headerOfGroup(key)
		if err != nil {
			continue // Check has refused it before
		}
		r.headers = append(r.headers, header)
		r.groups[key] = map[string]int64{}
	}
	return r
}

// result is how a request ended that was due at some time and sent once or several times.
type result struct {
	Outcome
	due, end time.Time
	sent     int64
}

func (r *recorder) record(outcome result) {
	latency, at := outcome.end.Sub(outcome.due), outcome.end
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent += outcome.sent
	status := outcome.Status
	if outcome.Err != nil {
		status = ErrorStatus
		countBounded(r.errors, describe(outcome.Err), maxErrors)
	} else {
		r.latency.Record(latency)
		for i, key := range r.keys {
			countBounded(r.groups[key], outcome.Header.Get(r.headers[i]), maxGroups)
		}
	}
	if outcome.OK {
		r.ok++
		r.good.Record(latency)
	}
	seen := r.statuses[status]
	if seen == nil {
		seen = &Seen{FirstUnixNano: at.UnixNano()}
		r.statuses[status] = seen
	}
	seen.Count++
	seen.LastUnixNano = at.UnixNano()
}

// note counts a request in the interval in which it was due.
func (r *recorder) note(interval int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.series) <= interval {
		r.series = append(r.series, Interval{})
	}
	r.series[interval].Due++
	if ok {
		r.series[interval].OK++
	}
}

// mergeInto adds what this worker counted to a report.
func (r *recorder) mergeInto(report *Report, latency, good *Histogram) {
	r.mu.Lock()
	defer r.mu.Unlock()
	latency.merge(&r.latency)
	good.merge(&r.good)
	report.OK += r.ok
	report.Sent += r.sent
	for i, interval := range r.series {
		if i == len(report.Series) {
			report.Series = append(report.Series, Interval{})
		}
		report.Series[i].Due += interval.Due
		report.Series[i].OK += interval.OK
	}
	for status, seen := range r.statuses {
		report.Requests += seen.Count
		merged := report.Statuses[status]
		if merged.Count == 0 || seen.FirstUnixNano < merged.FirstUnixNano {
			merged.FirstUnixNano = seen.FirstUnixNano
		}
		merged.Count += seen.Count
		merged.LastUnixNano = max(merged.LastUnixNano, seen.LastUnixNano)
		report.Statuses[status] = merged
	}
	for key, values := range r.groups {
		if report.Groups[key] == nil {
			report.Groups[key] = map[string]int64{}
		}
		for value, count := range values {
			report.Groups[key][value] += count
		}
	}
	for text, count := range r.errors {
		report.Errors[text] += count
	}
}

func headerOfGroup(key string) (string, error) {
	switch key {
	case "version":
		return whoami.VersionHeader, nil
	case "pod":
		return whoami.PodHeader, nil
	case "clientId":
		return "Echo-Client-Id", nil
	case "reason":
		return whoami.ReasonHeader, nil
	}
	if name, ok := strings.CutPrefix(key, "header:"); ok && name != "" {
		return http.CanonicalHeaderKey(name), nil
	}
	return "", fmt.Errorf("group %q is none of version, pod, clientId, reason, header:NAME", key)
}

func countBounded(counts map[string]int64, key string, limit int) {
	if _, known := counts[key]; !known && len(counts) >= limit {
		key = overflow
	}
	counts[key]++
}
