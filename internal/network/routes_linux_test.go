package network

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vortex"
)

// TestRoutesToOtherNodes sets routes by a neighbour on a link of the test's own.
func TestRoutesToOtherNodes(t *testing.T) {
	cfg := testConfig(t)
	k := byte(testNumber.Add(1)) //nolint:gosec // a part of an address
	cfg.Cluster = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 255, k, 0}), 24)
	n := setup(t, cfg)
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: cfg.Bridge + "d"}, PeerName: cfg.Bridge + "e"}
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(link) })
	segment := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 254, k, 1}), 24)
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: segment.Addr().AsSlice(), Mask: net.CIDRMask(24, 32)}}); err != nil {
		t.Fatal(err)
	}
	for _, end := range []string{link.Name, link.PeerName} {
		if up, err := netlink.LinkByName(end); err != nil || netlink.LinkSetUp(up) != nil {
			t.Fatalf("link %s not up: %v", end, err)
		}
	}
	there := func() string {
		list, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
		if err != nil {
			t.Fatal(err)
		}
		var found []string
		for _, r := range list {
			if p, ok := prefix(r.Dst); ok && cfg.Cluster.Overlaps(p) {
				found = append(found, fmt.Sprintf("%s by %s", p, r.Gw))
			}
		}
		return strings.Join(found, ", ")
	}
	part := func(last byte) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 255, k, last}), 28)
	}
	by := func(last byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 254, k, last}) }
	set := func(routes map[netip.Prefix]netip.Addr) error { return n.SetRoutes(t.Context(), routes) }

	if err := set(map[netip.Prefix]netip.Addr{part(0): by(2), part(16): by(3)}); err != nil {
		t.Fatal(err)
	}
	if got, want := there(), fmt.Sprintf("%s by %s, %s by %s", part(0), by(2), part(16), by(3)); got != want {
		t.Errorf("routes %s; want %s", got, want)
	}
	if err := set(map[netip.Prefix]netip.Addr{part(16): by(4)}); err != nil {
		t.Fatal(err)
	}
	if got, want := there(), fmt.Sprintf("%s by %s", part(16), by(4)); got != want {
		t.Errorf("after one node moved and one left, routes %s; want %s", got, want)
	}
	unreachable := netip.MustParseAddr("203.0.113.77")
	err := set(map[netip.Prefix]netip.Addr{part(0): unreachable, part(16): by(4), part(32): by(5)})
	if err != nil && (!vortex.IsKind(err, vortex.Precondition) || !strings.Contains(err.Error(), unreachable.String())) {
		t.Errorf("a node on another segment: %v; want Precondition that names its address", err)
	}
	if got := there(); !strings.Contains(got, part(32).String()) {
		t.Errorf("a route that is refused kept others from being set: %s", got)
	}
	if err := set(nil); err != nil {
		t.Fatal(err)
	}
	if got := there(); got != "" {
		t.Errorf("routes are left: %s", got)
	}
}
