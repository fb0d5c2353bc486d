// Package loadcmd is the command `load`: one load in the foreground, or an agent that runs loads on
// request.
package loadcmd

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"

	"byrnie.dev/apps/internal/exit"
	"byrnie.dev/apps/load"
	"byrnie.dev/apps/load/drivers"
)

const usage = "load http|tls|grpc|ws|tcp --url TARGET (--requests N | --duration T) ..., or load agent"

// Main is the command `load`. It ends with 1 when a request failed.
func Main(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return exit.With(exit.Usage, fmt.Errorf("usage: %s", usage))
	}
	if args[0] == "agent" {
		return agentMain(ctx, args[1:])
	}
	var (
		options = load.Options{Kind: args[0]}
		output  string
		flags   = flag.NewFlagSet("load "+args[0], flag.ContinueOnError)
	)
	options.Register(flags)
	flags.StringVar(&output, "output", "text", "text or json")
	if err := flags.Parse(args[1:]); err != nil {
		return exit.With(exit.Usage, err)
	}
	run, err := start(ctx, options)
	if err != nil {
		return exit.With(exit.Usage, err)
	}
	report := run.Wait()
	if output == "json" {
		encoder := json.NewEncoder(os.Stdout)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(report); err != nil {
			return err
		}
	} else {
		report.WriteText(os.Stdout)
	}
	if report.Failed() > 0 {
		return exit.With(1, nil)
	}
	return nil
}

func start(ctx context.Context, options load.Options) (*load.Run, error) {
	if err := options.Check(); err != nil {
		return nil, err
	}
	driver, err := drivers.New(options)
	if err != nil {
		return nil, err
	}
	return load.Start(ctx, options, driver), nil
}
