package l4

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vortex/internal/edge/pool"
)

// descriptor returns the descriptor of a connection, which stays open until the test ends.
func descriptor(t *testing.T, c *net.UDPConn) int {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var fd int
	if err := raw.Control(func(n uintptr) { fd = int(n) }); err != nil {
		t.Fatal(err)
	}
	return fd
}

// pair returns two sockets, the first of which is connected with the second.
func pair(t *testing.T) (from, to *net.UDPConn) {
	t.Helper()
	to, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { to.Close() })
	from, err = net.DialUDP("udp4", nil, to.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { from.Close() })
	return from, to
}

// take receives n datagrams.
func take(t *testing.T, c *net.UDPConn, n int) (got []string) {
	t.Helper()
	buf := make([]byte, maxDatagram)
	if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for range n {
		m, err := c.Read(buf)
		if err != nil {
			t.Fatalf("after %d of %d datagrams: %v", len(got), n, err)
		}
		got = append(got, string(buf[:m]))
	}
	return got
}

// TestOutboxKeepsDatagramsApart sends slots of all kinds, where the kernel cuts messages apart and where it refuses to.
func TestOutboxKeepsDatagramsApart(t *testing.T) {
	type slot struct {
		data string
		size int // of the datagrams in it; 0 is one
	}
	full := func(c string) string { return strings.Repeat(c, 100) }
	slots := []slot{
		{full("a"), 0},
		{full("b"), 0},
		{full("c") + full("d") + "e", 100}, // joins, and ends what may join
		{full("f"), 0},
		{"", 0},
		{full("g") + full("h"), 100},
		{full("i"), 0},
		{"short", 0},
		{"longer than that", 0},
		{full("j") + full("k"), 50},
	}
	var want []string
	for _, s := range slots {
		if s.size == 0 {
			want = append(want, s.data)
			continue
		}
		for piece := range slices.Chunk([]byte(s.data), s.size) {
			want = append(want, string(piece))
		}
	}
	for _, refused := range []bool{false, true} {
		t.Run(fmt.Sprintf("refused=%v", refused), func(t *testing.T) {
			from, to := pair(t)
			fd := descriptor(t, from)
			if refused { // without checksums of its own the kernel does not cut datagrams apart
				if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1); err != nil {
					t.Fatal(err)
				}
			}
			var o outbox
			o.init(batchSize)
			s := &udpSession{}
			bytes := 0
			for i, slot := range slots {
				o.put(s, i, []byte(slot.data), slot.size, nil, nil)
				bytes += len(slot.data)
			}
			if o.used >= len(slots) {
				t.Errorf("%d slots became %d messages", len(slots), o.used)
			}
			sent, _, err := o.send(fd, 0)
			if err != nil || sent != bytes {
				t.Errorf("sent %d of %d bytes: %v", sent, bytes, err)
			}
			if got := take(t, to, len(want)); !slices.Equal(got, want) {
				t.Errorf("got  %q\nwant %q", got, want)
			}
			if s.apart != refused {
				t.Errorf("apart is %v", s.apart)
			}
		})
	}
}

// TestUDPBurstsKeepTheirDatagrams sends bursts through a port from a client, and to a backend, that let the kernel cut and put together.
func TestUDPBurstsKeepTheirDatagrams(t *testing.T) {
	backend, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Close()
	_ = backend.SetReadBuffer(4 << 20)
	began := time.Now()
	now := func() int64 { return int64(time.Since(began)) + 1 }
	fleet := pool.NewFleet(pool.Config{Now: now})
	s := New(Config{Fleet: fleet, Now: now, Host: "127.0.0.1"})
	served := serve(t, s)
	pc, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	port := pc.LocalAddr().(*net.UDPAddr).AddrPort()
	pc.Close()
	s.Set("app", []Service{{
		App: "app", Protocol: UDP, First: port.Port(),
		Endpoints: []pool.Endpoint{{Instance: "a", Addr: backend.LocalAddr().(*net.UDPAddr).AddrPort()}},
	}})
	served(port.Port())

	client, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(port))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	fd := descriptor(t, client)
	const size, count = 200, 40
	if err := unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT, size); err != nil {
		t.Skipf("the kernel does not cut datagrams apart: %v", err)
	}
	var want []string
	for i := range count {
		text := fmt.Sprintf("%-*d", size, i)
		if i == count-1 {
			text = "last"
		}
		want = append(want, text)
	}
	burst := strings.Join(want, "")
	if _, err := client.Write([]byte(burst)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, maxDatagram)
	if err := backend.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var got []string
	for range count {
		n, from, err := backend.ReadFromUDPAddrPort(buf)
		if err != nil {
			t.Fatalf("after %d datagrams: %v", len(got), err)
		}
		got = append(got, string(buf[:n]))
		if _, err := backend.WriteToUDPAddrPort(buf[:n], from); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the backend got %q", got)
	}
	if got := take(t, client, count); !slices.Equal(got, want) {
		t.Errorf("the client got %q", got)
	}
	if n := s.Status()[0].Counts; n.Received != uint64(len(burst)) || n.Opened != 1 {
		t.Errorf("counts: %+v", n)
	}
}

// serve runs a server until the test ends, and returns what waits for a port to be open.
func serve(t *testing.T, s *Server) func(port uint16) {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- s.Run(t.Context()) }()
	t.Cleanup(func() {
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := s.Shutdown(t.Context()); err != nil {
			t.Logf("shutdown: %v", err)
		}
	})
	return func(port uint16) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
			if all := s.Status(); len(all) == 1 && all[0].Port == port && all[0].Open {
				return
			}
			if time.Now().After(deadline) {
				t.Fatal("the port did not open")
			}
		}
	}
}
