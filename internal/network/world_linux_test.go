package network

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	vxruntime "vortex/internal/runtime"
)

const patience = 20 * time.Second

var testNumber atomic.Uint32

// testConfig returns a config whose bridge, table and subnet no other test has, in this process or another.
func testConfig(tb testing.TB) Config {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("needs root to make network namespaces")
	}
	k := uint32(os.Getpid())*32 + testNumber.Add(1)%32
	name := fmt.Sprintf("vxt%d", k%1e6)
	return Config{
		Bridge: name, Table: name, DataDir: filepath.Join(tb.TempDir(), "network"), PoolSize: -1,
		Subnet: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(160 + k/256%64), byte(k % 256), 0}), 24),
		Log:    slog.New(slog.NewTextHandler(testWriter{tb}, nil)),
	}
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", b)
	return len(b), nil
}

// setup makes a network of cfg that is torn down with the test.
func setup(tb testing.TB, cfg Config) *Network {
	tb.Helper()
	n := mustNew(tb, cfg)
	tb.Cleanup(func() {
		if err := n.Teardown(context.Background()); err != nil {
			tb.Errorf("Teardown: %v", err)
		}
		if _, err := netlink.LinkByName(cfg.Bridge); err == nil {
			tb.Errorf("bridge %s left behind", cfg.Bridge)
		}
	})
	return n
}

func mustNew(tb testing.TB, cfg Config) *Network {
	tb.Helper()
	n, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	if err := n.Setup(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	return n
}

func mustAttach(tb testing.TB, n *Network, id string, spec AttachSpec) Attachment {
	tb.Helper()
	a, err := n.Attach(tb.Context(), id, spec)
	if err != nil {
		tb.Fatalf("Attach(%s): %v", id, err)
	}
	return a
}

// in runs fn in the namespace at path; "" is the node's.
func in(tb testing.TB, path string, fn func() error) {
	tb.Helper()
	if err := try(path, fn); err != nil {
		tb.Fatalf("in namespace %q: %v", path, err)
	}
}

func try(path string, fn func() error) error {
	return onThread(func() error {
		if path != "" {
			if err := enter(path); err != nil {
				return err
			}
		}
		return fn()
	})
}

// serve answers each TCP connection in the namespace with the client's address and a newline. Port 0 picks one.
func serve(tb testing.TB, path string, port uint16) uint16 {
	tb.Helper()
	var ln net.Listener
	in(tb, path, func() (err error) {
		ln, err = net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", port))
		return err
	})
	tb.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			io.WriteString(c, host+"\n")
			c.Close()
		}
	}()
	return uint16(ln.Addr().(*net.TCPAddr).Port)
}

// ask connects from a namespace and returns what the server saw as the client's address.
func ask(path, addr string) (seen string, err error) {
	err = try(path, func() error {
		c, err := net.DialTimeout("tcp4", addr, 5*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(5 * time.Second))
		b, err := io.ReadAll(c)
		seen = string(b)
		return err
	})
	return seen, err
}

func mustAsk(tb testing.TB, path, addr, want string) {
	tb.Helper()
	seen, err := ask(path, addr)
	if err != nil || (want != "" && seen != want+"\n") {
		tb.Errorf("connection from %q to %s: client seen as %q, %v; want %s", path, addr, seen, err, want)
	}
}

// ping sends an echo request from a namespace and waits for the reply.
func ping(path string, to netip.Addr) error {
	return try(path, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		tv := unix.NsecToTimeval(int64(5 * time.Second))
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
		echo := []byte{8, 0, 0, 0, 0, 0, 0, 1} // the kernel fills in identifier and checksum
		if err := unix.Sendto(fd, echo, 0, &unix.SockaddrInet4{Addr: to.As4()}); err != nil {
			return err
		}
		buf := make([]byte, 64)
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err == nil && (n < 8 || buf[0] != 0) {
			return fmt.Errorf("answer %v is no echo reply", buf[:n])
		}
		return err
	})
}

// world is a namespace outside of the bridge, connected to the node by a link of its own: the internet of the tests.
type world struct {
	path       string
	node, self netip.Addr
}

func makeWorld(tb testing.TB) world {
	tb.Helper()
	k := uint32(os.Getpid())*32 + testNumber.Add(1)%32
	base := binary.BigEndian.Uint32([]byte{198, 18, 0, 0}) + k%16384*4 // 198.18.0.0/15 is for tests of networks
	w := world{path: filepath.Join(tb.TempDir(), "world"), node: fromUint(base + 1), self: fromUint(base + 2)}
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		tb.Fatal(err)
	}
	name := fmt.Sprintf("vxw%08x", base)
	tb.Cleanup(func() {
		if l, err := host.LinkByName(name); err == nil {
			host.LinkDel(l)
		}
		host.Close()
		unmount(w.path)
	})
	if err := makeNamespace(w.path, wiring{host: host, name: name, addr: w.self, gateway: w.node, bits: 30, mtu: 1500}); err != nil && host == nil {
		tb.Fatal(err)
	}
	l, err := host.LinkByName(name)
	if err != nil {
		tb.Fatal(err)
	}
	if err := host.AddrAdd(l, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(w.node, 30))}); err != nil {
		tb.Fatal(err)
	}
	if err := host.LinkSetUp(l); err != nil {
		tb.Fatal(err)
	}
	if err := ping(w.path, w.node); err != nil {
		tb.Fatalf("world does not reach the node: %v", err)
	}
	return w
}

// eventually waits for a condition.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			tb.Fatalf("waited %v in vain for: %s", patience, what)
		}
		time.Sleep(5 * time.Millisecond)
		runtime.Gosched()
	}
}

func portTo(host, container uint16) vxruntime.PortMapping {
	return vxruntime.PortMapping{HostPort: host, ContainerPort: container}
}
