// Package udp is the command `udp`: an echo over datagrams, which a mesh does not carry.
package udp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"byrnie.dev/apps/internal/exit"
)

// Main is the command `udp`. `ask` ends with 0 when the answer came, 7 when none did within two seconds.
func Main(ctx context.Context, args []string) error {
	if len(args) == 2 && args[0] == "listen" {
		return listen(ctx, args[1])
	}
	if len(args) == 2 && args[0] == "ask" {
		return ask(ctx, args[1])
	}
	return exit.With(exit.Usage, errors.New("usage: udp listen ADDRESS | udp ask HOST:PORT"))
}

func listen(ctx context.Context, address string) error {
	socket, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { socket.Close() })()
	buffer := make([]byte, 1500)
	for {
		n, from, err := socket.ReadFrom(buffer)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err == nil {
			_, err = socket.WriteTo(buffer[:n], from)
		}
		if err != nil {
			return err
		}
	}
}

func ask(ctx context.Context, address string) error {
	socket, err := (&net.Dialer{}).DialContext(ctx, "udp", address)
	if err != nil {
		return err
	}
	defer socket.Close()
	buffer := make([]byte, 16)
	for range 4 { // a datagram may get lost
		if _, err = socket.Write([]byte("anybody there?")); err == nil {
			socket.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
			_, err = socket.Read(buffer)
		}
		if err == nil {
			return nil
		}
		if errors.Is(err, syscall.ECONNREFUSED) { // at once: give it the time, too
			time.Sleep(100 * time.Millisecond)
		}
	}
	return exit.With(exit.NotReached, fmt.Errorf("no answer from %s: %w", address, err))
}
