// Package process holds the commands that are about a process's life rather than its traffic: when it
// started, that it waits, that it ends with a given code.
package process

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"byrnie.dev/apps/call"
	"byrnie.dev/apps/internal/exit"
)

// Timeline prints the time of its start, in nanoseconds since 1970, and waits for SIGTERM: the log's
// only line says when the app of a pod ran first.
func Timeline(ctx context.Context, _ []string) error {
	fmt.Println(time.Now().UnixNano())
	<-ctx.Done()
	return nil
}

// Sleep waits for a time, or for SIGTERM where none is given.
func Sleep(ctx context.Context, args []string) error {
	if len(args) == 0 {
		<-ctx.Done()
		return nil
	}
	wait, err := time.ParseDuration(args[0])
	if err != nil {
		return exit.With(exit.Usage, err)
	}
	return pause(ctx, wait)
}

// Job makes one HTTP call, waits and ends with a code. A call that fails decides the code itself.
func Job(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("job", flag.ContinueOnError)
	seconds := flags.Float64("seconds", 0, "how long to run after the call")
	code := flags.Int("exit-code", 0, "how to end")
	url := flags.String("url", "", "what to GET first; nothing where empty")
	if err := flags.Parse(args); err != nil {
		return exit.With(exit.Usage, err)
	}
	if *url != "" {
		if err := call.Main(ctx, []string{*url}); err != nil {
			return err
		}
	}
	if err := pause(ctx, time.Duration(*seconds*float64(time.Second))); err != nil {
		return err
	}
	if *code != 0 {
		return exit.With(*code, nil)
	}
	fmt.Fprintln(os.Stdout, "done")
	return nil
}

func pause(ctx context.Context, wait time.Duration) error {
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
