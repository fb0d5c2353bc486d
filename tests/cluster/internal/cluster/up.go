// Package cluster makes and removes clusters from the host's side: the network between nodes, their processes,
// credentials and images. What happens inside a node is package node's.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"byrnie.dev/cluster/internal/layout"
	"byrnie.dev/cluster/internal/oci"
)

// Up starts the cluster and returns when it can take pods. A running and healthy cluster is left alone.
func Up(ctx context.Context, c layout.Cluster) error {
	if err := requireRoot(); err != nil {
		return err
	}
	if err := os.Setenv("PATH", searchPath); err != nil {
		return err
	}
	if err := requireTools(); err != nil {
		return err
	}
	if c.Nodes < 1 || c.Nodes > layout.MaxNodes {
		return fmt.Errorf("a cluster has 1 to %d nodes, not %d", layout.MaxNodes, c.Nodes)
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return err
	}
	unlock, err := lock(c)
	if err != nil {
		return err
	}
	defer unlock()
	running, err := findNodes(c)
	if err != nil {
		return err
	}
	if len(running) > 0 {
		return confirm(ctx, c, running)
	}
	if err := removeRemains(c); err != nil {
		return err
	}
	return start(ctx, c)
}

// confirm checks a cluster that is already there.
func confirm(ctx context.Context, c layout.Cluster, running map[int]int) error {
	is, err := layout.Load(c.Dir)
	if err != nil {
		return err
	}
	if is.Nodes != c.Nodes {
		return fmt.Errorf("the cluster %s is running with %d nodes, not %d: `byrnie-cluster down --name %s` removes it", c.Name, is.Nodes, c.Nodes, c.Name)
	}
	err = check(ctx, is, running)
	if err != nil {
		return fmt.Errorf("the cluster %s is running, but not healthy (%w): `byrnie-cluster down --name %s` removes it", c.Name, err, c.Name)
	}
	fmt.Printf("the cluster %s is already running: export KUBECONFIG=%s\n", c.Name, c.Kubeconfig())
	return nil
}

func start(ctx context.Context, c layout.Cluster) error {
	progress := newProgress()
	if err := c.Save(); err != nil {
		return err
	}
	if err := buildPauseImage(c); err != nil {
		return err
	}
	if err := startNodes(&c); err != nil {
		return err
	}
	api, err := newAPI(c)
	if err != nil {
		return err
	}
	wait := func(step string, ready func(context.Context) error) error {
		if err := await(ctx, c, step, ready); err != nil {
			return err
		}
		progress.done(step)
		return nil
	}
	if err := wait("API server", api.ready); err != nil {
		return err
	}
	if err := wait("nodes", func(ctx context.Context) error { return api.nodesReady(ctx, c.Nodes) }); err != nil {
		return err
	}
	for i := 1; i <= c.Nodes; i++ {
		if err := api.setPodRange(ctx, c, i); err != nil {
			return err
		}
	}
	if err := wait("service accounts", api.podsPossible); err != nil {
		return err
	}
	if err := deployDNS(ctx, c); err != nil {
		return err
	}
	if err := wait("cluster DNS", func(ctx context.Context) error { return api.available(ctx, "coredns") }); err != nil {
		return err
	}
	fmt.Printf("the cluster %s is ready after %s: export KUBECONFIG=%s\n", c.Name, progress.total(), c.Kubeconfig())
	return nil
}

// startNodes starts all nodes, connects them, and lets them go on when everything that they need is there.
func startNodes(c *layout.Cluster) error {
	var pids []int
	for i := 1; i <= c.Nodes; i++ {
		node, err := startNode(*c, i)
		if err != nil {
			return err
		}
		defer node.release.Close()
		pids = append(pids, node.pid)
	}
	slot, err := takeSlot(*c, pids[0])
	if err != nil {
		return err
	}
	c.Slot = slot
	if err := c.Save(); err != nil {
		return err
	}
	if err := connectNodes(*c, pids); err != nil {
		return err
	}
	for i := 1; i <= c.Nodes; i++ {
		if err := makeCgroup(c.Cgroup(i)); err != nil {
			return err
		}
	}
	return writeCredentials(*c)
}

// buildPauseImage packs byrnie-pause, which is installed beside this program.
func buildPauseImage(c layout.Cluster) error {
	executable, err := os.Executable()
	if err != nil {
		return err
	}
	pause := filepath.Join(filepath.Dir(executable), "byrnie-pause")
	if _, err := os.Stat(pause); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is missing: build it beside byrnie-cluster, `go build -o %s ./cmd/...` makes both", pause, filepath.Dir(executable))
	}
	image := oci.Image{
		Reference:  layout.PauseImage,
		Entrypoint: []string{"/pause"},
		User:       "65535",
		Files:      []oci.File{{Source: pause, Destination: "/pause"}},
	}
	return image.WriteFile(c.PauseArchive())
}

// progress prints what took long.
type progress struct{ begin, step time.Time }

func newProgress() *progress { return &progress{begin: time.Now(), step: time.Now()} }

func (p *progress) done(what string) {
	if took := time.Since(p.step); took > 2*time.Second {
		fmt.Printf("%5.1f s  %s\n", took.Seconds(), what)
	}
	p.step = time.Now()
}

func (p *progress) total() string { return fmt.Sprintf("%.1f s", time.Since(p.begin).Seconds()) }
