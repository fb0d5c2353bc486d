package harness

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// A bar is a figure that is measured and printed. It never fails a run: a machine with other work is slow.
type bar struct{ line string }

var bars struct {
	sync.Mutex
	all []bar
}

// Bar prints a measured value beside what it should be at most.
func Bar(t *testing.T, name string, value, most float64, unit string) {
	t.Helper()
	verdict := "met"
	if value > most {
		verdict = "missed"
	}
	line := fmt.Sprintf("BAR %s: %.4g %s (bar: <= %.4g %s, %s)", name, value, unit, most, unit, verdict)
	t.Log(line)
	bars.Lock()
	defer bars.Unlock()
	bars.all = append(bars.all, bar{line})
}

// PrintBars prints them all again, for the end of a run.
func PrintBars() {
	bars.Lock()
	defer bars.Unlock()
	for _, bar := range bars.all {
		fmt.Println(bar.line)
	}
}

// Median and worst of some durations; zero where there are none.
func Median(values []time.Duration) time.Duration {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// Milliseconds with their fraction.
func Milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
