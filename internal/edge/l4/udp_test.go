package l4_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"vortex/internal/edge/l4"
	"vortex/internal/edge/pool"
)

// udpBackend answers each datagram with its name and the datagram, until the test ends.
func udpBackend(t *testing.T, name string) (pool.Endpoint, func()) {
	t.Helper()
	pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr(0)))
	if err != nil {
		t.Fatal(err)
	}
	_ = pc.SetReadBuffer(4 << 20)
	var serving sync.WaitGroup
	serving.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			n, from, err := pc.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteToUDPAddrPort(append([]byte(name+" "), buf[:n]...), from)
		}
	})
	stop := sync.OnceFunc(func() {
		pc.Close()
		serving.Wait()
	})
	t.Cleanup(stop)
	self, _ := netip.ParseAddrPort(pc.LocalAddr().String())
	return pool.Endpoint{Instance: name, Addr: self}, stop
}

func udpDial(t *testing.T, port uint16) *net.UDPConn {
	t.Helper()
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(addr(port)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// exchange sends a datagram and returns the answer; it sends again when none comes, as clients of UDP do.
func exchange(t *testing.T, c *net.UDPConn, text string) string {
	t.Helper()
	buf := make([]byte, 64<<10)
	for range 100 {
		if _, err := c.Write([]byte(text)); err != nil {
			continue // the port was closed a moment ago
		}
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		n, err := c.Read(buf)
		if err == nil {
			return string(buf[:n])
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			time.Sleep(time.Millisecond) // refused
		}
	}
	t.Fatalf("no answer to %q", text)
	return ""
}

func TestUDPSessionStaysWithItsBackend(t *testing.T) {
	h := start(t, nil)
	port := freePort(t)
	a, _ := udpBackend(t, "a")
	b, _ := udpBackend(t, "b")
	h.apply(t, "app", l4.Service{Protocol: l4.UDP, First: port, Endpoints: []pool.Endpoint{a, b}})
	seen := map[string]int{}
	for i := range 20 {
		c := udpDial(t, port)
		first := exchange(t, c, "hello")
		seen[first]++
		for range 5 {
			if got := exchange(t, c, "hello"); got != first {
				t.Fatalf("client %d got %q, then %q", i, first, got)
			}
		}
	}
	if seen["a hello"] == 0 || seen["b hello"] == 0 {
		t.Errorf("answers: %v", seen)
	}
	eventually(t, "the counts", func() bool {
		n := h.port(l4.UDP, port).Counts
		return n.Active == 20 && n.Opened == 20 && n.Received >= 20*6*5 && n.Sent >= 20*6*7
	})
	big := string(make([]byte, 60_000))
	if got := exchange(t, udpDial(t, port), big); len(got) != len(big)+2 {
		t.Errorf("a datagram of %d bytes came back as %d", len(big), len(got))
	}
}

func TestUDPGoesOnWhenABackendDies(t *testing.T) {
	h := start(t, func(c *l4.Config) { c.SkipDead = time.Minute })
	port := freePort(t)
	a, stop := udpBackend(t, "a")
	b, _ := udpBackend(t, "b")
	h.apply(t, "app", l4.Service{Protocol: l4.UDP, First: port, Endpoints: []pool.Endpoint{a}})
	c := udpDial(t, port)
	if got := exchange(t, c, "x"); got != "a x" {
		t.Fatalf("got %q", got)
	}
	h.apply(t, "app", l4.Service{Protocol: l4.UDP, First: port, Endpoints: []pool.Endpoint{a, b}})
	if got := exchange(t, c, "x"); got != "a x" {
		t.Errorf("after a backend more: %q", got)
	}
	stop()
	if got := exchange(t, c, "x"); got != "b x" {
		t.Errorf("after its backend died: %q", got)
	}
}

func TestSilentUDPSessionsEnd(t *testing.T) {
	h := start(t, nil)
	port := freePort(t)
	a, _ := udpBackend(t, "a")
	h.apply(t, "app", l4.Service{Protocol: l4.UDP, First: port, IdleTimeout: 50 * time.Millisecond, Endpoints: []pool.Endpoint{a}})
	c := udpDial(t, port)
	exchange(t, c, "x")
	eventually(t, "the session to end", func() bool { return h.port(l4.UDP, port).Counts.Active == 0 })
	if got := exchange(t, c, "y"); got != "a y" {
		t.Errorf("its next datagram: %q", got)
	}
	h.Set("app", nil)
	eventually(t, "the port to close", func() bool {
		pc, err := net.ListenPacket("udp", local(port))
		if err == nil {
			pc.Close()
		}
		return err == nil
	})
	if busy := h.fleet.Busy(); len(busy) > 0 {
		t.Errorf("busy after the port has closed: %v", busy)
	}
}

func TestUDPSessionsAreBounded(t *testing.T) {
	h := start(t, nil)
	port := freePort(t)
	a, _ := udpBackend(t, "a")
	const most = 10_000
	clients := most + 500
	if testing.Short() {
		clients = 600
	}
	bound := min(most, clients-100)
	h.apply(t, "app", l4.Service{Protocol: l4.UDP, First: port, MaxSessions: bound, Endpoints: []pool.Endpoint{a}})
	before := openFiles(t)
	answered := 0
	buf := make([]byte, 100)
	for i := range clients {
		self := &net.UDPAddr{IP: net.IPv4(127, 1, byte(i/250), byte(i%250+1))}
		c, err := net.DialUDP("udp", self, net.UDPAddrFromAddrPort(addr(port)))
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			text := fmt.Sprintf("client %d", i)
			_, _ = c.Write([]byte(text))
			_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if n, err := c.Read(buf); err == nil && string(buf[:n]) == "a "+text {
				answered++
				break
			}
		}
		c.Close()
		if n := h.port(l4.UDP, port).Counts.Active; n > int64(bound) {
			t.Fatalf("%d sessions, at most %d are allowed", n, bound)
		}
	}
	if answered < bound {
		t.Errorf("%d clients were answered", answered)
	}
	if files := openFiles(t); files > before+bound+100 {
		t.Errorf("%d descriptors are open", files)
	}
}

func TestUDPAnswersFromWhereItWasAsked(t *testing.T) {
	h := start(t, func(c *l4.Config) { c.Host = "" })
	port := freePort(t)
	a, _ := udpBackend(t, "a")
	h.apply(t, "app", l4.Service{Protocol: l4.UDP, First: port, Endpoints: []pool.Endpoint{a}})
	for _, host := range []string{"127.0.0.1", "127.0.0.77", "::1"} {
		to := netip.AddrPortFrom(netip.MustParseAddr(host), port)
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to)) // takes answers from there alone
		if err != nil {
			t.Logf("no %s here: %v", host, err)
			continue
		}
		if got := exchange(t, c, "x"); got != "a x" {
			t.Errorf("%s: %q", host, got)
		}
		c.Close()
	}
}
