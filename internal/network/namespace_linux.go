package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// wiring says how a namespace is connected.
type wiring struct {
	host    *netlink.Handle // a handle on the node's own namespace
	bridge  int             // link index
	name    string          // of the veth's end on the node
	addr    netip.Addr
	gateway netip.Addr
	bits    int
	mtu     int
}

// onThread runs fn on a thread of its own, in whatever namespace fn moves it to. The goroutine ends locked to
// its thread, which the Go runtime therefore destroys: no other goroutine ever runs on a thread that was moved. The
// process's first thread cannot be destroyed and stands for the process in /proc, so it is never used.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			done <- onThread(fn) // on another thread, since this goroutine keeps this one
			runtime.UnlockOSThread()
			return
		}
		done <- fn()
	}()
	return <-done
}

// makeNamespace makes a network namespace, keeps it alive with a bind mount on path, and connects it.
func makeNamespace(path string, w wiring) error {
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return fmt.Errorf("make namespace file: %w", err)
	}
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare network: %w", err)
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount namespace: %w", err)
		}
		return connect(w)
	})
}

// rewire connects an existing namespace again whose veth is gone.
func rewire(path string, w wiring) error {
	return onThread(func() error {
		if err := enter(path); err != nil {
			return err
		}
		return connect(w)
	})
}

// enter moves the calling thread, which must be locked, into the namespace at path.
func enter(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open namespace: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter namespace: %w", err)
	}
	return nil
}

// connect makes the veth pair and configures both ends. The calling thread is in the new namespace.
func connect(w wiring) error {
	ns, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open own namespace: %w", err)
	}
	defer func() { _ = unix.Close(ns) }()
	inside, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer inside.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex = w.name, w.mtu, w.bridge
	veth := &netlink.Veth{
		LinkAttrs: attrs, PeerName: "eth0", PeerMTU: uint32(w.mtu),
		PeerHardwareAddr: hardwareAddr(w.addr), PeerNamespace: netlink.NsFd(ns),
	}
	if err := w.host.LinkAdd(veth); err != nil {
		return fmt.Errorf("make veth: %w", err)
	}
	relaxNamespace()
	if err := configureInside(inside, w); err != nil {
		return err
	}
	return errors.Join(
		ignoreUnsupported(w.host.LinkSetIP6AddrGenMode(veth, ip6GenNone)),
		wrap("set hairpin", w.host.LinkSetHairpin(veth, true)),
		wrap("raise veth", w.host.LinkSetUp(veth)))
}

// ip6GenNone tells the kernel to give a link no IPv6 address by itself.
const ip6GenNone = 1

func configureInside(h *netlink.Handle, w wiring) error {
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	eth, err := h.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("find eth0: %w", err)
	}
	addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(w.addr, w.bits))}
	route := &netlink.Route{LinkIndex: eth.Attrs().Index, Gw: w.gateway.AsSlice()}
	if err := wrap("add address", h.AddrAdd(eth, addr)); err != nil {
		return err
	}
	if err := errors.Join(wrap("raise loopback", h.LinkSetUp(lo)), wrap("raise eth0", h.LinkSetUp(eth))); err != nil {
		return err
	}
	return wrap("add default route", h.RouteAdd(route))
}

// relaxNamespace sets what container images expect of a namespace: ports below 1024 and ping need no
// privilege, and eth0, which has no IPv6 route, takes no IPv6 address. A kernel without one of these settings is fine.
func relaxNamespace() {
	for _, s := range [][2]string{
		{"net/ipv4/ip_unprivileged_port_start", "0"},
		{"net/ipv4/ping_group_range", "0 2147483647"},
		{"net/ipv6/conf/eth0/disable_ipv6", "1"},
	} {
		_ = setSysctl(s[0], s[1]) // best effort, see above
	}
}

func setSysctl(name, value string) error {
	if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0o644); err != nil {
		return fmt.Errorf("set sysctl: %w", err)
	}
	return nil
}

// nsfsMagic is the type of the file system that namespaces live in (NSFS_MAGIC in linux/magic.h).
const nsfsMagic = 0x6e736673

// isNamespace reports whether a namespace is mounted on path.
func isNamespace(path string) bool { return isMounted(path, nsfsMagic) }

// isMounted reports whether path is on a file system of a type.
func isMounted(path string, magic int64) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == magic
}

// hardwareAddr derives a locally administered address from an IP, so that an address that
// comes back is not held up by a neighbour's stale cache.
func hardwareAddr(ip netip.Addr) net.HardwareAddr {
	b := ip.As4()
	return net.HardwareAddr{0x0a, 0x58, b[0], b[1], b[2], b[3]}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}

// wrap adds what was done to an error, and keeps nil nil.
func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// ignoreUnsupported drops the error of a kernel without IPv6.
func ignoreUnsupported(err error) error {
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) {
		return nil
	}
	return wrap("set address generation", err)
}
