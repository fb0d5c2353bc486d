// Package echo is the server that answers what it received, over every protocol that a mesh carries:
// HTTP/1.1 and h2c on one port, WebSocket, gRPC, client-first and server-first TCP, and its own TLS.
package echo

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"byrnie.dev/apps/internal/whoami"
)

// Addresses says where each protocol is served; an empty one is not.
type Addresses struct {
	HTTP, GRPC, TCP, ServerFirst, TLS string
}

// Server has its sockets open already: a caller that has one may connect.
type Server struct {
	listeners map[string]net.Listener
	serve     map[string]func(context.Context, net.Listener) error
	grace     time.Duration
}

// Listen opens the sockets. grace is how long calls in flight may take once the server is told to stop.
func Listen(at Addresses, id whoami.Identity, grace time.Duration) (*Server, error) {
	server := &Server{listeners: map[string]net.Listener{}, grace: grace}
	handler := Handler(id)
	server.serve = map[string]func(context.Context, net.Listener) error{
		"http":         func(ctx context.Context, l net.Listener) error { return serveHTTP(ctx, l, handler, nil, grace) },
		"tls":          func(ctx context.Context, l net.Listener) error { return serveTLS(ctx, l, handler, grace) },
		"grpc":         func(ctx context.Context, l net.Listener) error { return serveGRPC(ctx, l, id, grace) },
		"tcp":          func(ctx context.Context, l net.Listener) error { return serveTCP(ctx, l, "") },
		"server-first": func(ctx context.Context, l net.Listener) error { return serveTCP(ctx, l, Banner) },
	}
	addresses := map[string]string{"http": at.HTTP, "tls": at.TLS, "grpc": at.GRPC, "tcp": at.TCP, "server-first": at.ServerFirst}
	for protocol, address := range addresses {
		if address == "" {
			continue
		}
		listener, err := net.Listen("tcp", address)
		if err != nil {
			server.close()
			return nil, fmt.Errorf("listen for %s on %s: %w", protocol, address, err)
		}
		server.listeners[protocol] = listener
	}
	return server, nil
}

// Addr is where protocol (http, tls, grpc, tcp or server-first) is served.
func (s *Server) Addr(protocol string) string { return s.listeners[protocol].Addr().String() }

// Serve answers until ctx ends or a listener fails.
func (s *Server) Serve(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var (
		all    sync.WaitGroup
		failed = make(chan error, len(s.listeners))
	)
	for protocol, listener := range s.listeners {
		all.Go(func() {
			defer stop()
			if err := s.serve[protocol](ctx, listener); err != nil {
				failed <- fmt.Errorf("serve %s: %w", protocol, err)
			}
		})
	}
	all.Wait()
	close(failed)
	return errors.Join(drain(failed)...)
}

// Main is the command `echo`.
func Main(ctx context.Context, args []string) error {
	var (
		at    Addresses
		grace time.Duration
		flags = flag.NewFlagSet("echo", flag.ContinueOnError)
	)
	flags.StringVar(&at.HTTP, "http", ":8080", "HTTP/1.1 and h2c `address`, empty for none")
	flags.StringVar(&at.GRPC, "grpc", ":9090", "gRPC `address`, empty for none")
	flags.StringVar(&at.TCP, "tcp", ":7070", "client-first TCP `address`, empty for none")
	flags.StringVar(&at.ServerFirst, "server-first", ":7071", "server-first TCP `address`, empty for none")
	flags.StringVar(&at.TLS, "tls", ":8443", "`address` with TLS of the app's own, empty for none")
	flags.DurationVar(&grace, "grace", 5*time.Second, "how long calls in flight may take after SIGTERM")
	if err := flags.Parse(args); err != nil {
		return err
	}
	server, err := Listen(at, whoami.Me(), grace)
	if err != nil {
		return err
	}
	return server.Serve(ctx)
}

func (s *Server) close() {
	for _, listener := range s.listeners {
		listener.Close()
	}
}

func serveHTTP(ctx context.Context, listener net.Listener, handler http.Handler, protocols *http.Protocols, grace time.Duration) error {
	if protocols == nil {
		protocols = new(http.Protocols)
		protocols.SetHTTP1(true)
		protocols.SetUnencryptedHTTP2(true)
	}
	server := &http.Server{Handler: handler, Protocols: protocols, ReadHeaderTimeout: 30 * time.Second}
	return untilDone(ctx, func() error { return server.Serve(listener) }, func() {
		limit, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		if server.Shutdown(limit) != nil {
			server.Close()
		}
	})
}

// untilDone runs serve until it fails or ctx ends; then stop must make it return.
func untilDone(ctx context.Context, serve func() error, stop func()) error {
	ended := make(chan error, 1)
	go func() { ended <- serve() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		stop()
		<-ended
		return nil
	}
}

func drain(errs <-chan error) []error {
	var all []error
	for err := range errs {
		all = append(all, err)
	}
	return all
}
