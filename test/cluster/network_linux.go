package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Network is a switch with hosts on it, and a seat from which the test reaches them.
type Network struct {
	tb     testing.TB
	dir    string // disks and logs
	id     string // names the cgroups
	logs   string // directory of the logs
	hub    int    // network namespace of the bridge
	seat   int    // network namespace of the test's own place
	hosts  []*Host
	cuts   *cuts
	subnet netip.Prefix
}

const (
	prefix   = "vortex-cluster-" // begins the name of everything that could stay behind
	bridge   = "bridge"
	seatPort = "seat"
	firstIP  = 10 // the number of host 0, which does not exist
)

// made counts this process's networks: each has a range of addresses of its own, so that logs cannot be confused.
var made atomic.Uint32

// New makes a network of n hosts that disappears when the test ends. It skips the test, with the reason, where hosts cannot be made.
func New(tb testing.TB, n int) *Network {
	tb.Helper()
	require(tb)
	sweep()
	number := made.Add(1)
	id := fmt.Sprintf("%s%d-%d", prefix, os.Getpid(), number)
	net := &Network{
		tb: tb, id: id, hub: -1, seat: -1, dir: filepath.Join(os.TempDir(), id),
		subnet: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 200, byte(number), 0}), 24),
	}
	tb.Cleanup(net.remove)
	if err := net.make(n); err != nil {
		tb.Fatal(err)
	}
	return net
}

// require skips the test where hosts cannot be made.
func require(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("making hosts needs root: they are namespaces, links and cgroups")
	}
	if !initialized.Load() {
		tb.Fatal("TestMain has to call cluster.Init before the tests run")
	}
	if len(hierarchies()) == 0 {
		tb.Skip("no cgroups are mounted here")
	}
	for _, h := range hierarchies() {
		if err := unix.Access(h.path, unix.W_OK); err != nil {
			tb.Skipf("no cgroups can be made here: %s: %v", h.path, err)
		}
	}
	ns, err := newNetworkNamespace()
	if errors.Is(err, unix.EPERM) {
		tb.Skipf("no namespaces can be made here: %v", err)
	}
	_ = unix.Close(ns)
}

// make makes everything, or leaves to remove what it made.
func (n *Network) make(hosts int) (err error) {
	n.logs = os.Getenv("CLUSTER_LOGS")
	if n.logs == "" {
		n.logs = filepath.Join(n.dir, "logs")
	}
	if err := errors.Join(os.MkdirAll(n.dir, 0o755), os.MkdirAll(n.logs, 0o755)); err != nil {
		return err
	}
	if n.hub, err = newNetworkNamespace(); err != nil {
		return err
	}
	if n.seat, err = newNetworkNamespace(); err != nil {
		return err
	}
	if err := inNetwork(n.hub, makeBridge); err != nil {
		return err
	}
	if err := n.plug(seatPort, n.seat, n.address(1), hardware(0, 0)); err != nil {
		return err
	}
	if n.cuts, err = newCuts(n.hub); err != nil {
		return err
	}
	for range hosts {
		n.hosts = append(n.hosts, n.host(len(n.hosts)+1))
	}
	return furnish(n.hosts)
}

// furnish gives hosts their disks, and their power when all disks are there: a host sees no disk that came later.
func furnish(hosts []*Host) error {
	if err := together(hosts, (*Host).install); err != nil {
		return err
	}
	return together(hosts, (*Host).powerOn)
}

// Add joins one host more to the network. Those that have power do not see its disk before they get power again.
func (n *Network) Add() *Host {
	n.tb.Helper()
	h := n.host(len(n.hosts) + 1)
	n.hosts = append(n.hosts, h)
	n.check(furnish([]*Host{h}))
	return h
}

// host is one that has nothing yet.
func (n *Network) host(number int) *Host {
	return &Host{net: n, number: number, Name: fmt.Sprintf("h%d", number), Addr: n.address(firstIP + number).String()}
}

// together does the same with all hosts at once.
func together(hosts []*Host, do func(*Host) error) error {
	errs := make([]error, len(hosts))
	var wg sync.WaitGroup
	for i, h := range hosts {
		wg.Go(func() {
			if err := do(h); err != nil {
				errs[i] = fmt.Errorf("host %s: %w", h.Name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func makeBridge() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridge
	br := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(br); err != nil {
		return fmt.Errorf("make bridge: %w", err)
	}
	return netlink.LinkSetUp(br)
}

// address is the nth of the network's range.
func (n *Network) address(nth int) netip.Addr {
	a := n.subnet.Addr().As4()
	a[3] = byte(nth)
	return netip.AddrFrom4(a)
}

// hardware is a port's hardware address: a host that comes back is known to its peers.
func hardware(network, host byte) net.HardwareAddr {
	return net.HardwareAddr{2, 'v', 'x', network, 0, host}
}

// plug joins a network namespace to the bridge by a port of that name, and gives it its address.
func (n *Network) plug(port string, ns int, addr netip.Addr, mac net.HardwareAddr) error {
	err := inNetwork(n.hub, func() error {
		br, err := netlink.LinkByName(bridge)
		if err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MasterIndex = port, br.Attrs().Index
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(ns)}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("make link: %w", err)
		}
		return netlink.LinkSetUp(veth)
	})
	if err != nil {
		return err
	}
	return inNetwork(ns, func() error { return n.configure(addr) })
}

// configure raises the links of the namespace it is called in. The way out is by the seat, which forwards nothing.
func (n *Network) configure(addr netip.Addr) error {
	for _, name := range []string{"lo", "eth0"} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find %s: %w", name, err)
		}
		if name != "lo" {
			ip := &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(n.subnet.Bits(), addr.BitLen())}
			if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ip}); err != nil {
				return fmt.Errorf("add address: %w", err)
			}
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("raise %s: %w", name, err)
		}
		if gateway := n.address(1); name != "lo" && addr != gateway {
			if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.AsSlice()}); err != nil {
				return fmt.Errorf("add route: %w", err)
			}
		}
	}
	return nil
}

// unplug takes a port away, as one pulls a cable and forgets it.
func (n *Network) unplug(port string) error {
	return inNetwork(n.hub, func() error {
		link, err := netlink.LinkByName(port)
		if err != nil {
			return nil //nolint:nilerr // there is none
		}
		return gone(netlink.LinkDel(link))
	})
}

// gone takes the error away of who asked for a link that the kernel took away in the same moment, with the namespace of its other end.
func gone(err error) error {
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// Host returns the nth host, from 1.
func (n *Network) Host(nth int) *Host { return n.hosts[nth-1] }

// Hosts returns all hosts in the order of their numbers.
func (n *Network) Hosts() []*Host { return n.hosts }

// Dial connects from the seat to an address of the network. It has the shape that HTTP transports and gRPC dialers want.
func (n *Network) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return dial(ctx, n.seat, network, addr)
}

// HTTP returns a client that makes its connections from the seat.
func (n *Network) HTTP() *http.Client {
	transport := &http.Transport{DialContext: n.Dial, MaxIdleConnsPerHost: 64}
	n.tb.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// remove takes everything away; when the test failed, it prints how the logs end first.
func (n *Network) remove() {
	if n.tb.Failed() {
		for _, h := range n.hosts {
			h.printLogs()
		}
	}
	if err := together(n.hosts, (*Host).uninstall); err != nil {
		n.tb.Error(err)
	}
	for _, fd := range []int{n.seat, n.hub} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
	if err := os.RemoveAll(n.dir); err != nil {
		n.tb.Error(err)
	}
}

// check ends the test if there was an error.
func (n *Network) check(err error) {
	n.tb.Helper()
	if err != nil {
		n.tb.Fatal(err)
	}
}
