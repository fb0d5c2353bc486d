package load

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
)

// A Driver opens connections to one target.
type Driver interface {
	// Open gives one connection, which may connect at its first request.
	Open(ctx context.Context) (Session, error)
	// Opened is how many transport connections were made so far.
	Opened() int64
}

// A Session is one connection, a pointer. Do is called concurrently only where the options ask for streams.
type Session interface {
	Do(ctx context.Context) Outcome
	Close()
}

// Outcome is what one request came to.
type Outcome struct {
	// Status as the protocol says it: "200", "OK", "PERMISSION_DENIED". Empty when Err is set.
	Status string
	OK     bool
	// Header of the answer, from which the groups are read.
	Header http.Header
	Err    error
	// Broken: the session cannot be used again.
	Broken bool
}

// CountingDialer dials TCP and counts.
type CountingDialer struct {
	opened atomic.Int64
	dialer net.Dialer
}

// DialContext has the shape that net/http and gorilla/websocket ask for.
func (d *CountingDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := d.dialer.DialContext(ctx, network, address)
	if err == nil {
		d.opened.Add(1)
	}
	return conn, err
}

// Opened is how many dials succeeded.
func (d *CountingDialer) Opened() int64 { return d.opened.Load() }
