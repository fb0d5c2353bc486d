package echo

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
)

// Banner is what the server-first port says before it has read anything.
const Banner = "220 byrnie-echo ready\r\n"

// serveTCP echoes bytes; with a banner it says that first and then echoes lines.
func serveTCP(ctx context.Context, listener net.Listener, banner string) error {
	return untilDone(ctx, func() error {
		for {
			conn, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			if err != nil {
				return err
			}
			go func() {
				defer conn.Close()
				defer context.AfterFunc(ctx, func() { conn.Close() })()
				echoBytes(conn, banner)
			}()
		}
	}, func() { listener.Close() })
}

func echoBytes(conn net.Conn, banner string) {
	if banner == "" {
		io.Copy(conn, conn)
		return
	}
	if _, err := io.WriteString(conn, banner); err != nil {
		return
	}
	lines := bufio.NewReaderSize(conn, 64<<10)
	for {
		line, err := lines.ReadSlice('\n')
		if len(line) > 0 {
			if _, err := conn.Write(line); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
