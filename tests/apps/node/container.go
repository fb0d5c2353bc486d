package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"byrnie.dev/apps/internal/exit"
)

// Memory of a container's processes, in bytes.
type Memory struct {
	Processes int   `json:"processes"`
	Resident  int64 `json:"resident"`
	Anonymous int64 `json:"anonymous"`
}

// minimumID keeps a short text from matching somebody else's processes.
const minimumID = 32

// processesOf finds a container's processes by its id in their cgroup paths.
func processesOf(proc, container string) ([]int, error) {
	if len(container) < minimumID {
		return nil, fmt.Errorf("container id %q is not whole", container)
	}
	files, err := filepath.Glob(filepath.Join(proc, "[0-9]*", "cgroup"))
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, file := range files {
		groups, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(groups, []byte(container)) {
			continue // gone, or another's
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
			pids = append(pids, pid)
		}
	}
	if len(pids) == 0 {
		return nil, fmt.Errorf("no process of container %s on this node", container)
	}
	return pids, nil
}

func memoryOf(proc string, pids []int) (Memory, error) {
	total := Memory{Processes: len(pids)}
	for _, pid := range pids {
		status, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "status"))
		if err != nil {
			return Memory{}, err
		}
		for line := range strings.Lines(string(status)) {
			var size int64
			if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &size); err == nil {
				total.Resident += size << 10
			}
			if _, err := fmt.Sscanf(line, "RssAnon: %d kB", &size); err == nil {
				total.Anonymous += size << 10
			}
		}
	}
	return total, nil
}

func memoryMain(args []string) error {
	if len(args) != 1 {
		return exit.With(exit.Usage, errors.New("usage: node memory CONTAINER"))
	}
	pids, err := processesOf("/proc", args[0])
	if err != nil {
		return err
	}
	memory, err := memoryOf("/proc", pids)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(memory)
}

// signals that a container gets for a test: an end, a sleep, and what ends the sleep.
var signals = map[string]syscall.Signal{"KILL": syscall.SIGKILL, "STOP": syscall.SIGSTOP, "CONT": syscall.SIGCONT}

func signalMain(args []string) error {
	if len(args) != 2 || signals[args[0]] == 0 {
		return exit.With(exit.Usage, errors.New("usage: node signal KILL|STOP|CONT CONTAINER"))
	}
	pids, err := processesOf("/proc", args[1])
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, signals[args[0]]); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("%s to %d: %w", args[0], pid, err)
		}
	}
	fmt.Printf("%s to %d\n", args[0], len(pids))
	return nil
}
