package faulty

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// A queue is the capacity of a server: so many workers, first come first served, without a bound. It is what
// an overloaded application looks like that does nothing about it.
type queue struct {
	mu        sync.Mutex
	behaviour *Behaviour
	waiting   []*job
	busy      int
}

// A job is one request's work.
type job struct {
	ctx   context.Context
	begin func()
	done  chan struct{}
}

// run waits for a worker and for its work. Where the caller goes meanwhile, the work stays.
func (q *queue) run(ctx context.Context, behaviour *Behaviour, begin func()) error {
	work := &job{ctx: ctx, begin: begin, done: make(chan struct{})}
	q.mu.Lock()
	if q.behaviour == nil {
		q.behaviour = behaviour
	}
	q.waiting = append(q.waiting, work)
	q.pump()
	q.mu.Unlock()
	select {
	case <-work.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// resize lets another number of workers work at another speed. What waits is served at once where there is no bound
// any more.
func (q *queue) resize(behaviour *Behaviour) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.behaviour = behaviour
	q.pump()
}

// pump gives work to all workers that are free. The lock is held.
func (q *queue) pump() {
	for len(q.waiting) > 0 && (q.busy < q.behaviour.Workers || q.behaviour.Workers == 0) {
		next := q.waiting[0]
		q.waiting = q.waiting[1:]
		if q.behaviour.Attentive && next.ctx.Err() != nil {
			continue
		}
		q.busy++
		next.begin()
		spread := 1 + q.behaviour.Spread*(2*rand.Float64()-1)
		time.AfterFunc(time.Duration(float64(q.behaviour.Service)*spread), func() {
			close(next.done)
			q.mu.Lock()
			defer q.mu.Unlock()
			q.busy--
			q.pump()
		})
	}
}
