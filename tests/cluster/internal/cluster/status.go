package cluster

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"byrnie.dev/cluster/internal/layout"
)

// Status prints what runs, and fails if the cluster is not healthy.
func Status(ctx context.Context, c layout.Cluster, out io.Writer) error {
	if err := requireRoot(); err != nil {
		return err
	}
	running, err := findNodes(c)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "cluster %s: %d nodes in %s, API server %s, files in %s\n", c.Name, c.Nodes, c.Subnet().Masked(), c.APIServer(), c.Dir)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NODE\tADDRESS\tPODS\tPROCESSES (PID)\tENDED")
	for i := 1; i <= c.Nodes; i++ {
		var names []string
		if pid := running[i]; pid > 0 {
			names = append(names, fmt.Sprintf("node (%d)", pid))
			for _, part := range components(pid) {
				names = append(names, fmt.Sprintf("%s (%d)", part.name, part.pid))
			}
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", c.NodeName(i), c.NodeAddress(i), c.PodRange(i), strings.Join(names, " "), strings.Join(ended(c, i), ", "))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if err := check(ctx, c, running); err != nil {
		return fmt.Errorf("the cluster is not healthy: %w", err)
	}
	fmt.Fprintln(out, "healthy")
	return nil
}
