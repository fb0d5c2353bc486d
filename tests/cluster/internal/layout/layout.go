// Package layout says where everything of a cluster lives: addresses, host names and paths, all derived from the
// cluster's name, slot and number of nodes. It does nothing itself.
package layout

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
)

const (
	// Domain is the cluster's DNS domain.
	Domain = "cluster.local"
	// PodRange holds the pod ranges of all nodes. Clusters do not see each other, so all use the same.
	PodRange = "10.244.0.0/16"
	// ServiceRange holds the addresses of Services.
	ServiceRange = "10.96.0.0/16"
	// APIServiceIP is the address of the Service kubernetes.default, the first of ServiceRange.
	APIServiceIP = "10.96.0.1"
	// DNSServiceIP is the address of the Service kube-dns.
	DNSServiceIP = "10.96.0.10"
	// APIPort is where the API server listens, on node 1's address.
	APIPort = 6443
	// MaxNodes and MaxSlot bound what fits into 10.77.SLOT.NODE; both count from 1.
	MaxNodes, MaxSlot = 16, 255
	// PauseImage is the sandbox image that `up` builds and loads.
	PauseImage = "localhost/byrnie-pause:1"
)

// Cluster is what `up` writes down about a cluster and every other command reads.
type Cluster struct {
	Name  string `json:"name"`
	Nodes int    `json:"nodes"`
	// Slot tells clusters on one machine apart: it is in the cluster's subnet and in the host's interface name.
	// It is 0 until one has been taken.
	Slot int `json:"slot"`
	// Dir is where all of the cluster's files are.
	Dir string `json:"-"`
}

var validName = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,28}[a-z0-9])?$`)

// New describes a cluster below the directory base, which is DefaultBase() when empty.
func New(name, base string) (Cluster, error) {
	if !validName.MatchString(name) {
		return Cluster{}, fmt.Errorf("cluster name %q: at most 30 lower-case letters, digits and dashes are allowed", name)
	}
	if base == "" {
		base = DefaultBase()
	}
	base, err := filepath.Abs(base)
	if err != nil {
		return Cluster{}, err
	}
	return Cluster{Name: name, Nodes: 1, Dir: filepath.Join(base, name)}, nil
}

// DefaultBase is $XDG_STATE_HOME/byrnie-cluster, or /var/lib/byrnie-cluster.
func DefaultBase() string {
	if state := os.Getenv("XDG_STATE_HOME"); state != "" {
		return filepath.Join(state, "byrnie-cluster")
	}
	return "/var/lib/byrnie-cluster"
}

// Load reads back what Save wrote into the directory dir.
func Load(dir string) (Cluster, error) {
	c := Cluster{Dir: dir}
	data, err := os.ReadFile(c.file())
	if errors.Is(err, os.ErrNotExist) {
		return c, fmt.Errorf("there is no cluster in %s: run `byrnie-cluster up` first", dir)
	} else if err != nil {
		return c, err
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("%s cannot be read, `byrnie-cluster down` removes the cluster: %w", c.file(), err)
	}
	return c, nil
}

// Save writes the description into the cluster's directory.
func (c Cluster) Save() error {
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.file()+".new", append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(c.file()+".new", c.file())
}

func (c Cluster) file() string { return filepath.Join(c.Dir, "cluster.json") }

// Subnet connects the cluster's nodes with each other and with the host.
func (c Cluster) Subnet() netip.Prefix { return netip.PrefixFrom(c.address(0), 24) }

// HostAddress is the host's own address in Subnet.
func (c Cluster) HostAddress() netip.Addr { return c.address(254) }

// NodeAddress is the address of node i, counted from 1.
func (c Cluster) NodeAddress(i int) netip.Addr { return c.address(byte(i)) }

func (c Cluster) address(last byte) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 77, byte(c.Slot), last})
}

// HostInterface is the name of the host's interface in Subnet.
func (c Cluster) HostInterface() string { return fmt.Sprintf("byrnie-%d", c.Slot) }

// PodRange is the part of the range of all pods that belongs to node i.
func (c Cluster) PodRange(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i), 0}), 24)
}

// NodeName is the Kubernetes name of node i.
func (c Cluster) NodeName(i int) string { return fmt.Sprintf("node%d", i) }

// APIServer is the API server's URL, the same for the host and for all nodes.
func (c Cluster) APIServer() string { return fmt.Sprintf("https://%s:%d", c.NodeAddress(1), APIPort) }

// Cgroup is the parent of the cgroups of node i's pods; CgroupRoot the parent of those of all nodes.
func (c Cluster) Cgroup(i int) string { return filepath.Join(c.CgroupRoot(), c.NodeName(i)) }

// CgroupRoot is where the cluster's cgroups are, in every hierarchy.
func (c Cluster) CgroupRoot() string { return fmt.Sprintf("/byrnie-cluster-%s-%d", c.Name, c.Slot) }

// Kubeconfig is the administrator's.
func (c Cluster) Kubeconfig() string { return c.Credential("admin.kubeconfig") }

// Credential is the path of a key, certificate or kubeconfig.
func (c Cluster) Credential(file string) string { return filepath.Join(c.Dir, "pki", file) }

// NodeDir holds the files of node i: var/lib and var/log are mounted there as /var/lib and /var/log.
func (c Cluster) NodeDir(i int) string { return filepath.Join(c.Dir, c.NodeName(i)) }

// Log is where a component on node i writes.
func (c Cluster) Log(i int, component string) string {
	return filepath.Join(c.NodeDir(i), "log", component+".log")
}

// Ended is the file in which node i notes that a component ended.
func (c Cluster) Ended(i int) string { return filepath.Join(c.NodeDir(i), "ended") }

// PauseArchive is the sandbox image as a file.
func (c Cluster) PauseArchive() string { return filepath.Join(c.Dir, "pause.tar") }
