package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vortex"
)

// routeProtocol marks the routes that are this package's, as every program marks its own: /etc/iproute2/rt_protos lists the known ones.
const routeProtocol = netlink.RouteProtocol(86)

// SetRoutes makes these the routes to other nodes' subnets, each by the node's address, and removes those that were set before and lie within
// the cluster's range. A route that the kernel refuses does not keep the others from being set; the error names it.
func (n *Network) SetRoutes(_ context.Context, routes map[netip.Prefix]netip.Addr) error {
	n.mu.Lock()
	err := n.ready()
	n.mu.Unlock()
	if err != nil {
		return err
	}
	old, err := n.host.RouteListFiltered(unix.AF_INET, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	var errs []error
	for to, by := range routes {
		route := netlink.Route{Dst: network(to), Gw: by.AsSlice(), Protocol: routeProtocol}
		if err := n.host.RouteReplace(&route); err != nil {
			errs = append(errs, vortex.Errorf(vortex.Precondition, "no route to the instances of %s by %s; are the machines on one network segment? %w", to, by, err))
		}
	}
	for _, route := range old {
		to, ok := prefix(route.Dst)
		if _, wanted := routes[to]; !ok || wanted || !n.cfg.Cluster.Overlaps(to) {
			continue
		}
		if err := n.host.RouteDel(&route); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove the route to %s: %w", to, err))
		}
	}
	return errors.Join(errs...)
}

func network(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Masked().Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func prefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones), ok
}
