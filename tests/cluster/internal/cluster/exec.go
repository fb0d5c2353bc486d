package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"byrnie.dev/cluster/internal/layout"

	"github.com/vishvananda/netns"
)

// Exec replaces this process by the command, in the network of node i and with KUBECONFIG set. It returns only errors.
func Exec(c layout.Cluster, i int, command []string) error {
	if err := requireRoot(); err != nil {
		return err
	}
	pid, err := findNode(c, i)
	if err != nil {
		return err
	}
	program, err := exec.LookPath(command[0])
	if err != nil {
		return err
	}
	namespace, err := netns.GetFromPid(pid)
	if err != nil {
		return err
	}
	// the thread that executes a program takes its namespaces along
	runtime.LockOSThread()
	if err := netns.Set(namespace); err != nil {
		return fmt.Errorf("entering the network of %s: %w", c.NodeName(i), err)
	}
	if err := os.Setenv("KUBECONFIG", c.Kubeconfig()); err != nil {
		return err
	}
	return syscall.Exec(program, command, os.Environ())
}
