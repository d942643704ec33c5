package l4_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"vortex/internal/edge/l4"
	"vortex/internal/edge/pool"
)

func TestMain(m *testing.M) {
	if what := os.Getenv(serveEnv); what != "" {
		serveForBench(what)
		return
	}
	goleak.VerifyTestMain(m)
}

// harness is a running server.
type harness struct {
	*l4.Server

	fleet    *pool.Fleet
	mu       sync.Mutex
	failures []l4.Failure
	contests []l4.Contest
	cancel   func() // ends Run
	stop     func() error
}

// start runs a server until the test ends.
func start(t *testing.T, configure func(*l4.Config)) *harness {
	t.Helper()
	began := time.Now()
	now := func() int64 { return int64(time.Since(began)) + 1 }
	h := &harness{fleet: pool.NewFleet(pool.Config{Now: now})}
	c := l4.Config{
		Fleet: h.fleet, Now: now, Host: "127.0.0.1", HoldTimeout: 100 * time.Millisecond, RetryOpen: 20 * time.Millisecond,
		Failed: func(f l4.Failure) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.failures = append(h.failures, f)
		},
		Contested: func(c l4.Contest) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.contests = append(h.contests, c)
		},
	}
	if configure != nil {
		configure(&c)
	}
	h.Server = l4.New(c)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	h.cancel = cancel
	h.stop = sync.OnceValue(func() error {
		cancel()
		err := <-ended
		patience, end := context.WithTimeout(context.Background(), time.Millisecond)
		defer end()
		_ = h.Shutdown(patience)
		return err
	})
	t.Cleanup(func() {
		if err := h.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return h
}

// apply sets an app's services and waits until their ports are open.
func (h *harness) apply(t *testing.T, app string, services ...l4.Service) {
	t.Helper()
	for i := range services {
		services[i].App = app
	}
	h.Set(app, services)
	for _, s := range services {
		eventually(t, "the port to be open", func() bool { return h.port(s.Protocol, s.First).Open })
	}
}

func (h *harness) port(protocol l4.Protocol, number uint16) l4.PortStatus {
	all := h.Status()
	i := slices.IndexFunc(all, func(p l4.PortStatus) bool { return p.Protocol == protocol && p.Port == number })
	if i < 0 {
		return l4.PortStatus{}
	}
	return all[i]
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// freePort returns a port that nobody listens on, for TCP and UDP.
func freePort(t *testing.T) uint16 {
	t.Helper()
	for {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ln.Close()
		pc, err := net.ListenPacket("udp", ln.Addr().String())
		if err != nil {
			continue
		}
		pc.Close()
		return ln.Addr().(*net.TCPAddr).AddrPort().Port()
	}
}

// freePorts returns the first of n ports in a row that nobody listens on. The kernel gives none of them to connections meanwhile.
func freePorts(t *testing.T, n uint16) uint16 {
	t.Helper()
	const low, high = 20_000, 32_000
	for range 100 {
		first := low + rand.N(uint16(high-low))
		free := true
		for p := first; free && p < first+n; p++ {
			ln, err := net.Listen("tcp", fmt.Sprintf(":%d", p))
			if free = err == nil; free {
				ln.Close()
			}
		}
		if free {
			return first
		}
	}
	t.Fatalf("no %d free ports in a row", n)
	return 0
}

func local(port uint16) string { return addr(port).String() }

func addr(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
}

// backend serves TCP connections with a function until the test ends.
func backend(t *testing.T, name string, serve func(*net.TCPConn)) pool.Endpoint {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[conn] = true
			mu.Unlock()
			serving.Go(func() {
				serve(conn.(*net.TCPConn))
				conn.Close()
				mu.Lock()
				delete(open, conn)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for conn := range open {
			conn.Close()
		}
		mu.Unlock()
		serving.Wait()
	})
	return pool.Endpoint{Instance: name, Addr: ln.Addr().(*net.TCPAddr).AddrPort()}
}

// echo sends back what comes.
func echo(c *net.TCPConn) { _, _ = io.Copy(c, c) }

// saying answers with a name and ends.
func saying(name string) func(*net.TCPConn) {
	return func(c *net.TCPConn) { _, _ = io.WriteString(c, name) }
}

func dial(t *testing.T, port uint16) *net.TCPConn {
	t.Helper()
	c, err := dialTCP(port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// dialTCP may fail when a connection is reset before the dialer has looked at it.
func dialTCP(port uint16) (*net.TCPConn, error) {
	c, err := net.Dial("tcp", local(port))
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), c.SetDeadline(time.Now().Add(60 * time.Second))
}

// ask returns all that comes on a connection.
func ask(t *testing.T, port uint16, say string) string {
	t.Helper()
	c, err := dialTCP(port)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	if _, err := io.WriteString(c, say); err != nil {
		return err.Error()
	}
	b, err := io.ReadAll(c)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func TestEachEndIsPassedOn(t *testing.T) {
	h := start(t, nil)
	port := freePort(t)
	h.apply(t, "late", l4.Service{First: port, Endpoints: []pool.Endpoint{backend(t, "a", func(c *net.TCPConn) {
		b, err := io.ReadAll(c) // to the client's end
		if err == nil {
			_, _ = c.Write(append([]byte("got "), b...))
		}
	})}})
	c := dial(t, port)
	_, _ = io.WriteString(c, "everything")
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); err != nil || string(b) != "got everything" {
		t.Errorf("after the client's end: %q, %v", b, err)
	}

	early := freePort(t)
	got := make(chan string, 1)
	h.apply(t, "early", l4.Service{First: early, Endpoints: []pool.Endpoint{backend(t, "b", func(c *net.TCPConn) {
		_ = c.CloseWrite()
		b, err := io.ReadAll(c)
		if err != nil {
			b = []byte(err.Error())
		}
		got <- string(b)
	})}})
	c = dial(t, early)
	if b, err := io.ReadAll(c); err != nil || len(b) != 0 {
		t.Fatalf("the backend's end came as %q, %v", b, err)
	}
	_, _ = io.WriteString(c, "still sending")
	_ = c.CloseWrite()
	if s := <-got; s != "still sending" {
		t.Errorf("after its own end the backend got %q", s)
	}
	eventually(t, "both to have ended", func() bool { return h.port(l4.TCP, port).Counts.Active+h.port(l4.TCP, early).Counts.Active == 0 })
}

// rude closes a connection with a reset.
func rude(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

func TestResetsArePassedOn(t *testing.T) {
	h := start(t, nil)
	before := openFiles(t)
	for name, test := range map[string]struct {
		backend func(*net.TCPConn)
		client  func(*net.TCPConn) error
	}{
		"backend at once": {rude, func(c *net.TCPConn) error { _, err := io.ReadAll(c); return err }},
		"backend after a word": {func(c *net.TCPConn) {
			_, _ = io.WriteString(c, "x")
			_, _ = c.Read(make([]byte, 1))
			rude(c)
		}, func(c *net.TCPConn) error {
			_, _ = c.Read(make([]byte, 1))
			_, _ = c.Write([]byte("y"))
			_, err := io.ReadAll(c)
			return err
		}},
		"backend in the middle of much": {func(c *net.TCPConn) {
			_, _ = c.Write(make([]byte, 4<<20))
			rude(c)
		}, func(c *net.TCPConn) error { _, err := io.Copy(io.Discard, c); return err }},
		"backend with its own end": {func(c *net.TCPConn) {
			_ = c.CloseWrite()
			_, _ = c.Read(make([]byte, 1))
			rude(c)
		}, func(c *net.TCPConn) error {
			_, _ = io.ReadAll(c)
			for {
				if _, err := c.Write([]byte("more")); err != nil {
					return err
				}
			}
		}},
	} {
		port := freePort(t)
		h.apply(t, "app", l4.Service{First: port, Endpoints: []pool.Endpoint{backend(t, name, test.backend)}})
		c, err := dialTCP(port)
		if err != nil {
			continue // the reset was faster
		}
		if err := test.client(c); err == nil {
			t.Errorf("%s: the client took it for an end", name)
		}
		c.Close()
	}
	port := freePort(t)
	ended := make(chan error, 1)
	read := func(c *net.TCPConn) { _, err := io.Copy(io.Discard, c); ended <- err }
	h.apply(t, "app", l4.Service{First: port, Endpoints: []pool.Endpoint{backend(t, "reads", read)}})
	for name, client := range map[string]func(*net.TCPConn){
		"client at once":      rude,
		"client after much":   func(c *net.TCPConn) { _, _ = c.Write(make([]byte, 4<<20)); rude(c) },
		"client after a word": func(c *net.TCPConn) { _, _ = c.Write([]byte("x")); rude(c) },
	} {
		client(dial(t, port))
		if name == "client at once" {
			continue // it may have been gone before there was a backend
		}
		if err := <-ended; err == nil {
			t.Errorf("%s: the backend took it for an end", name)
		}
	}
	if err := h.stop(); err != nil {
		t.Error(err)
	}
	eventually(t, "every descriptor to be closed", func() bool {
		runtime.GC()
		return openFiles(t) <= before+16+2*64 // the test's own, and pipes kept for later
	})
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("needs /proc")
	}
	return len(entries)
}

func TestAnotherBackendTakesWhatOneRefuses(t *testing.T) {
	h := start(t, nil)
	port, nobody := freePort(t), freePort(t)
	h.apply(t, "app", l4.Service{First: port, Endpoints: []pool.Endpoint{
		{Instance: "dead", Addr: addr(nobody)}, backend(t, "alive", saying("alive")),
	}})
	for range 20 {
		if got := ask(t, port, ""); got != "alive" {
			t.Fatalf("got %q", got)
		}
	}
	h.apply(t, "none", l4.Service{First: nobody, Endpoints: nil})
	if got := ask(t, nobody, ""); !strings.Contains(got, "reset") {
		t.Errorf("without a backend: %q", got)
	}
	if n := h.port(l4.TCP, nobody).Counts.Failed; n != 1 {
		t.Errorf("%d failures counted", n)
	}
}

func TestRemovedBackendFinishes(t *testing.T) {
	h := start(t, nil)
	port := freePort(t)
	old, fresh := backend(t, "old", echo), backend(t, "new", saying("new"))
	h.apply(t, "app", l4.Service{First: port, Endpoints: []pool.Endpoint{old}})
	c := dial(t, port)
	round := func(text string) {
		t.Helper()
		_, _ = io.WriteString(c, text)
		buf := make([]byte, len(text))
		if _, err := io.ReadFull(c, buf); err != nil || string(buf) != text {
			t.Fatalf("%q, %v", buf, err)
		}
	}
	round("before")
	h.apply(t, "app", l4.Service{First: port, Endpoints: []pool.Endpoint{fresh}})
	if busy := h.fleet.Busy(); !slices.Equal(busy, []string{"old"}) {
		t.Errorf("busy: %v", busy)
	}
	for range 10 {
		if got := ask(t, port, ""); got != "new" {
			t.Fatalf("a new connection got %q", got)
		}
	}
	h.Set("app", nil)
	eventually(t, "the port to close", func() bool {
		c, err := net.Dial("tcp", local(port))
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	round("after")
	c.Close()
	eventually(t, "the backend to be drained", func() bool { return len(h.fleet.Busy()) == 0 })
}

func TestIdleConnectionsAreCut(t *testing.T) {
	h := start(t, nil)
	port := freePort(t)
	h.apply(t, "app", l4.Service{First: port, IdleTimeout: 50 * time.Millisecond, Endpoints: []pool.Endpoint{backend(t, "a", echo)}})
	c := dial(t, port)
	if _, err := io.ReadAll(c); err == nil {
		t.Error("an idle connection ended as if the backend had closed it")
	}
}

func TestTakenPortDisturbsNoOther(t *testing.T) {
	h := start(t, nil)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	taken, free := ln.Addr().(*net.TCPAddr).AddrPort().Port(), freePort(t)
	b := backend(t, "a", saying("a"))
	h.Set("taken", []l4.Service{{App: "taken", First: taken, Endpoints: []pool.Endpoint{b}}})
	h.apply(t, "free", l4.Service{First: free, Endpoints: []pool.Endpoint{b}})
	if got := ask(t, free, ""); got != "a" {
		t.Errorf("the other port: %q", got)
	}
	eventually(t, "the failure to be shown", func() bool { return strings.Contains(h.port(l4.TCP, taken).Err, "another program listens there") })
	ln.Close()
	eventually(t, "the port to be opened", func() bool { return h.port(l4.TCP, taken).Open })
	if got := ask(t, taken, ""); got != "a" {
		t.Errorf("the port that became free: %q", got)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.failures) != 1 || h.failures[0].App != "taken" {
		t.Errorf("told %v", h.failures)
	}
}

func TestPortRanges(t *testing.T) {
	h := start(t, nil)
	first := freePorts(t, 3)
	one := backend(t, "one", saying("one"))
	h.apply(t, "app", l4.Service{First: first, Last: first + 2, Endpoints: []pool.Endpoint{one}})
	for i := range uint16(3) {
		eventually(t, "the port to be open", func() bool { return h.port(l4.TCP, first+i).Open })
		if got := ask(t, first+i, ""); got != "one" {
			t.Errorf("port %d: %q", i, got)
		}
	}
	h.apply(t, "app", l4.Service{First: first, Last: first + 2, Spread: true, Endpoints: []pool.Endpoint{{Instance: "x", Addr: netip.AddrPortFrom(one.Addr.Addr(), one.Addr.Port()-1)}}})
	if got := ask(t, first+1, ""); got != "one" {
		t.Errorf("the second port of the range: %q", got)
	}
	if got := ask(t, first+2, ""); got == "one" {
		t.Error("the third port leads to the second's")
	}
}

func TestGibibyteEachWay(t *testing.T) {
	if testing.Short() {
		t.Skip("moves two gibibytes")
	}
	h := start(t, nil)
	port := freePort(t)
	const size = 1 << 30
	h.apply(t, "app", l4.Service{First: port, Endpoints: []pool.Endpoint{backend(t, "a", func(c *net.TCPConn) {
		var both sync.WaitGroup
		both.Go(func() { _, _ = io.Copy(io.Discard, c) })
		send(c, size)
		_ = c.CloseWrite()
		both.Wait()
	})}})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	c := dial(t, port)
	var both sync.WaitGroup
	both.Go(func() {
		send(c, size)
		_ = c.CloseWrite()
	})
	n, err := io.Copy(io.Discard, c)
	both.Wait()
	runtime.ReadMemStats(&after)
	if err != nil || n != size {
		t.Errorf("%d bytes came, %v", n, err)
	}
	if grown := int64(after.TotalAlloc) - int64(before.TotalAlloc); grown > 8<<20 {
		t.Errorf("%d MiB were allocated for it", grown>>20)
	}
	eventually(t, "the counts", func() bool {
		counts := h.port(l4.TCP, port).Counts
		return counts.Received == size && counts.Sent == size && counts.Active == 0
	})
}

func send(c net.Conn, size int) {
	buf := make([]byte, 256<<10)
	for sent := 0; sent < size; sent += len(buf) {
		if _, err := c.Write(buf); err != nil {
			return
		}
	}
}

func TestShutdownWaitsForConnectionsInUse(t *testing.T) {
	h := start(t, nil)
	port := freePort(t)
	h.apply(t, "app", l4.Service{First: port, Endpoints: []pool.Endpoint{backend(t, "a", echo)}})
	c := dial(t, port)
	_, _ = io.WriteString(c, "x")
	_, _ = io.ReadFull(c, make([]byte, 1))
	done := make(chan error, 1)
	h.cancel()
	go func() {
		patience, end := context.WithTimeout(context.Background(), 30*time.Second)
		defer end()
		done <- h.Shutdown(patience)
	}()
	_, _ = io.WriteString(c, "y")
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Errorf("a connection in use was cut: %v", err)
	}
	c.Close()
	if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
