package faulty

import (
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"byrnie.dev/apps/internal/whoami"
	"byrnie.dev/apps/load"
	"google.golang.org/grpc/codes"
)

// relays are patient and keep their connections: what a proxy does to them must not hide behind the client.
var relays = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 10_000, DisableCompression: true}}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	due := deadlineOf(r)
	s.count.received(due)
	w.Header().Set(whoami.PodHeader, s.name)
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		s.count.cancelled(due)
		return
	}
	status, err := s.answer(r.Context(), due)
	if err != nil {
		s.count.cancelled(due)
		return
	}
	s.count.answered(status)
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		writeGRPC(w, status)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	io.WriteString(w, body)
}

const body = "ok or not, as I was told\n"

// answer is the status, or an error when the caller went before there was one.
func (s *server) answer(ctx context.Context, due time.Time) (int, error) {
	behaviour, changed := s.current()
	for behaviour.Dead == Silent {
		select {
		case <-changed:
			behaviour, changed = s.current()
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	if behaviour.FailShare > 0 && rand.Float64() < behaviour.FailShare {
		return behaviour.FailStatus, nil
	}
	begin := func() { s.count.started(due) }
	if behaviour.Workers > 0 {
		if err := s.work.run(ctx, behaviour, begin); err != nil {
			return 0, err
		}
	} else {
		begin()
	}
	if behaviour.Delay > 0 {
		timer := time.NewTimer(time.Duration(behaviour.Delay))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	if behaviour.Relay != "" {
		return relay(ctx, behaviour)
	}
	return http.StatusOK, nil
}

// relay asks the next server. Nothing of the request is told on, as in most applications.
func relay(ctx context.Context, behaviour *Behaviour) (int, error) {
	status := http.StatusBadGateway
	for range 1 + behaviour.Attempts {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, behaviour.Relay, nil)
		if err != nil {
			return http.StatusInternalServerError, nil
		}
		response, err := relays.Do(request)
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if err != nil {
			continue
		}
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if status = response.StatusCode; status < 500 {
			break
		}
	}
	return status, nil
}

// writeGRPC answers a unary call with an empty message, whatever its type, or with a failure.
func writeGRPC(w http.ResponseWriter, status int) {
	w.Header().Set("Content-Type", "application/grpc")
	if status != http.StatusOK {
		w.Header().Set("Grpc-Status", strconv.Itoa(int(codes.Unavailable)))
		w.Header().Set("Grpc-Message", "as I was told")
		return
	}
	w.Header().Set("Trailer", "Grpc-Status")
	w.Write(make([]byte, 5))
	w.Header().Set("Grpc-Status", strconv.Itoa(int(codes.OK)))
}

// deadlineOf is when the answer is of no use to the load any more; zero when it did not say.
func deadlineOf(r *http.Request) time.Time {
	nanos, err := strconv.ParseInt(r.Header.Get(load.DeadlineHeader), 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(0, nanos)
}
