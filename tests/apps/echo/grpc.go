package echo

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"byrnie.dev/apps/echopb"
	"byrnie.dev/apps/internal/whoami"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// maxStreamed bounds the messages that one ServerStream call may ask for.
const maxStreamed = 1_000_000

func serveGRPC(ctx context.Context, listener net.Listener, id whoami.Identity, grace time.Duration) error {
	server := grpc.NewServer()
	echopb.RegisterEchoServer(server, &echoService{id: id})
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	return untilDone(ctx, func() error { return server.Serve(listener) }, func() {
		force := time.AfterFunc(grace, server.Stop)
		defer force.Stop()
		server.GracefulStop()
	})
}

type echoService struct {
	echopb.UnimplementedEchoServer
	id whoami.Identity
}

func (s *echoService) Unary(ctx context.Context, request *echopb.EchoRequest) (*echopb.EchoResponse, error) {
	return s.answer(ctx, request, 0, 1)
}

func (s *echoService) ServerStream(request *echopb.EchoRequest, stream grpc.ServerStreamingServer[echopb.EchoResponse]) error {
	if request.GetCount() > maxStreamed {
		return status.Errorf(codes.InvalidArgument, "count %d is above %d", request.GetCount(), maxStreamed)
	}
	pause := time.Duration(request.GetIntervalMs()) * time.Millisecond
	for index := range request.GetCount() {
		if index > 0 && pause > 0 {
			select {
			case <-time.After(pause):
			case <-stream.Context().Done():
				return stream.Context().Err()
			}
		}
		answer, err := s.answer(stream.Context(), request, index, 1)
		if err != nil {
			return err
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
	}
	return nil
}

func (s *echoService) ClientStream(stream grpc.ClientStreamingServer[echopb.EchoRequest, echopb.EchoResponse]) error {
	last := &echopb.EchoRequest{}
	for received := uint32(0); ; received++ {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			answer, err := s.answer(stream.Context(), last, 0, received)
			if err != nil {
				return err
			}
			return stream.SendAndClose(answer)
		}
		if err != nil {
			return err
		}
		last = request
	}
}

func (s *echoService) Bidi(stream grpc.BidiStreamingServer[echopb.EchoRequest, echopb.EchoResponse]) error {
	for index := uint32(0); ; index++ {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		answer, err := s.answer(stream.Context(), request, index, index+1)
		if err != nil {
			return err
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
	}
}

func (s *echoService) answer(ctx context.Context, request *echopb.EchoRequest, index, received uint32) (*echopb.EchoResponse, error) {
	if code := codes.Code(request.GetFailCode()); code != codes.OK {
		return nil, status.Error(code, "asked to fail")
	}
	answer := &echopb.EchoResponse{
		Message: request.GetMessage(), Payload: request.GetPayload(),
		Pod: s.id.Pod, Version: s.id.Version, Index: index, Received: received,
	}
	if caller := metadata.ValueFromIncomingContext(ctx, whoami.ClientIDHeader); len(caller) > 0 {
		answer.ClientId = caller[0]
	}
	return answer, nil
}
