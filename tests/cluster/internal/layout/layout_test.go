package layout

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	for name, valid := range map[string]bool{
		"byrnie": true, "a": true, "two-nodes-2": true, strings.Repeat("a", 30): true,
		"": false, "Byrnie": false, "-a": false, "a-": false, "../etc": false, "a/b": false, "1a": false, strings.Repeat("a", 31): false,
	} {
		if _, err := New(name, "/base"); (err == nil) != valid {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestBase(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", "/home/a/.local/state")
	c, err := New("byrnie", "")
	if err != nil || c.Dir != "/home/a/.local/state/byrnie-cluster/byrnie" {
		t.Errorf("got %s, %v", c.Dir, err)
	}
	t.Setenv("XDG_STATE_HOME", "")
	if c, err := New("byrnie", ""); err != nil || c.Dir != "/var/lib/byrnie-cluster/byrnie" {
		t.Errorf("got %s, %v", c.Dir, err)
	}
}

func TestClustersDoNotMeet(t *testing.T) {
	one, two := Cluster{Name: "a", Slot: 1}, Cluster{Name: "a", Slot: 2}
	if one.Subnet().Overlaps(two.Subnet()) {
		t.Error("two slots share a subnet")
	}
	if one.HostInterface() == two.HostInterface() || one.CgroupRoot() == two.CgroupRoot() {
		t.Error("two slots share an interface or a cgroup")
	}
	if !one.Subnet().Contains(one.NodeAddress(MaxNodes)) || one.NodeAddress(MaxNodes) == one.HostAddress() {
		t.Error("the last node has no address of its own")
	}
	if last := (Cluster{Slot: MaxSlot}); len(last.HostInterface()) > 15 {
		t.Errorf("%s is too long for an interface", last.HostInterface())
	}
}

func TestSaveAndLoad(t *testing.T) {
	want := Cluster{Name: "a", Nodes: 3, Slot: 7, Dir: t.TempDir()}
	if err := want.Save(); err != nil {
		t.Fatal(err)
	}
	if got, err := Load(want.Dir); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := Load(filepath.Join(want.Dir, "missing")); err == nil || !strings.Contains(err.Error(), "up") {
		t.Errorf("a missing cluster: %v", err)
	}
}
