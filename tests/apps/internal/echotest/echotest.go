// Package echotest starts an echo server on loopback for the other packages' tests.
package echotest

import (
	"context"
	"testing"
	"time"

	"byrnie.dev/apps/echo"
	"byrnie.dev/apps/internal/whoami"
)

// Start serves every protocol on ports of the kernel's choice until the test ends.
func Start(t *testing.T, version string) *echo.Server {
	t.Helper()
	any := "127.0.0.1:0"
	server, err := echo.Listen(echo.Addresses{HTTP: any, GRPC: any, TCP: any, ServerFirst: any, TLS: any},
		whoami.Identity{Pod: "pod-of-" + version, Service: "echo", Version: version}, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the server did not end well: %v", err)
		}
	})
	return server
}
