package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// echoes starts an echo on every host and returns when all answer.
func echoes(t *testing.T, n *Network) map[*Host]*Process {
	t.Helper()
	servers := map[*Host]*Process{}
	for _, h := range n.Hosts() {
		servers[h] = start(t, h, "echo")
	}
	for h, p := range servers {
		eventually(t, h.Name+" listens", func() bool { return strings.Contains(p.Log(), "ready") })
	}
	return servers
}

// dialer is a host or the seat.
type dialer interface {
	Dial(ctx context.Context, network, addr string) (net.Conn, error)
}

// connect opens a connection, or for UDP a socket, to a host's echo.
func connect(t *testing.T, from dialer, network string, to *Host) net.Conn {
	t.Helper()
	c, err := from.Dial(soon(t), network, to.Addr+echoPort)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// exchange sends words and wants them back.
func exchange(t *testing.T, c net.Conn, words string) {
	t.Helper()
	if err := tryExchange(c, words, patience); err != nil {
		t.Fatalf("%q from %s to %s: %v", words, c.LocalAddr(), c.RemoteAddr(), err)
	}
}

func tryExchange(c net.Conn, words string, within time.Duration) error {
	if _, err := c.Write([]byte(words)); err != nil {
		return err
	}
	buf := make([]byte, 1500)
	for deadline := time.Now().Add(within); ; {
		_ = c.SetReadDeadline(deadline)
		n, err := c.Read(buf)
		if err != nil {
			return err
		}
		if string(buf[:n]) == words {
			return nil
		}
	}
}

// speakAgain sends different words until some come back: a datagram may be lost.
func speakAgain(t *testing.T, c net.Conn, words string) {
	t.Helper()
	tries := 0
	eventually(t, words+" comes back", func() bool {
		tries++
		return tryExchange(c, fmt.Sprint(words, tries), time.Second) == nil
	})
}

func TestHostsAreMachinesOfTheirOwn(t *testing.T) {
	t.Parallel()
	began := time.Now()
	n := New(t, 3)
	t.Logf("three hosts made in %s", time.Since(began))
	for _, h := range n.Hosts() {
		out, err := h.Output(soon(t), program("whoami"))
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("name %s, ", h.Name); !strings.HasPrefix(out, want) {
			t.Errorf("%s says %q; want %q", h.Name, out, want)
		}
		if want := "of 2, 1 in /run, "; !strings.Contains(out, want) || !strings.Contains(out, " "+h.Addr+"/24") {
			t.Errorf("%s says %q; want %q, itself and the first process, and %s", h.Name, out, want, h.Addr)
		}
		if strings.Contains(out, prefix) || !strings.Contains(out, ":/"+inner+"\n") {
			t.Errorf("%s sees its cgroup as\n%s", h.Name, out)
		}
	}
	servers := echoes(t, n)
	for _, to := range n.Hosts() {
		for _, from := range []dialer{n, n.Host(1), n.Host(2), n.Host(3)} {
			exchange(t, connect(t, from, "tcp", to), "over TCP")
			exchange(t, connect(t, from, "udp", to), "over UDP")
		}
		if got := strings.Count(servers[to].Log(), "got over UDP\n"); got != 4 {
			t.Errorf("%s got %d datagrams; want 4", to.Name, got)
		}
	}
}

func TestCutDropsBothWays(t *testing.T) {
	t.Parallel()
	n := New(t, 3)
	one, two, three := n.Host(1), n.Host(2), n.Host(3)
	servers := echoes(t, n)
	there, back, tcp := connect(t, one, "udp", two), connect(t, two, "udp", one), connect(t, one, "tcp", two)
	aside, seat := connect(t, three, "udp", two), connect(t, n, "udp", two)
	for _, c := range []net.Conn{there, back, tcp, aside, seat} {
		exchange(t, c, "before")
	}

	n.Cut(one, two)
	for _, c := range []net.Conn{there, back, tcp} {
		if _, err := c.Write([]byte("lost")); err != nil {
			t.Errorf("a cut closed what was open: %v", err)
		}
	}
	speakAgain(t, aside, "past the cut")
	speakAgain(t, seat, "from the seat")
	_ = tcp.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if got, err := tcp.Read(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("over a cut came %d bytes: %v", got, err)
	}

	n.Heal()
	speakAgain(t, there, "healed")
	speakAgain(t, back, "healed")
	_ = tcp.SetReadDeadline(time.Now().Add(patience))
	if got, err := tcp.Read(make([]byte, 10)); err != nil || got != len("lost") {
		t.Errorf("TCP sends again what was lost; got %d bytes, %v", got, err)
	}
	for _, h := range []*Host{one, two} {
		if strings.Contains(servers[h].Log(), "got lost") {
			t.Errorf("%s got what was sent over a cut", h.Name)
		}
	}
}

func TestCutOneWayDropsOneWay(t *testing.T) {
	t.Parallel()
	n := New(t, 2)
	one, two := n.Host(1), n.Host(2)
	servers := echoes(t, n)
	there, back := connect(t, one, "udp", two), connect(t, two, "udp", one)
	exchange(t, there, "before")
	exchange(t, back, "before")

	n.CutOneWay(one, two)
	_, _ = there.Write([]byte("lost"))
	_, _ = back.Write([]byte("heard"))
	eventually(t, "one hears two", func() bool { return strings.Contains(servers[one].Log(), "got heard") })
	_ = back.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if got, err := back.Read(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the answer came back: %d bytes, %v", got, err)
	}

	n.Heal(two)
	speakAgain(t, there, "healed")
	if strings.Contains(servers[two].Log(), "got lost") {
		t.Error("two got what was sent over the cut")
	}
}

func TestIsolatedHostHearsNobody(t *testing.T) {
	t.Parallel()
	n := New(t, 3)
	one, two, three := n.Host(1), n.Host(2), n.Host(3)
	servers := echoes(t, n)
	conns := []net.Conn{connect(t, one, "udp", two), connect(t, n, "udp", one), connect(t, three, "udp", one)}
	for _, c := range conns {
		exchange(t, c, "before")
	}
	other := connect(t, two, "udp", three)
	exchange(t, other, "before")

	n.Isolate(one)
	n.Cut(two, three)
	for _, c := range append(conns, other) {
		_, _ = c.Write([]byte("lost"))
	}
	n.Heal(one)
	for _, c := range conns {
		speakAgain(t, c, "healed")
	}
	_, _ = other.Write([]byte("lost"))
	n.Heal()
	speakAgain(t, other, "healed")
	for h, p := range servers {
		if strings.Contains(p.Log(), "got lost") {
			t.Errorf("%s got what was sent over a cut", h.Name)
		}
	}
}
