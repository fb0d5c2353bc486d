package cluster

import (
	"context"
	"fmt"
	"os/exec"

	"byrnie.dev/cluster/internal/layout"

	"golang.org/x/sync/errgroup"
)

// Load imports image archives on every node.
func Load(ctx context.Context, c layout.Cluster, archives []string) error {
	if err := requireRoot(); err != nil {
		return err
	}
	nodes, err := findNodes(c)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for i := 1; i <= c.Nodes; i++ {
		pid, ok := nodes[i]
		if !ok {
			return fmt.Errorf("node %d of the cluster %s is not running", i, c.Name)
		}
		group.Go(func() error {
			for _, archive := range archives {
				// containerd's socket, seen through the node's own /run
				socket := fmt.Sprintf("/proc/%d/root/run/containerd/containerd.sock", pid)
				cmd := exec.CommandContext(ctx, "ctr", "--address", socket, "--namespace", "k8s.io", "images", "import", archive)
				if out, err := cmd.CombinedOutput(); err != nil {
					return fmt.Errorf("loading %s on %s: %w\n%s", archive, c.NodeName(i), err, out)
				}
			}
			return nil
		})
	}
	return group.Wait()
}
