package main

import (
	"fmt"
	"strings"
	"sync"
)

type kind int

const (
	complete kind = iota // with its whole body
	cut                  // its body did not end
	refused              // not understood, and answered so
)

// sight is something that a backend saw, or that the proxy says it forwarded.
type sight struct {
	backend, method, path string
	length                int
}

func (s sight) String() string {
	return fmt.Sprintf("%s: %s %s with a body of %d bytes", s.backend, s.method, s.path, s.length)
}

// journal compares what the proxy forwarded with what its backends saw, over one batch of streams.
type journal struct {
	sync.Mutex
	// seen and forwarded are multisets.
	seen, forwarded map[sight]int
	// begun were seen without the end of their body, or forwarded without an answer.
	begun, unanswered map[sight]int
	// refusals that backends gave, and requests that the proxy forwarded in vain.
	refusals, passed map[string]int
}

func newJournal() *journal {
	return &journal{
		seen: map[sight]int{}, forwarded: map[sight]int{}, begun: map[sight]int{}, unanswered: map[sight]int{},
		refusals: map[string]int{}, passed: map[string]int{},
	}
}

// saw takes a backend's word.
func (j *journal) saw(backend string, kind kind, one request) {
	j.Lock()
	defer j.Unlock()
	s := sight{backend, printable(one.method), printable(cutQuery(one.target)), one.length}
	switch kind {
	case complete:
		j.seen[s]++
	case cut:
		s.length = 0
		j.begun[s]++
	case refused:
		j.refusals[backend]++
	}
}

// forwards takes the proxy's word: its access log.
func (j *journal) forwards(line logLine) {
	j.Lock()
	defer j.Unlock()
	s := sight{line.backend(), shorten(line.Method), shorten(line.Path), line.Received}
	switch {
	case line.Reason == "" && line.Status == 200:
		j.forwarded[s]++
	case line.Method == "BYRNIE-REFUSE":
		// the guard's stand-in for what was refused at the door
	default:
		j.passed[s.backend]++
		j.unanswered[s]++
	}
}

// differences are requests that only one side knows. What was never answered may have been seen, or not.
func (j *journal) differences() (smuggled, invented []string) {
	j.Lock()
	defer j.Unlock()
	begun := map[sight]int{}
	for s, n := range j.unanswered {
		s.length = 0
		begun[s] += n
	}
	for s, n := range j.seen {
		spare := n - j.forwarded[s]
		if spare > j.unanswered[s] {
			smuggled = append(smuggled, s.String())
		} else if spare < 0 {
			invented = append(invented, s.String())
		}
	}
	for s := range j.forwarded {
		if j.seen[s] == 0 {
			invented = append(invented, s.String())
		}
	}
	for s, n := range j.begun {
		if n > begun[s] {
			smuggled = append(smuggled, s.String()+" (cut)")
		}
	}
	for backend, n := range j.refusals {
		if n > j.passed[backend] {
			smuggled = append(smuggled, fmt.Sprintf("%s: refused %d requests, of which the proxy knows %d", backend, n, j.passed[backend]))
		}
	}
	return smuggled, invented
}

// logLine is of the proxy's access log.
type logLine struct {
	Destination, Method, Path, Reason string
	Status, Received                  int
}

// backend is in the destination's name, whichever way the request went.
func (l logLine) backend() string {
	if name, known := ports[l.Destination]; known {
		return name
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(l.Destination, "desync/"), ":")
	return name
}

func cutQuery(target string) string {
	if end := strings.IndexAny(target, "?#"); end >= 0 {
		return target[:end]
	}
	return target
}

// printable is how the access log writes what came from outside.
func printable(text string) string {
	var out strings.Builder
	for _, b := range []byte(text) {
		if b >= 0x20 && b < 0x7f {
			out.WriteByte(b)
		} else {
			fmt.Fprintf(&out, "%%%02X", b)
		}
	}
	return shorten(out.String())
}

func shorten(text string) string { return text[:min(len(text), 400)] }
