package cluster

import (
	"net/netip"
	"testing"

	"byrnie.dev/cluster/internal/layout"
)

func TestSlotIsFreeOnlyWithoutOverlap(t *testing.T) {
	subnet := layout.Cluster{Slot: 3}.Subnet()
	for used, overlap := range map[string]bool{
		"10.77.3.0/24": true, "10.77.3.254/32": true, "10.77.0.0/16": true, "10.0.0.0/8": true,
		"10.77.2.0/24": false, "10.77.4.0/24": false, "10.76.0.0/16": false, "192.0.2.0/24": false,
	} {
		if got := overlaps(subnet, []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8"), netip.MustParsePrefix(used)}); got != overlap {
			t.Errorf("%s: overlap is %t", used, got)
		}
	}
}

func TestHostAddressesAreSeen(t *testing.T) {
	used, err := usedPrefixes()
	if err != nil {
		t.Fatal(err)
	}
	loopback := false
	for _, prefix := range used {
		loopback = loopback || prefix.Contains(netip.MustParseAddr("127.0.0.1"))
		if prefix.Bits() == 0 {
			t.Error("a default route leaves no slot free")
		}
	}
	if !loopback {
		t.Errorf("127.0.0.1 is not among %v", used)
	}
}
