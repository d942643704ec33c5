package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"vortex"
	"vortex/internal/runtime"
)

func TestReach(t *testing.T) {
	n := setup(t, testConfig(t))
	a, b := mustAttach(t, n, "a", AttachSpec{}), mustAttach(t, n, "b", AttachSpec{})
	w := makeWorld(t)
	portA, portNode, portWorld := serve(t, a.NetNS, 80), serve(t, "", 0), serve(t, w.path, 0)

	mustAsk(t, "", fmt.Sprintf("%s:%d", a.IP, portA), a.Gateway.String())
	mustAsk(t, b.NetNS, fmt.Sprintf("%s:%d", a.IP, portA), b.IP.String())
	mustAsk(t, a.NetNS, fmt.Sprintf("127.0.0.1:%d", portA), "127.0.0.1")
	mustAsk(t, a.NetNS, fmt.Sprintf("%s:%d", a.Gateway, portNode), a.IP.String())
	mustAsk(t, a.NetNS, fmt.Sprintf("%s:%d", w.self, portWorld), w.node.String())
	for _, to := range []netip.Addr{a.Gateway, b.IP, w.self} {
		if err := ping(a.NetNS, to); err != nil {
			t.Errorf("ping %s: %v", to, err)
		}
	}
}

func TestPublishedPorts(t *testing.T) {
	n := setup(t, testConfig(t))
	w := makeWorld(t)
	port := freePort(t)
	a := mustAttach(t, n, "a", AttachSpec{Ports: []runtime.PortMapping{{HostPort: port, ContainerPort: 8080}}})
	b := mustAttach(t, n, "b", AttachSpec{})
	serve(t, a.NetNS, 8080)
	at := func(ip any) string { return fmt.Sprintf("%v:%d", ip, port) }

	mustAsk(t, "", at("127.0.0.1"), "")
	mustAsk(t, "", at(w.node), "")
	mustAsk(t, w.path, at(w.node), w.self.String()) // the client's own address is kept
	mustAsk(t, b.NetNS, at(b.Gateway), "")
	mustAsk(t, a.NetNS, at(a.Gateway), "")

	_, err := n.Attach(t.Context(), "c", AttachSpec{Ports: []runtime.PortMapping{{HostPort: freePort(t), ContainerPort: 1}, {HostPort: port, ContainerPort: 1}}})
	if !vortex.IsKind(err, vortex.Exists) || !strings.Contains(err.Error(), "instance a") {
		t.Errorf("second holder of a host port: %v; want Exists naming instance a", err)
	}
	if _, err := net.Listen("tcp", fmt.Sprintf(":%d", port)); err == nil {
		t.Error("another process could take the published port")
	}
	if err := n.Detach(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := ask("", at("127.0.0.1")); err == nil {
		t.Error("port still answers after Detach")
	}
	mustAttach(t, n, "c", AttachSpec{Ports: []runtime.PortMapping{{HostPort: port, ContainerPort: 1}}})
}

func TestPublishedPortUDP(t *testing.T) {
	n := setup(t, testConfig(t))
	port := freePort(t)
	a := mustAttach(t, n, "a", AttachSpec{Ports: []runtime.PortMapping{{HostPort: port, ContainerPort: 53, UDP: true}}})
	var pc net.PacketConn
	in(t, a.NetNS, func() (err error) {
		pc, err = net.ListenPacket("udp4", "0.0.0.0:53")
		return err
	})
	defer pc.Close()
	go func() {
		buf := make([]byte, 64)
		for {
			k, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			pc.WriteTo(append([]byte("re: "), buf[:k]...), from)
		}
	}()
	c, err := net.Dial("udp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("hello"))
	buf := make([]byte, 64)
	k, err := c.Read(buf)
	if err != nil || string(buf[:k]) != "re: hello" {
		t.Errorf("answer %q, %v", buf[:k], err)
	}
}

func TestPortOfAnotherProcessIsNamed(t *testing.T) {
	n := setup(t, testConfig(t))
	ln, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	port := uint16(ln.Addr().(*net.TCPAddr).Port)
	_, err = n.Attach(t.Context(), "a", AttachSpec{Ports: []runtime.PortMapping{{HostPort: port, ContainerPort: 80}}})
	if !vortex.IsKind(err, vortex.Exists) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("Attach = %v; want Exists naming this process", err)
	}
	mustAttach(t, n, "a", AttachSpec{}) // nothing of the failure is left
}

// An instance must not reach what listens on the node's loopback, though route_localnet is on.
func TestLoopbackOfTheNodeIsClosed(t *testing.T) {
	n := setup(t, testConfig(t))
	a := mustAttach(t, n, "a", AttachSpec{})
	port := serve(t, "", 0)
	err := try(a.NetNS, func() error {
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/eth0/route_localnet", []byte("1"), 0o644); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetDown(lo), netlink.RouteReplace(&netlink.Route{
			Dst: ipNet(netip.MustParsePrefix("127.0.0.0/8")), Gw: a.Gateway.AsSlice(), Table: 255,
		}))
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen, err := ask(a.NetNS, fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
		t.Errorf("instance reached the node's loopback, seen as %q", seen)
	}
}

func TestFiles(t *testing.T) {
	cfg := testConfig(t)
	cfg.DNS = []netip.Addr{netip.MustParseAddr("10.9.9.9")}
	n := setup(t, cfg)
	a := mustAttach(t, n, "web-1", AttachSpec{Hostname: "web", ExtraHosts: []string{"db:10.0.0.7", "six:fd00::1", "node:host-gateway"}})
	for file, wants := range map[string][]string{
		a.HostsFile:    {"127.0.0.1\tlocalhost\n", "10.0.0.7\tdb\n", "fd00::1\tsix\n", a.Gateway.String() + "\tnode\n", a.IP.String() + "\tweb\n"},
		a.ResolvFile:   {"nameserver 10.9.9.9\n"},
		a.HostnameFile: {"web\n"},
	} {
		b, err := os.ReadFile(file)
		for _, want := range wants {
			if err != nil || !strings.Contains(string(b), want) {
				t.Errorf("%s = %q, %v; want %q in it", file, b, err, want)
			}
		}
	}
}

func TestAttachErrors(t *testing.T) {
	cfg := testConfig(t)
	cfg.Subnet = netip.PrefixFrom(cfg.Subnet.Addr(), 29)
	unset, _ := New(cfg)
	if _, err := unset.Attach(t.Context(), "a", AttachSpec{}); !vortex.IsKind(err, vortex.Precondition) {
		t.Errorf("Attach before Setup = %v; want Precondition", err)
	}
	n := setup(t, cfg)
	for k := range 5 {
		mustAttach(t, n, fmt.Sprintf("i-%d", k), AttachSpec{})
	}
	if _, err := n.Attach(t.Context(), "i-0", AttachSpec{}); !vortex.IsKind(err, vortex.Exists) {
		t.Errorf("second Attach = %v; want Exists", err)
	}
	if _, err := n.Attach(t.Context(), "one-more", AttachSpec{}); !vortex.IsKind(err, vortex.Exhausted) {
		t.Errorf("Attach in a full subnet = %v; want Exhausted", err)
	}
	if err := errors.Join(n.Detach(t.Context(), "i-3"), n.Detach(t.Context(), "i-3"), n.Detach(t.Context(), "never-was")); err != nil {
		t.Errorf("Detach is not idempotent: %v", err)
	}
	mustAttach(t, n, "one-more", AttachSpec{})
	other, _ := New(cfg)
	if err := other.Setup(t.Context()); !vortex.IsKind(err, vortex.Precondition) {
		t.Errorf("second process on the same directory: %v; want Precondition", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.Attach(ctx, "late", AttachSpec{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Attach with an ended context = %v", err)
	}
}

func TestManyAtOnce(t *testing.T) {
	cfg := testConfig(t)
	cfg.Subnet = netip.PrefixFrom(cfg.Subnet.Addr(), 22).Masked()
	n := setup(t, cfg)
	const count = 300
	got := make([]Attachment, count)
	var wg sync.WaitGroup
	for k := range count {
		wg.Go(func() {
			var err error
			if got[k], err = n.Attach(t.Context(), fmt.Sprintf("i-%d", k), AttachSpec{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	seen := map[netip.Addr]bool{}
	for _, a := range got {
		if seen[a.IP] || !isNamespace(a.NetNS) {
			t.Fatalf("attachment %+v: address twice or no namespace", a)
		}
		seen[a.IP] = true
	}
	if err := ping(got[0].NetNS, got[count-1].IP); err != nil {
		t.Error(err)
	}
	for k := range count {
		wg.Go(func() {
			if err := n.Detach(t.Context(), fmt.Sprintf("i-%d", k)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if left := links(t, n); left != 0 {
		t.Errorf("%d links left after everything was detached", left)
	}
}

func TestPoolIsKeptFilled(t *testing.T) {
	cfg := testConfig(t)
	cfg.PoolSize = 4
	n := setup(t, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	for k := range 12 {
		eventually(t, "a full pool", func() bool { return poolLen(n) > 2 })
		a := mustAttach(t, n, fmt.Sprintf("i-%d", k), AttachSpec{})
		if err := ping(a.NetNS, a.Gateway); err != nil {
			t.Errorf("pooled namespace: %v", err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v after its context ended; want nil", err)
	}
}

// What others remove, Run puts back.
func TestRunRepairs(t *testing.T) {
	cfg := testConfig(t)
	n := setup(t, cfg)
	port := freePort(t)
	a := mustAttach(t, n, "a", AttachSpec{Ports: []runtime.PortMapping{{HostPort: port, ContainerPort: 80}}})
	serve(t, a.NetNS, 80)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { n.Run(ctx) })
	defer wg.Wait()
	defer cancel()

	c, _ := nftables.New()
	c.DelTable(n.fw.tableRef())
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "published port after the table was deleted", func() bool {
		_, err := ask("", fmt.Sprintf("127.0.0.1:%d", port))
		return err == nil
	})
	if own, docker := n.fw.ownRules(c); docker {
		if err := n.fw.closeDockerUser(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "own rules in DOCKER-USER", func() bool { own, _ = n.fw.ownRules(c); return len(own) == 2 })
	}
	br, _ := netlink.LinkByName(cfg.Bridge)
	if err := netlink.LinkDel(br); err != nil {
		t.Fatal(err)
	}
	if err := n.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "instance after the bridge was deleted", func() bool { return ping(a.NetNS, a.Gateway) == nil })
}

func TestTeardownLeavesNothing(t *testing.T) {
	cfg := testConfig(t)
	n := mustNew(t, cfg)
	mustAttach(t, n, "a", AttachSpec{})
	if err := n.Teardown(t.Context()); err != nil {
		t.Fatal(err)
	}
	c, _ := nftables.New()
	if own, _ := n.fw.ownRules(c); len(own) != 0 {
		t.Errorf("%d rules left in DOCKER-USER", len(own))
	}
	if _, err := c.ListTableOfFamily(cfg.Table, nftables.TableFamilyIPv4); err == nil {
		t.Error("table left")
	}
	if _, err := os.Stat(cfg.DataDir); !os.IsNotExist(err) {
		t.Errorf("data directory left: %v", err)
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if strings.Contains(string(mounts), filepath.Clean(cfg.DataDir)) {
		t.Error("mounts left")
	}
}

func TestNoDockerUser(t *testing.T) {
	cfg := testConfig(t)
	cfg.NoDockerUser = true
	n := setup(t, cfg)
	c, _ := nftables.New()
	if own, _ := n.fw.ownRules(c); len(own) != 0 {
		t.Errorf("%d rules in DOCKER-USER in spite of NoDockerUser", len(own))
	}
	a := mustAttach(t, n, "a", AttachSpec{})
	if err := ping(a.NetNS, a.Gateway); err != nil {
		t.Errorf("node not reached: %v", err)
	}
}

func freePort(tb testing.TB) uint16 {
	tb.Helper()
	ln, err := net.Listen("tcp", ":0")
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	return uint16(ln.Addr().(*net.TCPAddr).Port)
}

func poolLen(n *Network) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.pool)
}

// links counts the veths on the bridge.
func links(tb testing.TB, n *Network) int {
	tb.Helper()
	all, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		tb.Fatal(err)
	}
	count := 0
	for _, l := range all {
		if l.Attrs().MasterIndex == n.bridge {
			count++
		}
	}
	return count
}
