package http1

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"vortex/internal/edge/meter"
	"vortex/internal/edge/pool"
	"vortex/internal/edge/route"
)

// TestConnectionChangesWays sends requests that a lane serves and others on one connection.
func TestConnectionChangesWays(t *testing.T) {
	t.Parallel()
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%s %d %v", r.Method, n, err)
	}))
	defer app.Close()
	meters := &meter.Set{}
	table := route.NewTable(route.Config{Config: pool.Config{Meters: meters}})
	table.Apply(route.App{Name: "web", HTTP: true, Backends: []pool.Endpoint{{
		Instance: "web-1", Addr: netip.MustParseAddrPort(app.Listener.Addr().String()),
	}}}, 1)
	s := New(Config{Table: table, Meters: meters})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, ln) }()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	exchange := func(request, want string) {
		t.Helper()
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || string(body) != want {
			t.Errorf("answered %q, %v; want %q", body, err, want)
		}
	}
	// general reports whether the connection comes to be in the general way.
	general := func(want int) {
		t.Helper()
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
			s.mu.Lock()
			n := len(s.conns)
			s.mu.Unlock()
			if n == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d connections are in the general way, want %d", n, want)
			}
		}
	}
	const get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	large := "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 100_000)
	exchange(get, "GET 0 <nil>")
	if s.lanes.all() == nil {
		t.Skip("no io_uring here")
	}
	for range 3 {
		general(0)
		exchange(get, "GET 0 <nil>")
		exchange("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", "POST 3 <nil>")
		general(0)
		exchange(large, "PUT 100000 <nil>")
		general(1)
		exchange(get, "GET 0 <nil>")
	}
	general(0)
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	ending, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.Shutdown(ending); err != nil {
		t.Error(err)
	}
	if n := table.Pools()[0].Meter.InFlight(); n != 0 {
		t.Errorf("%d requests in flight", n)
	}
}
