package drivers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"byrnie.dev/apps/load"
	"github.com/gorilla/websocket"
)

type webSocketDriver struct {
	load.CountingDialer
	options load.Options
	header  http.Header
	message []byte
}

func newWebSocket(options load.Options) (load.Driver, error) {
	header, err := headersOf(options.Headers)
	if err != nil {
		return nil, err
	}
	if options.Streams > 1 {
		return nil, errors.New("a WebSocket has no streams")
	}
	return &webSocketDriver{options: options, header: header, message: bytes.Repeat([]byte("x"), int(max(options.BodyBytes, 16)))}, nil
}

// Open connects and upgrades. An upgrade that is refused is an outcome, not an error: the session
// then answers the refusal.
func (d *webSocketDriver) Open(ctx context.Context) (load.Session, error) {
	dialer := websocket.Dialer{NetDialContext: d.DialContext}
	conn, response, err := dialer.DialContext(ctx, d.options.Target, d.header)
	if errors.Is(err, websocket.ErrBadHandshake) {
		return &refused{load.Outcome{Status: strconv.Itoa(response.StatusCode), Header: response.Header, Broken: true}}, nil
	}
	if err != nil {
		return nil, err
	}
	return &webSocketSession{driver: d, conn: conn, header: response.Header}, nil
}

type refused struct{ outcome load.Outcome }

func (r *refused) Do(context.Context) load.Outcome { return r.outcome }
func (r *refused) Close()                          {}

type webSocketSession struct {
	driver *webSocketDriver
	conn   *websocket.Conn
	header http.Header
}

func (s *webSocketSession) Close() { s.conn.Close() }

// Do sends the messages one by one, each after the echo of the one before.
func (s *webSocketSession) Do(ctx context.Context) load.Outcome {
	defer context.AfterFunc(ctx, func() { s.conn.Close() })()
	for range s.driver.options.Messages {
		if err := s.conn.WriteMessage(websocket.BinaryMessage, s.driver.message); err != nil {
			return s.broken(ctx, err)
		}
		_, echoed, err := s.conn.ReadMessage()
		if err != nil {
			return s.broken(ctx, err)
		}
		if !bytes.Equal(echoed, s.driver.message) {
			return s.broken(ctx, fmt.Errorf("%d bytes came back that are not those sent", len(echoed)))
		}
	}
	return load.Outcome{Status: "101", OK: true, Header: s.header}
}

func (s *webSocketSession) broken(ctx context.Context, err error) load.Outcome {
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return load.Outcome{Err: err, Broken: true}
}
