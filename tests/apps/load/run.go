package load

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// A Run is one load in progress or done.
type Run struct {
	options   Options
	driver    Driver
	start     time.Time
	claimed   atomic.Int64 // requests handed to workers
	arrivals  *arrivals    // nil: evenly spaced
	recorders []*recorder
	stop      context.CancelFunc
	done      chan struct{}
	seconds   float64 // valid once done is closed
}

// Start begins a load; the options must have passed Check.
func Start(ctx context.Context, options Options, driver Driver) *Run {
	// The deadline stops new requests; those under way end by themselves, within their own time-out.
	ctx, stop := context.WithTimeout(ctx, time.Duration(options.Duration))
	run := &Run{options: options, driver: driver, start: time.Now(), stop: stop, done: make(chan struct{})}
	if options.Poisson {
		run.arrivals = newArrivals(run.start, options.Rate)
	}
	var workers sync.WaitGroup
	for range options.Connections {
		shared := &line{driver: driver, streams: options.Streams}
		for range options.Streams {
			recorder := newRecorder(options.GroupBy)
			run.recorders = append(run.recorders, recorder)
			// claimed before the others begin, so that every connection is used
			first := run.claim()
			workers.Go(func() { run.work(ctx, shared, recorder, first) })
		}
	}
	go func() {
		workers.Wait()
		stop()
		run.seconds = time.Since(run.start).Seconds()
		close(run.done)
	}()
	return run
}

// Stop ends the load early.
func (r *Run) Stop() { r.stop() }

// Wait returns the final report.
func (r *Run) Wait() Report {
	<-r.done
	return r.Report()
}

// Done is closed when the last request has ended.
func (r *Run) Done() <-chan struct{} { return r.done }

// Report is what was counted so far.
func (r *Run) Report() Report {
	report := Report{StartUnixNano: r.start.UnixNano(), Statuses: map[string]Seen{}, Groups: map[string]map[string]int64{}, Errors: map[string]int64{}}
	select {
	case <-r.done:
		report.Seconds = r.seconds
	default:
		report.Running, report.Seconds = true, time.Since(r.start).Seconds()
	}
	var latency, good Histogram
	for _, recorder := range r.recorders {
		recorder.mergeInto(&report, &latency, &good)
	}
	report.Opened = r.driver.Opened()
	report.Latency, report.Good = latency.Latency(), good.Latency()
	if counted := report.Seconds - time.Duration(r.options.WarmUp).Seconds(); counted > 0 {
		report.PerSec = float64(report.Requests) / counted
	}
	return report
}

// work sends requests over one connection until the load is over.
func (r *Run) work(ctx context.Context, line *line, recorder *recorder, first int64) {
	defer line.hangUp()
	for index := first; ; index = r.claim() {
		due, ok := r.due(ctx, index)
		if !ok {
			return
		}
		done := r.send(ctx, line, due)
		since := due.Sub(r.start)
		if interval := time.Duration(r.options.Series); interval > 0 {
			recorder.note(int(since/interval), done.OK)
		}
		if since >= time.Duration(r.options.WarmUp) {
			recorder.record(done)
		}
		if done.Err != nil && !pause(ctx, errorPause) {
			return
		}
	}
}

// send makes a request, again at once when it failed and the options say so.
func (r *Run) send(ctx context.Context, line *line, due time.Time) result {
	done := result{due: due}
	for !done.OK && done.sent <= int64(r.options.Retries) {
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Duration(r.options.Timeout))
		done.Outcome = line.do(limit, r.options.Reconnect)
		cancel()
		done.sent++
	}
	done.end = time.Now()
	return done
}

// errorPause keeps a target that refuses connections from being asked in a tight loop.
const errorPause = 5 * time.Millisecond

// claim takes the next request, and gives its number.
func (r *Run) claim() int64 { return r.claimed.Add(1) - 1 }

// due waits until a request is due, which is now in a closed loop; false: it is not to be made.
func (r *Run) due(ctx context.Context, index int64) (time.Time, bool) {
	if ctx.Err() != nil || (r.options.Requests > 0 && index >= r.options.Requests) {
		return time.Time{}, false
	}
	if r.options.Rate == 0 {
		return time.Now(), true
	}
	var due time.Time
	if r.arrivals != nil {
		due = r.arrivals.take()
	} else {
		due = r.start.Add(time.Duration(float64(index) / r.options.Rate * float64(time.Second)))
	}
	return due, pause(ctx, time.Until(due))
}

// pause waits and says whether the load goes on.
func pause(ctx context.Context, wait time.Duration) bool {
	if wait <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// A line is a connection that is opened again when it broke; its streams share it.
type line struct {
	driver  Driver
	streams int

	mu      sync.Mutex
	session Session
}

func (l *line) do(ctx context.Context, reconnect bool) Outcome {
	session, err := l.current(ctx)
	if err != nil {
		return Outcome{Err: err}
	}
	outcome := session.Do(ctx)
	if outcome.Broken || reconnect {
		l.drop(session)
	}
	return outcome
}

func (l *line) current(ctx context.Context) (Session, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session == nil {
		session, err := l.driver.Open(ctx)
		if err != nil {
			return nil, err
		}
		l.session = session
	}
	return l.session, nil
}

func (l *line) drop(session Session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session == session {
		l.session = nil
		session.Close()
	}
}

// hangUp closes the connection when the last of its streams has ended.
func (l *line) hangUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.streams--; l.streams == 0 && l.session != nil {
		l.session.Close()
		l.session = nil
	}
}
