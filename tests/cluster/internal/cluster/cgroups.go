package cluster

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// hierarchy is a mounted cgroup tree: one of several controllers' (version 1) or the only one (version 2).
type hierarchy struct {
	path    string
	unified bool
}

func hierarchies() ([]hierarchy, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var found []hierarchy
	for scanner := bufio.NewScanner(file); scanner.Scan(); {
		mount, filesystem, _ := strings.Cut(scanner.Text(), " - ")
		fields := strings.Fields(mount)
		switch kind, _, _ := strings.Cut(filesystem, " "); kind {
		case "cgroup":
			found = append(found, hierarchy{path: fields[4]})
		case "cgroup2":
			found = append(found, hierarchy{path: fields[4], unified: true})
		}
	}
	if len(found) == 0 {
		return nil, errors.New("no cgroup file system is mounted: mount /sys/fs/cgroup")
	}
	return found, nil
}

// makeCgroup makes a cgroup in every hierarchy. The kubelet wants it to be there before it starts.
func makeCgroup(name string) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range all {
		if err := h.make(name); err != nil {
			return fmt.Errorf("making the cgroup %s%s: %w", h.path, name, err)
		}
	}
	return nil
}

func (h hierarchy) make(name string) error {
	parent := h.path
	for part := range strings.SplitSeq(strings.Trim(name, "/"), "/") {
		child := filepath.Join(parent, part)
		if err := os.Mkdir(child, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := h.inherit(parent, child); err != nil {
			return err
		}
		parent = child
	}
	return nil
}

// inherit makes a new cgroup usable: in version 1 a cpuset starts empty and admits nobody; in version 2 a child has the
// controllers that its parent passes on.
func (h hierarchy) inherit(parent, child string) error {
	if h.unified {
		controllers, err := os.ReadFile(filepath.Join(parent, "cgroup.controllers"))
		if err != nil {
			return err
		}
		for controller := range strings.FieldsSeq(string(controllers)) {
			if err := os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte("+"+controller), 0); err != nil {
				return err
			}
		}
		return nil
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(parent, file))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(child, file), value, 0); err != nil {
			return err
		}
	}
	return nil
}

// removeCgroup removes a cgroup and all below it from every hierarchy. Its processes may take a moment to be gone.
func removeCgroup(name string) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range all {
		var err error
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			if err = removeTree(filepath.Join(h.path, name)); !errors.Is(err, syscall.EBUSY) {
				break
			}
		}
		if err != nil {
			return fmt.Errorf("removing the cgroup %s%s: %w", h.path, name, err)
		}
	}
	return nil
}

func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeTree(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	return syscall.Rmdir(dir)
}
