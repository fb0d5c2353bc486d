// Package attack is the client that no server wants: slow, malformed, oversized. It writes raw bytes,
// so that what it sends is what it says.
package attack

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"byrnie.dev/apps/internal/exit"
)

// Options bound an attack.
type Options struct {
	Addr        string
	Host        string // in the Host header
	Connections int
	Duration    time.Duration
	Mode        string // of slow
	HeaderKiB   int    // of big-headers
}

const (
	maxConnections = 10_000
	maxDuration    = 10 * time.Minute
)

// Result counts how the connections ended.
type Result struct {
	Connections int64            `json:"connections"` // that were asked for
	Opened      int64            `json:"opened"`
	Failed      int64            `json:"connectFailed"`
	StillOpen   int64            `json:"openAtTheEnd"` // the server let them be
	Closed      int64            `json:"closedByServer"`
	Answers     map[string]int64 `json:"answers"` // status line's code, "none" where nothing came
}

// An attacker sends on one open connection until ctx ends or the server closes, and returns what the
// server answered.
type attacker func(ctx context.Context, conn net.Conn, index int) (answer string, closed bool)

// Main is the command `attack`.
func Main(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return exit.With(exit.Usage, errors.New("usage: attack slow|garbage|big-headers --addr HOST:PORT"))
	}
	var options Options
	flags := flag.NewFlagSet("attack "+args[0], flag.ContinueOnError)
	flags.StringVar(&options.Addr, "addr", "", "`host:port`")
	flags.StringVar(&options.Host, "host", "victim", "Host header")
	flags.IntVar(&options.Connections, "connections", 100, "at the same time")
	flags.DurationVar(&options.Duration, "duration", 10*time.Second, "how long")
	flags.StringVar(&options.Mode, "mode", "mix", "slow: idle, headers, body, read or mix")
	flags.IntVar(&options.HeaderKiB, "kib", 1024, "big-headers: size of the header block")
	if err := flags.Parse(args[1:]); err != nil {
		return exit.With(exit.Usage, err)
	}
	result, err := Run(ctx, args[0], options)
	if err != nil {
		return exit.With(exit.Usage, err)
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(result)
}

// Run attacks and counts.
func Run(ctx context.Context, name string, options Options) (Result, error) {
	attack, err := attackerOf(name, options)
	if err != nil {
		return Result{}, err
	}
	if options.Addr == "" || options.Connections < 1 || options.Connections > maxConnections || options.Duration > maxDuration {
		return Result{}, fmt.Errorf("give --addr, 1..%d connections and at most %s", maxConnections, maxDuration)
	}
	ctx, cancel := context.WithTimeout(ctx, options.Duration)
	defer cancel()
	var (
		all                               sync.WaitGroup
		opened, failed, stillOpen, closed atomic.Int64
		mu                                sync.Mutex
		answers                           = map[string]int64{}
	)
	dialing := make(chan struct{}, 64) // a listen queue is finite: open steadily
	for index := range options.Connections {
		all.Go(func() {
			dialing <- struct{}{}
			conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", options.Addr)
			<-dialing
			if err != nil {
				failed.Add(1)
				return
			}
			defer conn.Close()
			opened.Add(1)
			answer, gone := attack(ctx, conn, index)
			if gone {
				closed.Add(1)
			} else {
				stillOpen.Add(1)
			}
			mu.Lock()
			answers[answer]++
			mu.Unlock()
		})
	}
	all.Wait()
	return Result{
		Connections: int64(options.Connections), Opened: opened.Load(), Failed: failed.Load(),
		StillOpen: stillOpen.Load(), Closed: closed.Load(), Answers: answers,
	}, nil
}

func attackerOf(name string, options Options) (attacker, error) {
	switch name {
	case "slow":
		return slow(options)
	case "garbage":
		return garbage(options), nil
	case "big-headers":
		return bigHeaders(options), nil
	}
	return nil, fmt.Errorf("attack %q is none of slow, garbage, big-headers", name)
}

// listen waits for what the server says until it closes or ctx ends.
func listen(ctx context.Context, conn net.Conn) (answer string, closed bool) {
	defer context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Now()) })()
	head := make([]byte, 0, 64)
	buffer := make([]byte, 4<<10)
	for {
		n, err := conn.Read(buffer)
		head = append(head, buffer[:min(n, cap(head)-len(head))]...)
		if err != nil {
			return codeOf(head), !errors.Is(err, os.ErrDeadlineExceeded)
		}
	}
}

// codeOf is the status code in the first bytes of an answer.
func codeOf(head []byte) string {
	if len(head) == 0 {
		return "none"
	}
	if rest, ok := strings.CutPrefix(string(head), "HTTP/1."); ok && len(rest) >= 5 {
		return rest[2:5]
	}
	return "other"
}

// trickle writes one piece each second until ctx ends or the server closes; it listens meanwhile.
func trickle(ctx context.Context, conn net.Conn, first string, piece func(i int) string) (answer string, closed bool) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var writer sync.WaitGroup
	writer.Go(func() {
		if _, err := io.WriteString(conn, first); err != nil {
			return
		}
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if _, err := io.WriteString(conn, piece(i)); err != nil {
					return
				}
			}
		}
	})
	answer, closed = listen(ctx, conn)
	stop()
	conn.Close()
	writer.Wait()
	return answer, closed
}
