package cluster

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"

	"byrnie.dev/cluster/internal/layout"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// The network of a cluster: node 1 carries the bridge `nodes`, to which the other nodes and the host are connected by
// a veth pair each. Each node routes every other node's pods to that node. There is no default route anywhere, so
// nothing leaves the cluster; and all interfaces go when node 1's network namespace goes.

const bridge = "nodes"

// takeSlot connects the host with node 1 on the first free subnet and returns the subnet's slot. The kernel refuses a
// second interface of the same name: that is what keeps two clusters that start at once apart.
func takeSlot(c layout.Cluster, node1 int) (int, error) {
	namespace, err := netns.GetFromPid(node1)
	if err != nil {
		return 0, err
	}
	defer namespace.Close()
	used, err := usedPrefixes()
	if err != nil {
		return 0, err
	}
	for c.Slot = 1; c.Slot <= layout.MaxSlot; c.Slot++ {
		if overlaps(c.Subnet(), used) {
			continue
		}
		err := connectHost(c, namespace)
		if errors.Is(err, syscall.EEXIST) {
			continue
		}
		return c.Slot, err
	}
	return 0, errors.New("no free subnet 10.77.x.0/24: remove a cluster with `byrnie-cluster down --name NAME`")
}

// usedPrefixes lists where the host has an address or a route, but for default routes.
func usedPrefixes() ([]netip.Prefix, error) {
	var used []netip.Prefix
	add := func(n *net.IPNet) {
		if n == nil {
			return
		}
		address, _ := netip.AddrFromSlice(n.IP)
		if ones, _ := n.Mask.Size(); ones > 0 {
			used = append(used, netip.PrefixFrom(address.Unmap(), ones))
		}
	}
	addresses, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("listing the host's addresses: %w", err)
	}
	for _, a := range addresses {
		add(a.IPNet)
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("listing the host's routes: %w", err)
	}
	for _, r := range routes {
		add(r.Dst)
	}
	return used, nil
}

func overlaps(subnet netip.Prefix, used []netip.Prefix) bool {
	for _, other := range used {
		if subnet.Overlaps(other) {
			return true
		}
	}
	return false
}

// connectHost makes the host's end in the cluster's subnet. The host forwards nothing that comes in there, and takes
// nothing whose sender is not in the subnet, such as a pod: its answer would leave by the host's default route.
func connectHost(c layout.Cluster, node1 netns.NsHandle) error {
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: c.HostInterface()},
		PeerName:      "host",
		PeerNamespace: netlink.NsFd(node1),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("adding the host's interface %s: %w", c.HostInterface(), err)
	}
	for setting, value := range map[string]string{
		"ipv4/conf/%s/forwarding": "0", "ipv4/conf/%s/rp_filter": "1", "ipv6/conf/%s/disable_ipv6": "1",
	} {
		path := filepath.Join("/proc/sys/net", fmt.Sprintf(setting, c.HostInterface()))
		if err := os.WriteFile(path, []byte(value), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	link, err := netlink.LinkByName(c.HostInterface())
	if err != nil {
		return err
	}
	if err := netlink.LinkSetAlias(link, c.Dir); err != nil {
		return err
	}
	return bringUp(&netlink.Handle{}, c.HostInterface(), c.HostAddress())
}

// connectNodes builds everything but the host's end; pids are the nodes' processes.
func connectNodes(c layout.Cluster, pids []int) error {
	first, err := openNamespace(pids[0])
	if err != nil {
		return err
	}
	defer first.close()
	if err := first.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge}}); err != nil {
		return fmt.Errorf("adding the nodes' bridge: %w", err)
	}
	if err := first.plug("host"); err != nil {
		return err
	}
	if err := first.join(c, 1, bridge); err != nil {
		return err
	}
	for i := 2; i <= c.Nodes; i++ {
		if err := connectNode(c, i, pids[i-1], first); err != nil {
			return fmt.Errorf("connecting node %d: %w", i, err)
		}
	}
	return nil
}

func connectNode(c layout.Cluster, i, pid int, first *namespace) error {
	node, err := openNamespace(pid)
	if err != nil {
		return err
	}
	defer node.close()
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: "eth0"},
		PeerName:      c.NodeName(i),
		PeerNamespace: netlink.NsFd(first.ns),
	}
	if err := node.LinkAdd(veth); err != nil {
		return err
	}
	if err := first.plug(c.NodeName(i)); err != nil {
		return err
	}
	return node.join(c, i, "eth0")
}

// namespace is a network namespace that can be worked on from outside.
type namespace struct {
	*netlink.Handle
	ns netns.NsHandle
}

func openNamespace(pid int) (*namespace, error) {
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return nil, err
	}
	handle, err := netlink.NewHandleAt(ns)
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return &namespace{Handle: handle, ns: ns}, nil
}

func (n *namespace) close() {
	n.Close()
	_ = n.ns.Close()
}

// plug makes an interface a port of the bridge.
func (n *namespace) plug(port string) error {
	master, err := n.LinkByName(bridge)
	if err != nil {
		return err
	}
	link, err := n.LinkByName(port)
	if err != nil {
		return err
	}
	if err := n.LinkSetMaster(link, master); err != nil {
		return err
	}
	return n.LinkSetUp(link)
}

// join gives node i its address, and its routes to Services and to the pods of the other nodes.
func (n *namespace) join(c layout.Cluster, i int, device string) error {
	loopback, err := n.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := n.LinkSetUp(loopback); err != nil {
		return err
	}
	if err := bringUp(n.Handle, device, c.NodeAddress(i)); err != nil {
		return err
	}
	link, err := n.LinkByName(device)
	if err != nil {
		return err
	}
	// kube-proxy rewrites the address of a Service, but only once a route has been found for it
	services := netip.MustParsePrefix(layout.ServiceRange)
	routes := []netlink.Route{{LinkIndex: link.Attrs().Index, Dst: ipNet(services), Scope: netlink.SCOPE_LINK}}
	for other := 1; other <= c.Nodes; other++ {
		if other != i {
			routes = append(routes, netlink.Route{Dst: ipNet(c.PodRange(other)), Gw: c.NodeAddress(other).AsSlice()})
		}
	}
	for _, route := range routes {
		if err := n.RouteAdd(&route); err != nil {
			return fmt.Errorf("adding the route to %s on node %d: %w", route.Dst, i, err)
		}
	}
	return nil
}

func bringUp(handle *netlink.Handle, device string, address netip.Addr) error {
	link, err := handle.LinkByName(device)
	if err != nil {
		return err
	}
	if err := handle.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(address, 24))}); err != nil {
		return fmt.Errorf("giving %s the address %s: %w", device, address, err)
	}
	return handle.LinkSetUp(link)
}

func ipNet(prefix netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
}
