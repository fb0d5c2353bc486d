package attack

import (
	"context"
	"net"
	"testing"
	"time"

	"byrnie.dev/apps/internal/echotest"
)

func attackOnEcho(t *testing.T, name string, options Options) Result {
	t.Helper()
	options.Addr, options.Host = echotest.Start(t, "v1").Addr("http"), "victim"
	result, err := Run(context.Background(), name, options)
	if err != nil {
		t.Fatal(err)
	}
	if result.Opened != int64(options.Connections) || result.Failed != 0 || result.Closed+result.StillOpen != result.Opened {
		t.Fatalf("%+v", result)
	}
	return result
}

func TestSlowHoldsItsConnections(t *testing.T) {
	result := attackOnEcho(t, "slow", Options{Connections: 40, Duration: 1500 * time.Millisecond, Mode: "mix"})
	if result.StillOpen != 40 {
		t.Errorf("a server that waits 30 s for headers closed early: %+v", result)
	}
}

func TestGarbageGetsErrorsOrSilence(t *testing.T) {
	result := attackOnEcho(t, "garbage", Options{Connections: 48, Duration: time.Second})
	if result.Answers["400"] == 0 {
		t.Errorf("nothing was refused: %+v", result)
	}
}

func TestBigHeadersAreRefused(t *testing.T) {
	result := attackOnEcho(t, "big-headers", Options{Connections: 4, Duration: 5 * time.Second, HeaderKiB: 4096})
	if result.Answers["200"] != 0 || result.Closed != 4 {
		t.Errorf("%+v", result)
	}
}

func TestCountsWhatCannotConnect(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := listener.Addr().String()
	listener.Close()
	result, err := Run(context.Background(), "slow", Options{Addr: closed, Connections: 3, Duration: time.Second, Mode: "idle"})
	if err != nil || result.Failed != 3 {
		t.Errorf("%+v, %v", result, err)
	}
}

func TestRefusesWhatIsUnboundedOrUnknown(t *testing.T) {
	for name, options := range map[string]Options{
		"slow":        {Addr: "127.0.0.1:1", Connections: 1, Mode: "sideways"},
		"garbage":     {Addr: "127.0.0.1:1", Connections: 1_000_000},
		"big-headers": {Connections: 1},
		"sniper":      {Addr: "127.0.0.1:1", Connections: 1},
	} {
		if _, err := Run(context.Background(), name, options); err == nil {
			t.Errorf("accepted %s %+v", name, options)
		}
	}
}
