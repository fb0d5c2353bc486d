package faulty

import (
	"sync"
	"time"

	"byrnie.dev/apps/load"
)

// Grace is what a busy machine may need to hand a request from one process to the next: one that is late by less
// was sent in time.
const Grace = 5 * time.Millisecond

// Counts is what a server did since its start, or since they were set to zero.
type Counts struct {
	Received     int64 `json:"received"`
	ReceivedLate int64 `json:"receivedLate"` // later than the load's deadline by more than Grace
	Started      int64 `json:"started"`      // given to a worker
	StartedLate  int64 `json:"startedLate"`
	Answered     int64 `json:"answered"`
	Failed       int64 `json:"failed"` // of the answered, those with a status from 500
	Cancelled    int64 `json:"cancelled"`
	// CancelledAfter is how long after the load's deadline the server learnt that a request was cancelled.
	CancelledAfter load.Latency `json:"cancelledAfter"`
}

type counter struct {
	mu     sync.Mutex
	counts Counts
	after  load.Histogram
}

func (c *counter) received(due time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts.Received++
	c.counts.ReceivedLate += late(due)
}

func (c *counter) started(due time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts.Started++
	c.counts.StartedLate += late(due)
}

func (c *counter) answered(status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts.Answered++
	if status >= 500 {
		c.counts.Failed++
	}
}

func (c *counter) cancelled(due time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts.Cancelled++
	if !due.IsZero() {
		c.after.Record(time.Since(due))
	}
}

func (c *counter) read() Counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	counts := c.counts
	counts.CancelledAfter = c.after.Latency()
	return counts
}

func (c *counter) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts, c.after = Counts{}, load.Histogram{}
}

func late(due time.Time) int64 {
	if !due.IsZero() && time.Since(due) > Grace {
		return 1
	}
	return 0
}
