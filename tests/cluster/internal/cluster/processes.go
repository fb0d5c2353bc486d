package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"byrnie.dev/cluster/internal/layout"

	"golang.org/x/sys/unix"
)

// A node is one process of ours in namespaces of its own, and is process 1 there: when it goes, the kernel ends
// everything in the node and takes away its mounts and interfaces. A node is recognised by its command line, never by
// a process id that was written down and may by now belong to somebody else.

func nodeArguments(c layout.Cluster, i int) []string {
	return []string{"byrnie-cluster", "node", "--dir", c.Dir, "--index", strconv.Itoa(i)}
}

// startedNode is a node that waits for its network.
type startedNode struct {
	pid     int
	release *os.File
}

// startNode starts node i, which waits until its network is there and release is closed.
func startNode(c layout.Cluster, i int) (startedNode, error) {
	if err := os.MkdirAll(filepath.Dir(c.Log(i, "node")), 0o755); err != nil {
		return startedNode{}, err
	}
	log, err := os.OpenFile(c.Log(i, "node"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return startedNode{}, err
	}
	defer log.Close()
	wait, release, err := os.Pipe()
	if err != nil {
		return startedNode{}, err
	}
	defer wait.Close()
	executable, err := os.Executable()
	if err != nil {
		return startedNode{}, err
	}
	cmd := &exec.Cmd{
		Path: executable, Args: nodeArguments(c, i), Dir: "/", Env: os.Environ(),
		Stdin: wait, Stdout: log, Stderr: log,
		SysProcAttr: &syscall.SysProcAttr{
			Setsid:     true,
			Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET,
		},
	}
	if err := cmd.Start(); err != nil {
		release.Close()
		return startedNode{}, fmt.Errorf("starting node %d: %w", i, err)
	}
	pid := cmd.Process.Pid
	go cmd.Wait() // so that a node that fails at once does not stay as a zombie
	return startedNode{pid: pid, release: release}, nil
}

// findNodes returns the process ids of the cluster's nodes, by their index from 1.
func findNodes(c layout.Cluster) (map[int]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	found := map[int]int{}
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil {
			if i := nodeIndex(c, pid); i > 0 {
				found[i] = pid
			}
		}
	}
	return found, nil
}

// findNode returns the process id of node i.
func findNode(c layout.Cluster, i int) (int, error) {
	nodes, err := findNodes(c)
	if err != nil {
		return 0, err
	}
	pid, ok := nodes[i]
	if !ok {
		return 0, fmt.Errorf("node %d of the cluster %s is not running: `byrnie-cluster up --name %s` starts the cluster", i, c.Name, c.Name)
	}
	return pid, nil
}

// nodeIndex says which node of the cluster a process is, or 0.
func nodeIndex(c layout.Cluster, pid int) int {
	line := commandLine(pid)
	if len(line) != 6 {
		return 0
	}
	i, err := strconv.Atoi(line[5])
	if err != nil || !slices.Equal(line, nodeArguments(c, i)) {
		return 0
	}
	return i
}

func commandLine(pid int) []string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil
	}
	return strings.Split(string(bytes.TrimSuffix(data, []byte{0})), "\x00")
}

// component is a process in a node.
type component struct {
	pid  int
	name string
}

// components lists what runs in a node besides its pods: the children of the node's process 1.
func components(node int) []component {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var found []component
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || parent(pid) != node {
			continue
		}
		if line := commandLine(pid); len(line) > 0 && !strings.Contains(line[0], "shim") {
			found = append(found, component{pid: pid, name: filepath.Base(line[0])})
		}
	}
	return found
}

func parent(pid int) int {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// the command's name, in parentheses, may contain anything
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	ppid, _ := strconv.Atoi(fields[1])
	return ppid
}

// stopNode ends a node and waits until everything in it has ended.
func stopNode(c layout.Cluster, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	} else if err != nil {
		return err
	}
	defer unix.Close(fd)
	// the descriptor stays with this process, whatever becomes of its number: look again before shooting
	if nodeIndex(c, pid) == 0 {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		if n, err := unix.Poll(poll, 1000); n == 1 {
			return nil
		} else if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return fmt.Errorf("process %d, a node of the cluster %s, does not end: look at /proc/%d/task for what it waits for", pid, c.Name, pid)
}
