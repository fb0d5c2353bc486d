package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"byrnie.dev/cluster/internal/layout"

	"golang.org/x/sys/unix"
)

const (
	// runDir is in the node's own /run. Pods may mount it to run a part of our binary.
	runDir    = "/run/byrnie-cluster"
	ownBinary = runDir + "/byrnie-cluster"
)

// tunables are settings of the whole machine that the kubelet insists on. In a node they are plain files, so that it
// finds what it wants and the host keeps what it has.
var tunables = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

// mountOwn gives the node its own /run, /var/lib, /var/log and /proc: containerd, CNI and the kubelet write to fixed
// places there. Nothing of it is seen outside, and all of it goes with the node.
func mountOwn(c layout.Cluster, index int) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("leaving the host's mounts: %w", err)
	}
	// the cluster's directory may be below what is covered now
	directory, err := unix.Open(c.Dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening %s: %w", c.Dir, err)
	}
	defer unix.Close(directory)
	uncovered := fmt.Sprintf("/proc/self/fd/%d", directory)
	if err := mount("proc", "/proc", "proc"); err != nil {
		return err
	}
	for _, target := range []string{"/var/lib", "/var/log"} {
		source := filepath.Join(uncovered, c.NodeName(index), target)
		if err := os.MkdirAll(source, 0o755); err != nil {
			return err
		}
		if err := bind(source, target); err != nil {
			return err
		}
	}
	if err := mount("tmpfs", "/run", "tmpfs"); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(c.Dir, c.NodeName(index))); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(c.Dir, 0o755); err != nil {
			return err
		}
		if err := bind(uncovered, c.Dir); err != nil {
			return err
		}
	}
	if err := bindFile("/proc/self/exe", ownBinary, nil); err != nil {
		return err
	}
	for name, value := range tunables {
		file := filepath.Join(runDir, "sys", name)
		if err := bindFile(file, filepath.Join("/proc/sys", name), []byte(value+"\n")); err != nil {
			return err
		}
	}
	return nil
}

// bindFile mounts the file source on target. One of them is made: source with the content, or else target, empty.
func bindFile(source, target string, content []byte) error {
	made := source
	if content == nil {
		made = target
	}
	if err := os.MkdirAll(filepath.Dir(made), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(made, content, 0o755); err != nil {
		return err
	}
	return bind(source, target)
}

func bind(source, target string) error {
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting %s on %s: %w", source, target, err)
	}
	return nil
}

func mount(kind, target, source string) error {
	if err := unix.Mount(source, target, kind, unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("mounting %s on %s: %w", kind, target, err)
	}
	return nil
}
