package cluster

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"text/template"

	"byrnie.dev/cluster/internal/layout"
)

//go:embed coredns.yaml
var coreDNS string

// deployDNS applies CoreDNS. Its pod has no image of its own: it runs the coredns in our binary, which every node has
// in its /run.
func deployDNS(ctx context.Context, c layout.Cluster) error {
	var manifest bytes.Buffer
	values := map[string]any{"Image": layout.PauseImage, "Address": layout.DNSServiceIP, "Domain": layout.Domain, "Replicas": min(c.Nodes, 2)}
	if err := template.Must(template.New("").Parse(coreDNS)).Execute(&manifest, values); err != nil {
		return err
	}
	executable, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, executable, "kubectl", "--kubeconfig", c.Kubeconfig(), "create", "-f", "-")
	cmd.Stdin = &manifest
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("creating cluster DNS: %w\n%s", err, out)
	}
	return nil
}
