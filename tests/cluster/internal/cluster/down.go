package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"byrnie.dev/cluster/internal/layout"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Down removes the cluster and everything that it made, in whatever state it is. It says whether there was anything.
func Down(c layout.Cluster) (bool, error) {
	if err := requireRoot(); err != nil {
		return false, err
	}
	if _, err := os.Stat(c.Dir); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	unlock, err := lock(c)
	if err != nil {
		return false, err
	}
	defer unlock()
	if err := removeRemains(c); err != nil {
		return false, err
	}
	if err := os.RemoveAll(c.Dir); err != nil {
		return false, err
	}
	if filepath.Dir(c.Dir) == layout.DefaultBase() {
		_ = os.Remove(layout.DefaultBase()) // only if no other cluster is there
	}
	return true, nil
}

// removeRemains ends the cluster's nodes and removes what they leave behind: interfaces, cgroups and files.
func removeRemains(c layout.Cluster) error {
	entries, err := os.ReadDir(c.Dir)
	if err != nil || len(entries) == 0 {
		return err
	}
	made, err := layout.Load(c.Dir)
	if err != nil {
		return fmt.Errorf("%s is not a cluster's directory, remove it yourself: %w", c.Dir, err)
	}
	nodes, err := findNodes(c)
	if err != nil {
		return err
	}
	// the other nodes first: their last words find node 1 still there
	for i := layout.MaxNodes; i >= 1; i-- {
		if pid, ok := nodes[i]; ok {
			if err := stopNode(c, pid); err != nil {
				return err
			}
		}
	}
	if made.Slot > 0 {
		if err := removeInterface(made); err != nil {
			return err
		}
		if err := removeCgroup(made.CgroupRoot()); err != nil {
			return err
		}
	}
	for _, entry := range entries {
		if err := os.RemoveAll(filepath.Join(c.Dir, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// removeInterface removes the host's end, which also goes by itself some time after node 1. The alias tells whether an
// interface of that name is still this cluster's.
func removeInterface(c layout.Cluster) error {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		link, err := netlink.LinkByName(c.HostInterface())
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		} else if err != nil {
			return err
		}
		if link.Attrs().Alias != c.Dir {
			return nil
		}
		_ = netlink.LinkDel(link) // may be gone by now
	}
	return fmt.Errorf("the interface %s does not go: look at `ip link show %s`", c.HostInterface(), c.HostInterface())
}

// lock keeps a second `up` or `down` of the same cluster away until the returned function is called.
func lock(c layout.Cluster) (func(), error) {
	directory, err := os.Open(c.Dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(directory.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		directory.Close()
		return nil, fmt.Errorf("the cluster %s is being started or removed right now (%s is locked)", c.Name, c.Dir)
	}
	return func() { directory.Close() }, nil
}
