// Package faulty is servers that are slow, fail, are overloaded, die and recover as they are told while
// they run, and that count what they did. Who is right about a request, a proxy or its neighbour, is
// decided by these counts.
package faulty

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"

	"byrnie.dev/apps/internal/exit"
)

// Main is the command `faulty`.
func Main(ctx context.Context, args []string) error {
	var (
		fleet   = Fleet{}
		control string
		flags   = flag.NewFlagSet("faulty", flag.ContinueOnError)
	)
	flags.Func("server", "`name=address` of a server (HTTP/1.1, h2c, gRPC); repeatable, and several with commas between them", func(list string) error {
		for _, pair := range strings.Split(list, ",") {
			name, address, ok := strings.Cut(pair, "=")
			if !ok || name == "" || fleet[name] != nil {
				return fmt.Errorf("%q is not name=address with a name of its own", pair)
			}
			fleet[name] = newServer(name, address)
		}
		return nil
	})
	flags.StringVar(&control, "control", "127.0.0.1:7998", "`address` that takes behaviours and tells counts")
	if err := flags.Parse(args); err != nil {
		return exit.With(exit.Usage, err)
	}
	if len(fleet) == 0 {
		return exit.With(exit.Usage, errors.New("no server: give --server"))
	}
	for _, server := range fleet {
		if err := server.open(); err != nil {
			return err
		}
		defer server.close()
	}
	listener, err := net.Listen("tcp", control)
	if err != nil {
		return fmt.Errorf("listen for control: %w", err)
	}
	told := &http.Server{Handler: fleet}
	go func() {
		<-ctx.Done()
		told.Close()
	}()
	if err := told.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// A server is one application: a socket that can be closed and opened again, and what it does.
type server struct {
	name, address string
	work          queue
	count         counter

	mu        sync.Mutex
	behaviour *Behaviour
	changed   chan struct{} // closed when the behaviour is another one
	http      *http.Server  // nil while it refuses connections
}

func newServer(name, address string) *server {
	return &server{name: name, address: address, behaviour: &Behaviour{}, changed: make(chan struct{})}
}

// open listens; a server that is open already stays as it is.
func (s *server) open() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.http != nil {
		return nil
	}
	listener, err := net.Listen("tcp", s.address)
	if err != nil {
		return fmt.Errorf("listen for %s: %w", s.name, err)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s.http = &http.Server{Handler: s, Protocols: protocols}
	go s.http.Serve(listener)
	return nil
}

// close ends the socket and all connections, as a process that dies does.
func (s *server) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.http != nil {
		s.http.Close()
		s.http = nil
	}
}

// current is the behaviour in force, and what is closed when it ends.
func (s *server) current() (*Behaviour, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.behaviour, s.changed
}

// become changes the behaviour; requests under way keep to theirs, those in the queue to the new one.
func (s *server) become(behaviour *Behaviour) error {
	s.mu.Lock()
	s.behaviour = behaviour
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	s.work.resize(behaviour)
	if behaviour.Dead == Refuses {
		s.close()
		return nil
	}
	return s.open()
}
