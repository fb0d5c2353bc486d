package drivers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"

	"byrnie.dev/apps/load"
)

type tcpDriver struct {
	load.CountingDialer
	target               string
	send, expect, banner []byte
}

func newTCP(options load.Options) (load.Driver, error) {
	if options.Streams > 1 {
		return nil, errors.New("a TCP connection has no streams")
	}
	driver := &tcpDriver{target: options.Target}
	for _, text := range []struct {
		raw string
		to  *[]byte
	}{{options.Send, &driver.send}, {options.Expect, &driver.expect}, {options.Banner, &driver.banner}} {
		bytes, err := unescape(text.raw)
		if err != nil {
			return nil, err
		}
		*text.to = bytes
	}
	if len(driver.expect) == 0 {
		driver.expect = driver.send
	}
	return driver, nil
}

// Open connects and, where the server speaks first, waits for its banner.
func (d *tcpDriver) Open(ctx context.Context) (load.Session, error) {
	conn, err := d.DialContext(ctx, "tcp", d.target)
	if err != nil {
		return nil, err
	}
	session := &tcpSession{driver: d, conn: conn}
	if err := session.read(ctx, d.banner); err != nil {
		conn.Close()
		return nil, fmt.Errorf("banner: %w", err)
	}
	return session, nil
}

type tcpSession struct {
	driver *tcpDriver
	conn   net.Conn
}

func (s *tcpSession) Close() { s.conn.Close() }

func (s *tcpSession) Do(ctx context.Context) load.Outcome {
	if deadline, ok := ctx.Deadline(); ok {
		if err := s.conn.SetDeadline(deadline); err != nil {
			return load.Outcome{Err: err, Broken: true}
		}
	}
	if _, err := s.conn.Write(s.driver.send); err != nil {
		return load.Outcome{Err: err, Broken: true}
	}
	if err := s.read(ctx, s.driver.expect); err != nil {
		return load.Outcome{Err: err, Broken: true}
	}
	return load.Outcome{Status: "answered", OK: true}
}

// read takes what must come; where the answer is only known by its start, what follows at once on the
// same line goes too.
func (s *tcpSession) read(ctx context.Context, expect []byte) error {
	if len(expect) == 0 {
		return nil
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := s.conn.SetReadDeadline(deadline); err != nil {
			return err
		}
	}
	got := make([]byte, len(expect))
	if _, err := io.ReadFull(s.conn, got); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			return errors.New("closed by the server before it answered")
		}
		return err
	}
	if string(got) != string(expect) {
		return fmt.Errorf("answered %q, not %q", got, expect)
	}
	if expect[len(expect)-1] == '\n' {
		return nil
	}
	return s.skipLine()
}

const maxLine = 4 << 10

// skipLine reads to the end of the line, so that the next answer starts where it should.
func (s *tcpSession) skipLine() error {
	var letter [1]byte
	for range maxLine {
		if _, err := io.ReadFull(s.conn, letter[:]); err != nil {
			return err
		}
		if letter[0] == '\n' {
			return nil
		}
	}
	return fmt.Errorf("no end of line within %d bytes", maxLine)
}

func unescape(text string) ([]byte, error) {
	plain, err := strconv.Unquote(`"` + text + `"`)
	if err != nil {
		return nil, fmt.Errorf("%q is not text with Go escapes: %w", text, err)
	}
	return []byte(plain), nil
}
