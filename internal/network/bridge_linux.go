package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// setupBridge makes the bridge as it should be, whatever of it exists, and returns its link index.
func (n *Network) setupBridge() (int, error) {
	link, err := n.host.LinkByName(n.cfg.Bridge)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		link, err = n.makeBridge()
	}
	if err != nil {
		return 0, fmt.Errorf("find bridge: %w", err)
	}
	if link.Type() != "bridge" {
		return 0, fmt.Errorf("link %s is a %s, not a bridge: set another bridge name", n.cfg.Bridge, link.Type())
	}
	if err := n.setBridgeAddress(link); err != nil {
		return 0, err
	}
	if err := wrap("raise bridge", n.host.LinkSetUp(link)); err != nil {
		return 0, err
	}
	return link.Attrs().Index, setBridgeSysctls(n.cfg.Bridge)
}

func (n *Network) makeBridge() (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = n.cfg.Bridge, n.cfg.MTU, hardwareAddr(n.addrs.gateway())
	snoop := false
	br := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snoop}
	if err := n.host.LinkAdd(br); err != nil {
		return nil, fmt.Errorf("make bridge: %w", err)
	}
	if err := ignoreUnsupported(n.host.LinkSetIP6AddrGenMode(br, ip6GenNone)); err != nil {
		return nil, err
	}
	return n.host.LinkByName(n.cfg.Bridge)
}

// setBridgeAddress leaves the gateway's address as the only one, and keeps it when it is there.
func (n *Network) setBridgeAddress(link netlink.Link) error {
	want := netip.PrefixFrom(n.addrs.gateway(), n.cfg.Subnet.Bits())
	have, err := n.host.AddrList(link, unix.AF_INET)
	if err != nil {
		return fmt.Errorf("list bridge addresses: %w", err)
	}
	for _, a := range have {
		if a.IPNet.String() == want.String() {
			continue
		}
		if err := n.host.AddrDel(link, &a); err != nil {
			return fmt.Errorf("remove old bridge address: %w", err)
		}
	}
	return wrap("set bridge address", n.host.AddrReplace(link, &netlink.Addr{IPNet: ipNet(want)}))
}

// setBridgeSysctls lets the node forward for the bridge: replies may take another way than requests (loose reverse path
// filter), and connections to published ports on 127.0.0.1 may be sent over the bridge.
func setBridgeSysctls(bridge string) error {
	conf := "net/ipv4/conf/" + bridge
	return errors.Join(setSysctl("net/ipv4/ip_forward", "1"), setSysctl(conf+"/rp_filter", "2"), setSysctl(conf+"/route_localnet", "1"))
}

// takenPrefixes returns the networks of the node's routes and addresses that are not of the own bridge.
func (n *Network) takenPrefixes() ([]netip.Prefix, error) {
	own := 0
	if link, err := n.host.LinkByName(n.cfg.Bridge); err == nil {
		own = link.Attrs().Index
	}
	routes, err := n.host.RouteList(nil, unix.AF_INET)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	addrs, err := n.host.AddrList(nil, unix.AF_INET)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var taken []netip.Prefix
	for _, r := range routes {
		if r.Dst != nil && r.LinkIndex != own {
			taken = appendNet(taken, r.Dst.String())
		}
	}
	for _, a := range addrs {
		if a.LinkIndex != own {
			taken = appendNet(taken, a.IPNet.String())
		}
	}
	return taken, nil
}

func appendNet(to []netip.Prefix, s string) []netip.Prefix {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return to
	}
	return append(to, p.Masked())
}

// defaultMTU returns the MTU of the link that the default route leaves by, or 1500.
func (n *Network) defaultMTU() int {
	routes, err := n.host.RouteList(nil, unix.AF_INET)
	if err != nil {
		return 1500
	}
	for _, r := range routes {
		if r.Dst != nil && r.Dst.String() != "0.0.0.0/0" {
			continue
		}
		if link, err := n.host.LinkByIndex(r.LinkIndex); err == nil && link.Attrs().MTU >= 576 {
			return link.Attrs().MTU
		}
	}
	return 1500
}

// settleSubnet decides the subnet: the one chosen before while the bridge that has it exists, else by chooseSubnet.
func (n *Network) settleSubnet() error {
	note := filepath.Join(n.cfg.DataDir, subnetFile)
	old, _ := os.ReadFile(note) // none the first time
	before, err := netip.ParsePrefix(strings.TrimSpace(string(old)))
	if err == nil && (!n.cfg.Subnet.IsValid() || n.cfg.Subnet == before) && n.bridgeHas(before) {
		n.cfg.Subnet = before
		return nil
	}
	taken, err := n.takenPrefixes()
	if err != nil {
		return err
	}
	if !n.cfg.Subnet.IsValid() && before.IsValid() && !overlapping(before, taken).IsValid() {
		n.cfg.Subnet = before
	}
	if n.cfg.Subnet, err = chooseSubnet(n.cfg.Subnet, taken); err != nil {
		return err
	}
	return replaceFile(note, []byte(n.cfg.Subnet.String()+"\n"))
}

func (n *Network) bridgeHas(p netip.Prefix) bool {
	link, err := n.host.LinkByName(n.cfg.Bridge)
	if err != nil {
		return false
	}
	addrs, err := n.host.AddrList(link, unix.AF_INET)
	if err != nil {
		return false
	}
	want := netip.PrefixFrom(newAddresses(p).gateway(), p.Bits()).String()
	for _, a := range addrs {
		if a.IPNet.String() == want {
			return true
		}
	}
	return false
}
