package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"byrnie.dev/cluster/internal/layout"
)

const (
	// stepLimit is how long a step of `up` may take, also on a busy machine.
	stepLimit = 3 * time.Minute
	logLines  = 12
)

// await asks again and again until ready, and looks meanwhile whether something has ended that should run.
func await(ctx context.Context, c layout.Cluster, step string, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	for {
		reason := ready(ctx)
		if reason == nil {
			return nil
		}
		if err := alive(c); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the %s: %w (the logs are in %s)", step, reason, c.Dir)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// check says what is wrong with a cluster that should be healthy.
func check(ctx context.Context, c layout.Cluster, running map[int]int) error {
	for i := 1; i <= c.Nodes; i++ {
		if running[i] == 0 {
			return fmt.Errorf("node %d is not running", i)
		}
	}
	api, err := newAPI(c)
	if err != nil {
		return err
	}
	if err := api.ready(ctx); err != nil {
		return err
	}
	if err := api.nodesReady(ctx, c.Nodes); err != nil {
		return err
	}
	return api.available(ctx, "coredns")
}

// alive fails with the last lines of the log of what has ended.
func alive(c layout.Cluster) error {
	running, err := findNodes(c)
	if err != nil {
		return err
	}
	for i := 1; i <= c.Nodes; i++ {
		if running[i] == 0 {
			return fmt.Errorf("%s ended%s", c.NodeName(i), lastLines(c.Log(i, "node")))
		}
		if notes := ended(c, i); len(notes) > 0 {
			name, how, _ := strings.Cut(notes[0], " ")
			return fmt.Errorf("%s on %s ended: %s%s", name, c.NodeName(i), how, lastLines(c.Log(i, name)))
		}
	}
	return nil
}

// ended lists which components of node i have ended so far, and how.
func ended(c layout.Cluster, i int) []string {
	notes, err := os.ReadFile(c.Ended(i))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return []string{err.Error()}
	}
	return strings.Split(strings.TrimSpace(string(notes)), "\n")
}

func lastLines(path string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return ", and its log cannot be read: " + err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	if len(lines) > logLines {
		lines = lines[len(lines)-logLines:]
	}
	return fmt.Sprintf("; the end of %s:\n  %s", path, strings.Join(lines, "\n  "))
}
