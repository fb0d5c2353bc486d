package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"byrnie.dev/cluster/internal/layout"
	"byrnie.dev/cluster/internal/node"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/snapshot"
	restored "go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"
)

// revisionBump is more than what changes between a snapshot and its restoring: no revision is used twice.
const revisionBump = 1_000_000

// SaveSnapshot writes what etcd has into a file. It must run in node 1's network.
func SaveSnapshot(ctx context.Context, file string) error {
	_, err := snapshot.SaveWithVersion(ctx, zap.NewNop(), clientv3.Config{
		Endpoints: []string{node.EtcdURL}, DialTimeout: 10 * time.Second, Logger: zap.NewNop(),
	}, file)
	if err != nil {
		return fmt.Errorf("snapshot of etcd: %w", err)
	}
	return nil
}

// Restore puts etcd back to a snapshot as etcd's own handbook says, and starts everything again that remembers more than that:
// API server, controllers and scheduler. Kubelets, and whatever runs in pods, must find out for themselves.
func Restore(c layout.Cluster, file string) error {
	if err := requireRoot(); err != nil {
		return err
	}
	data := node.EtcdData(c)
	fresh, old := data+".restored", data+".before"
	for _, dir := range []string{fresh, old} {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	err := restored.NewV3(zap.NewNop()).Restore(restored.RestoreConfig{
		SnapshotPath: file, Name: c.NodeName(1), OutputDataDir: fresh,
		PeerURLs: []string{node.EtcdPeerURL}, InitialCluster: c.NodeName(1) + "=" + node.EtcdPeerURL, InitialClusterToken: filepath.Base(fresh),
		RevisionBump: revisionBump, MarkCompacted: true,
	})
	if err != nil {
		return fmt.Errorf("restore %s: %w", file, err)
	}
	// in this order nobody sees the old state after the new one
	remember := []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler"}
	for _, name := range remember {
		if err := Signal(c, 1, name, "STOP"); err != nil {
			return err
		}
	}
	if err := os.Rename(data, old); err != nil {
		return err
	}
	if err := os.Rename(fresh, data); err != nil {
		return err
	}
	for _, name := range slices.Concat([]string{"etcd"}, remember) {
		if err := Signal(c, 1, name, "KILL"); err != nil {
			return err
		}
	}
	return os.RemoveAll(old)
}
