// Package node is what a test must see and do on a node itself: packets on its bridge, a container's
// memory, a container's sudden death or sleep. Its pod shares the node's network and processes.
package node

import (
	"context"
	"errors"

	"byrnie.dev/apps/internal/exit"
)

// Main is the command `node`.
func Main(ctx context.Context, args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "capture":
			return captureMain(ctx, args[1:])
		case "memory":
			return memoryMain(args[1:])
		case "signal":
			return signalMain(args[1:])
		}
	}
	return exit.With(exit.Usage, errors.New("usage: node capture --find NAME=TEXT, node memory CONTAINER, node signal KILL|STOP|CONT CONTAINER"))
}
