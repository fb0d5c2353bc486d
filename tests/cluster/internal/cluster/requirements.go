package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// searchPath is where the nodes look for programs: the PATH of root, whoever started us.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// requireRoot says what to do without the right to make namespaces.
func requireRoot() error {
	if os.Geteuid() == 0 {
		return nil
	}
	return errors.New("a cluster of network namespaces and cgroups can be handled by root only: " +
		"use sudo, or set KUBECONFIG to a cluster that you have")
}

// requireTools names the Debian packages whose programs are missing.
func requireTools() error {
	var missing []string
	need := func(debian string, found bool) {
		if !found && !slices.Contains(missing, debian) {
			missing = append(missing, debian)
		}
	}
	for program, debian := range map[string]string{
		"containerd": "containerd", "ctr": "containerd", "containerd-shim-runc-v2": "containerd",
		"runc": "runc", "nft": "nftables", "iptables": "iptables",
	} {
		_, err := exec.LookPath(program)
		need(debian, err == nil)
	}
	for _, plugin := range []string{"ptp", "host-local", "portmap", "loopback"} {
		found, _ := filepath.Glob("/usr/lib/cni/" + plugin)
		elsewhere, _ := filepath.Glob("/opt/cni/bin/" + plugin)
		need("containernetworking-plugins", len(found)+len(elsewhere) > 0)
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	return fmt.Errorf("programs are missing, install them with\n  apt-get install --no-install-recommends %s", strings.Join(missing, " "))
}
