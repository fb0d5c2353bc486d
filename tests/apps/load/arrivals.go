package load

import (
	"math/rand/v2"
	"sync"
	"time"
)

// arrivals come by chance, as those of many independent callers do: the gaps are exponential. The same
// in every run.
type arrivals struct {
	mu     sync.Mutex
	random *rand.Rand
	mean   float64 // of a gap, in nanoseconds
	next   time.Time
}

func newArrivals(start time.Time, rate float64) *arrivals {
	return &arrivals{random: rand.New(rand.NewPCG(1, 1)), mean: float64(time.Second) / rate, next: start}
}

func (a *arrivals) take() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.next = a.next.Add(time.Duration(a.random.ExpFloat64() * a.mean))
	return a.next
}
