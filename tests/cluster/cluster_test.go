// Package cluster_test runs real clusters, with the binary that everybody uses, and looks at what they leave behind.
package cluster_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"byrnie.dev/cluster/internal/layout"

	"github.com/vishvananda/netlink"
)

func TestTwoClustersSideBySide(t *testing.T) {
	b := build(t)
	pair, single := b.cluster(t, "test-pair"), b.cluster(t, "test-single")
	before := look(t)
	pair.run(t, "up", "--nodes", "2")
	single.run(t, "up")
	seen := []layout.Cluster{pair.describe(t), single.describe(t)}
	if seen[0].Subnet() == seen[1].Subnet() {
		t.Fatalf("both clusters are in %s", seen[0].Subnet())
	}
	t.Run("up again", func(t *testing.T) {
		if out := pair.run(t, "up", "--nodes", "2"); !strings.Contains(out, "already running") {
			t.Errorf("got %s", out)
		}
		if out, err := pair.try("up"); err == nil {
			t.Errorf("another number of nodes was accepted: %s", out)
		}
	})
	t.Run("traffic", func(t *testing.T) { testTraffic(t, b, pair) })
	t.Run("node network", func(t *testing.T) {
		routes := pair.run(t, "exec", "--node", "2", "--", "cat", "/proc/net/fib_trie")
		if address := seen[0].NodeAddress(2).String(); !strings.Contains(routes, address) {
			t.Errorf("%s is not among the addresses %s", address, routes)
		}
		if nodes := pair.run(t, "exec", "--", b.program, "kubectl", "get", "nodes", "-o", "name"); nodes != "node/node1\nnode/node2\n" {
			t.Errorf("got %q", nodes)
		}
	})
	t.Run("signals", func(t *testing.T) { testSignals(t, pair) })
	t.Run("snapshot", func(t *testing.T) { testSnapshot(t, pair) })
	t.Run("down", func(t *testing.T) {
		pair.run(t, "down")
		// whoever crashes must not be harder to remove than whoever ends well; and must not have been hurt by the other
		single.run(t, "status")
		crash(t, seen[1])
		if out, err := single.try("status"); err == nil {
			t.Errorf("a dead cluster is called healthy: %s", out)
		}
		single.run(t, "down")
		for _, c := range seen {
			requireGone(t, c)
		}
		if after := look(t); after != before {
			t.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
		if out := pair.run(t, "down"); !strings.Contains(out, "no cluster") {
			t.Errorf("got %s", out)
		}
	})
}

func testTraffic(t *testing.T, b binary, c commands) {
	archive := filepath.Join(t.TempDir(), "web.tar")
	c.run(t, "image", "build", "--ref", "test/web:1", "--out", archive, "--entrypoint", "/web,serve", "--user", "65534", b.pod+":/web")
	c.run(t, "load", archive)
	c.kubectl(t, "apply", "-f", "testdata/web.yaml")
	c.kubectl(t, "wait", "--for=condition=Ready", "--timeout=60s", "pod/web1", "pod/web2")
	for from, to := range map[string]string{"1": "2", "2": "1"} {
		address := c.kubectl(t, "get", "pod", "web"+to, "-o", "jsonpath={.status.podIP}")
		if got := c.kubectl(t, "exec", "web"+from, "--", "/web", "get", "http://"+address+":8080"); got != "node"+to+"\n" {
			t.Errorf("the pod on node %s got %q from the pod on node %s", from, got, to)
		}
	}
	// kube-proxy may hear of the second pod a moment later
	urls := []string{"http://web", "http://web.default.svc.cluster.local"}
	for range 10 {
		urls = append(urls, urls[:2]...)
	}
	answers := ""
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		answers = c.kubectl(t, append([]string{"exec", "web1", "--", "/web", "get"}, urls...)...)
		if strings.Contains(answers, "node1") && strings.Contains(answers, "node2") {
			return
		}
	}
	t.Errorf("the Service answers only %q", answers)
}

func testSignals(t *testing.T, c commands) {
	c.run(t, "signal", "kube-scheduler", "STOP")
	status := c.run(t, "status")
	c.run(t, "signal", "kube-scheduler", "CONT")
	c.run(t, "signal", "kube-scheduler", "SIGKILL")
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if again, err := c.try("status"); strings.Contains(again, "kube-scheduler (") && again != status {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("killed, it does not come back: %v\n%s", err, again)
		}
	}
	for _, wrong := range [][]string{{"kube-schedule", "KILL"}, {"kube-scheduler", "HUGE"}, {"--node", "3", "kubelet", "KILL"}} {
		if out, err := c.try("signal", wrong...); err == nil {
			t.Errorf("signal %v was accepted: %s", wrong, out)
		}
	}
}

// testSnapshot puts etcd back: what was made since is gone, what was there before is back, and the controllers go on from there.
func testSnapshot(t *testing.T, c commands) {
	file := filepath.Join(t.TempDir(), "snapshot")
	c.kubectl(t, "create", "configmap", "before")
	c.run(t, "snapshot", file)
	c.kubectl(t, "delete", "configmap", "before")
	c.kubectl(t, "create", "configmap", "after")
	c.run(t, "restore", file)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		names, err := c.tryKubectl(t, "get", "configmaps", "-o", "name")
		if err == nil && strings.Contains(names, "/before") && !strings.Contains(names, "/after") {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("after restoring there are %v\n%s", err, names)
		}
	}
	c.kubectl(t, "create", "namespace", "new")
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if _, err := c.tryKubectl(t, "get", "serviceaccount", "default", "-n", "new"); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("after restoring, no controller works: %v", err)
		}
	}
	if out, err := c.try("restore", file+".missing"); err == nil {
		t.Errorf("a missing snapshot was accepted: %s", out)
	}
}

// binary is what is tested, and the pod that it is tested with.
type binary struct{ program, pod string }

func build(t *testing.T) binary {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("clusters of network namespaces can be made by root only")
	}
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	b := binary{program: os.Getenv("BYRNIE_CLUSTER_BIN"), pod: filepath.Join(t.TempDir(), "web")}
	if b.program == "" {
		b.program = filepath.Join(t.TempDir(), "byrnie-cluster")
	}
	goBuild(t, b.pod, "./testdata/web")
	// takes no time where it has been built already
	goBuild(t, filepath.Dir(b.program)+"/", "./cmd/...")
	return b
}

func goBuild(t *testing.T, out, what string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, what)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if message, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", what, err, message)
	}
}

// commands runs the binary's commands for one cluster.
type commands struct{ program, name, base string }

func (b binary) cluster(t *testing.T, name string) commands {
	t.Helper()
	c := commands{program: b.program, name: fmt.Sprintf("%s-%d", name, os.Getpid()), base: t.TempDir()}
	t.Cleanup(func() {
		if out, err := c.try("down"); err != nil {
			t.Errorf("down: %v\n%s", err, out)
		}
	})
	return c
}

func (c commands) try(command string, args ...string) (string, error) {
	if command != "image" {
		args = append([]string{"--name", c.name, "--dir", c.base}, args...)
	}
	var out, messages bytes.Buffer
	cmd := exec.Command(c.program, append([]string{command}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &messages
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("byrnie-cluster %s: %w\n%s", command, err, messages.String())
	}
	return out.String(), nil
}

func (c commands) run(t *testing.T, command string, args ...string) string {
	t.Helper()
	out, err := c.try(command, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// kubectl runs on the host: the API server is to be reached from there.
func (c commands) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.tryKubectl(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (c commands) tryKubectl(t *testing.T, args ...string) (string, error) {
	t.Helper()
	kubeconfig := strings.TrimSpace(c.run(t, "kubeconfig"))
	cmd := exec.Command(c.program, append([]string{"kubectl", "--kubeconfig", kubeconfig}, args...)...)
	var out, messages bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &messages
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("kubectl %s: %w\n%s%s", strings.Join(args, " "), err, out.String(), messages.String())
	}
	return out.String(), nil
}

func (c commands) describe(t *testing.T) layout.Cluster {
	t.Helper()
	described, err := layout.Load(filepath.Join(c.base, c.name))
	if err != nil {
		t.Fatal(err)
	}
	return described
}

// crash kills a cluster's node 1, as a bug or the machine might.
func crash(t *testing.T, c layout.Cluster) {
	t.Helper()
	for _, process := range processes(t, c) {
		if strings.Contains(process.line, " node --dir ") {
			if err := process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 100 {
		if len(processes(t, c)) == 0 {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("still running: %v", processes(t, c))
}

type process struct {
	*os.Process
	line string
}

// processes finds everything that has the cluster's directory in its command line.
func processes(t *testing.T, c layout.Cluster) []process {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []process
	for _, file := range lines {
		content, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(content, []byte(c.Dir)) {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(file, "/proc/%d/", &pid); err != nil {
			t.Fatal(err)
		}
		if handle, err := os.FindProcess(pid); err == nil && pid != os.Getpid() {
			found = append(found, process{Process: handle, line: strings.ReplaceAll(string(content), "\x00", " ")})
		}
	}
	return found
}

func requireGone(t *testing.T, c layout.Cluster) {
	t.Helper()
	if found := processes(t, c); len(found) > 0 {
		t.Errorf("still running: %v", found)
	}
	if _, err := os.Stat(c.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there: %v", c.Dir, err)
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || bytes.Contains(mounts, []byte(c.Dir)) {
		t.Errorf("%s is still mounted: %v", c.Dir, err)
	}
	if cgroups, err := filepath.Glob("/sys/fs/cgroup/*" + c.CgroupRoot() + "*"); err != nil || len(cgroups) > 0 {
		t.Errorf("cgroups are still there: %v, %v", cgroups, err)
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if link.Attrs().Alias == c.Dir {
			t.Errorf("the interface %s is still there", link.Attrs().Name)
		}
	}
}

// look lists what a cluster must not change on the host, even while others run clusters, too.
func look(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	for _, setting := range []string{"vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward", "net/netfilter/nf_conntrack_max"} {
		value, err := os.ReadFile(filepath.Join("/proc/sys", setting))
		fmt.Fprintf(&out, "%s %s %t\n", setting, bytes.TrimSpace(value), err == nil)
	}
	for _, place := range []string{
		"/var/lib/cni", "/var/lib/kubelet", "/var/log/pods", "/var/log/containers", "/run/containerd", "/run/netns", "/opt/containerd", "/etc/cni/net.d",
		"/usr/libexec/kubernetes", "/var/run/kubernetes", "/run/flannel", "/run/xtables.lock",
	} {
		entries, err := filepath.Glob(place + "/*")
		_, missing := os.Stat(place)
		fmt.Fprintf(&out, "%s %t %v %v\n", place, missing == nil, entries, err)
	}
	return out.String()
}
