package process

import (
	"context"
	"testing"
	"time"

	"byrnie.dev/apps/internal/echotest"
	"byrnie.dev/apps/internal/exit"
)

func TestJobEndsAsAsked(t *testing.T) {
	base := "http://" + echotest.Start(t, "v1").Addr("http")
	for _, c := range []struct {
		args []string
		code int
	}{
		{[]string{"--url", base}, 0},
		{[]string{"--url", base, "--exit-code", "3"}, 3},
		{[]string{"--url", base + "/?status=403"}, exit.HTTPRefused},
		{[]string{"--seconds", "0.02"}, 0},
	} {
		if code := exit.CodeOf(Job(context.Background(), c.args)); code != c.code {
			t.Errorf("%v: code %d, want %d", c.args, code, c.code)
		}
	}
}

func TestWaitersEndWithTheirContext(t *testing.T) {
	for name, wait := range map[string]func(context.Context, []string) error{"timeline": Timeline, "sleep": Sleep} {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
		start := time.Now()
		if err := wait(ctx, nil); err != nil || time.Since(start) < 30*time.Millisecond {
			t.Errorf("%s: %v after %s", name, err, time.Since(start))
		}
		cancel()
	}
}
