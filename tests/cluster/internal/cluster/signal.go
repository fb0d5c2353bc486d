package cluster

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"byrnie.dev/cluster/internal/layout"

	"golang.org/x/sys/unix"
)

// Signal sends a signal to a component of node i, to see what becomes of the rest: KILL, and it is started again after a
// second; STOP, and it answers nobody until CONT.
func Signal(c layout.Cluster, i int, name, signal string) error {
	if err := requireRoot(); err != nil {
		return err
	}
	number := unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(signal), "SIG"))
	if number == 0 {
		return fmt.Errorf("there is no signal %s: write for example KILL, STOP or CONT", signal)
	}
	node, err := findNode(c, i)
	if err != nil {
		return err
	}
	running := components(node)
	at := slices.IndexFunc(running, func(part component) bool { return part.name == name })
	if at < 0 {
		var names []string
		for _, part := range running {
			names = append(names, part.name)
		}
		return fmt.Errorf("no %s runs on %s: there are %s", name, c.NodeName(i), strings.Join(names, ", "))
	}
	fd, err := unix.PidfdOpen(running[at].pid, 0)
	if err != nil {
		return fmt.Errorf("%s has just ended: %w", name, err)
	}
	defer unix.Close(fd)
	// the descriptor stays with this process, whatever becomes of its number: look again before shooting
	if !slices.Contains(components(node), running[at]) {
		return fmt.Errorf("%s has just ended", name)
	}
	if err := unix.PidfdSendSignal(fd, number, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal %s to %s: %w", signal, name, err)
	}
	return nil
}
