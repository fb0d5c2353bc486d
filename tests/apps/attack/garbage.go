package attack

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"strings"
)

// garbage sends, in turn, what is not quite HTTP, what is not quite TLS, and noise. The noise is seeded
// by the connection's number: a run can be repeated.
func garbage(options Options) attacker {
	host := "\r\nHost: " + options.Host + "\r\n"
	requests := []string{
		"\r\n\r\n\r\n\r\n",
		"GET\r\n\r\n",
		"GET / HTTP/9.9" + host + "\r\n",
		"GET  /  HTTP/1.1" + host + "\r\n",
		"GET / HTTP/1.1\r\n\r\n",
		"GET / HTTP/1.1" + host + "Host: other\r\n\r\n",
		"GET / HTTP/1.1" + host + "bad header\r\n\r\n",
		"GET / HTTP/1.1" + host + "x : space before colon\r\n\r\n",
		"GET / HTTP/1.1" + host + "x: nul\x00byte\r\n\r\n",
		"GET / HTTP/1.1" + host + " folded: line\r\n\r\n",
		"GET /\x7f\xff HTTP/1.1" + host + "\r\n",
		"GET /a/../../etc/passwd HTTP/1.1" + host + "\r\n",
		"POST / HTTP/1.1" + host + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"POST / HTTP/1.1" + host + "Content-Length: -1\r\n\r\n",
		"POST / HTTP/1.1" + host + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
		"POST / HTTP/1.1" + host + "Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
		"POST / HTTP/1.1" + host + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
		"CONNECT victim:22 HTTP/1.1" + host + "\r\n",
		strings.Repeat("A", 100_000),
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\xff\xff\xff\x09\xff\xff\xff\xff\xff",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + strings.Repeat("\x00\x00\x00\x04\x00\x00\x00\x00\x01", 50),
		"\x16\x03\x01\xff\xff" + strings.Repeat("\x01", 200),
		"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03",
	}
	return func(ctx context.Context, conn net.Conn, index int) (string, bool) {
		kind := index % (len(requests) + 1)
		deadline, _ := ctx.Deadline()
		conn.SetWriteDeadline(deadline)
		if kind < len(requests) {
			io.WriteString(conn, requests[kind])
		} else {
			random := rand.NewChaCha8([32]byte{byte(index), byte(index >> 8)})
			io.CopyN(conn, random, 64<<10)
		}
		return listen(ctx, conn)
	}
}
