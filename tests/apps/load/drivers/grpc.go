package drivers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"byrnie.dev/apps/echopb"
	"byrnie.dev/apps/internal/whoami"
	"byrnie.dev/apps/load"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

type grpcDriver struct {
	load.CountingDialer
	options load.Options
	headers metadata.MD
	payload []byte
	call    func(*grpcSession, context.Context) (*echopb.EchoResponse, error)
}

var grpcCalls = map[string]func(*grpcSession, context.Context) (*echopb.EchoResponse, error){
	"unary": (*grpcSession).unary, "server": (*grpcSession).serverStream,
	"client": (*grpcSession).clientStream, "bidi": (*grpcSession).bidi,
}

func newGRPC(options load.Options) (load.Driver, error) {
	call, known := grpcCalls[options.Call]
	if !known {
		return nil, fmt.Errorf("gRPC call %q is none of unary, server, client, bidi", options.Call)
	}
	header, err := headersOf(options.Headers)
	if err != nil {
		return nil, err
	}
	headers := metadata.MD{}
	for name, values := range header {
		headers.Append(name, values...)
	}
	return &grpcDriver{options: options, headers: headers, payload: bytes.Repeat([]byte("x"), int(options.BodyBytes)), call: call}, nil
}

func (d *grpcDriver) Open(context.Context) (load.Session, error) {
	conn, err := grpc.NewClient("passthrough:///"+d.options.Target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return d.DialContext(ctx, "tcp", address)
		}),
		grpc.WithDisableServiceConfig(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: 5 * time.Second,
		}))
	if err != nil {
		return nil, err
	}
	return &grpcSession{driver: d, conn: conn, client: echopb.NewEchoClient(conn)}, nil
}

type grpcSession struct {
	driver *grpcDriver
	conn   *grpc.ClientConn
	client echopb.EchoClient
}

func (s *grpcSession) Close() { s.conn.Close() }

func (s *grpcSession) Do(ctx context.Context) load.Outcome {
	headers := s.driver.headers
	if limit := time.Duration(s.driver.options.Deadline); limit > 0 {
		headers = headers.Copy()
		headers.Set(load.DeadlineHeader, strconv.FormatInt(time.Now().Add(limit).UnixNano(), 10))
	}
	answer, err := s.driver.call(s, metadata.NewOutgoingContext(ctx, headers))
	if err != nil {
		return refusal(err)
	}
	header := http.Header{}
	header.Set(whoami.PodHeader, answer.GetPod())
	header.Set(whoami.VersionHeader, answer.GetVersion())
	header.Set("Echo-Client-Id", answer.GetClientId())
	return load.Outcome{Status: codes.OK.String(), OK: true, Header: header}
}

// refusal: a gRPC status is an answer; what is not one is an error, UNAVAILABLE and DEADLINE_EXCEEDED
// included, which gRPC also makes itself when there is no connection.
func refusal(err error) load.Outcome {
	code := status.Code(err)
	switch code {
	case codes.Unavailable, codes.Unknown, codes.DeadlineExceeded, codes.Internal:
		return load.Outcome{Err: fmt.Errorf("%s: %s", code, status.Convert(err).Message())}
	}
	return load.Outcome{Status: code.String(), Header: http.Header{}}
}

func (s *grpcSession) request() *echopb.EchoRequest {
	return &echopb.EchoRequest{Message: "load", Payload: s.driver.payload, Count: uint32(s.driver.options.Messages)}
}

func (s *grpcSession) unary(ctx context.Context) (*echopb.EchoResponse, error) {
	return s.client.Unary(ctx, s.request())
}

func (s *grpcSession) serverStream(ctx context.Context) (*echopb.EchoResponse, error) {
	stream, err := s.client.ServerStream(ctx, s.request())
	if err != nil {
		return nil, err
	}
	var last *echopb.EchoResponse
	for want := uint32(0); ; want++ {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return last, complete(want, s.driver.options.Messages)
		}
		if err != nil {
			return nil, err
		}
		if answer.GetIndex() != want {
			return nil, fmt.Errorf("message %d came where %d was due", answer.GetIndex(), want)
		}
		last = answer
	}
}

func (s *grpcSession) clientStream(ctx context.Context) (*echopb.EchoResponse, error) {
	stream, err := s.client.ClientStream(ctx)
	if err != nil {
		return nil, err
	}
	for range s.driver.options.Messages {
		if err := stream.Send(s.request()); err != nil {
			break // the cause is in the answer
		}
	}
	answer, err := stream.CloseAndRecv()
	if err != nil {
		return nil, err
	}
	return answer, complete(answer.GetReceived(), s.driver.options.Messages)
}

func (s *grpcSession) bidi(ctx context.Context) (*echopb.EchoResponse, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.client.Bidi(ctx)
	if err != nil {
		return nil, err
	}
	var last *echopb.EchoResponse
	for want := range uint32(s.driver.options.Messages) {
		if err := stream.Send(s.request()); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if last, err = stream.Recv(); err != nil {
			return nil, err
		}
		if last.GetIndex() != want {
			return nil, fmt.Errorf("message %d came where %d was due", last.GetIndex(), want)
		}
	}
	if err := stream.CloseSend(); err != nil {
		return nil, err
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("the stream did not end: %w", err)
	}
	return last, nil
}

func complete(got uint32, want int) error {
	if int(got) != want {
		return fmt.Errorf("%d messages of %d arrived", got, want)
	}
	return nil
}
