// Command byrnie-apps is every program that a pod of the demo, the tests and the benches runs, in one
// static binary: an image of it needs nothing else.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"byrnie.dev/apps/attack"
	"byrnie.dev/apps/call"
	"byrnie.dev/apps/echo"
	"byrnie.dev/apps/faulty"
	"byrnie.dev/apps/internal/exit"
	"byrnie.dev/apps/issue"
	"byrnie.dev/apps/loadcmd"
	"byrnie.dev/apps/node"
	"byrnie.dev/apps/process"
	"byrnie.dev/apps/shop"
	"byrnie.dev/apps/udp"
)

var commands = []struct {
	name, does string
	run        func(context.Context, []string) error
}{
	{"echo", "answer what was received, over every protocol", echo.Main},
	{"faulty", "servers that are slow, fail, die and recover as they are told", faulty.Main},
	{"shop", "a small shop of three services: web, catalog, payments", shop.Main},
	{"call", "make one HTTP request and print the answer", call.Main},
	{"load", "make many requests and count what came back", loadcmd.Main},
	{"attack", "send what no good client sends", attack.Main},
	{"node", "look at a node's packets and memory, kill a container: for tests", node.Main},
	{"timeline", "print the time of the start and wait", process.Timeline},
	{"sleep", "wait", process.Sleep},
	{"udp", "echo datagrams, or ask whether they are", udp.Main},
	{"as", "run one of these commands as another user", process.As},
	{"issue", "ask the mesh's operator for a certificate, with any token", issue.Main},
	{"job", "make one call, run for a while, end with a code", process.Job},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Args[1:])
	stop()
	var asked *exit.Error
	if err != nil && !(errors.As(err, &asked) && asked.Err == nil) && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "byrnie-apps:", err)
	}
	os.Exit(exit.CodeOf(err))
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 {
		for _, command := range commands {
			if command.name == args[0] {
				return command.run(ctx, args[1:])
			}
		}
	}
	for _, command := range commands {
		fmt.Fprintf(os.Stderr, "  %-10s %s\n", command.name, command.does)
	}
	return exit.With(exit.Usage, errors.New("name one of the commands above"))
}
