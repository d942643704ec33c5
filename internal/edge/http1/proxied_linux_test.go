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
	"testing"
	"time"

	"vortex"
	"vortex/internal/edge/meter"
	"vortex/internal/edge/pool"
	"vortex/internal/edge/route"
)

// TestProxiedConnectionComesToALane begins connections with a header of the PROXY protocol, after which a lane serves them.
func TestProxiedConnectionComesToALane(t *testing.T) {
	t.Parallel()
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("X-Forwarded-For"))
	}))
	defer app.Close()
	meters := &meter.Set{}
	table := route.NewTable(route.Config{Config: pool.Config{Meters: meters}})
	table.Apply(route.App{Name: "web", HTTP: true, Backends: []pool.Endpoint{{
		Instance: "web-1", Addr: netip.MustParseAddrPort(app.Listener.Addr().String()),
	}}}, 1)
	s := New(Config{
		Table: table, Meters: meters, AcceptProxy: vortex.ProxyAcceptanceRequired, Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")},
	})
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
	home := func() {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); s.lanes.all() != nil; time.Sleep(time.Millisecond) {
			clients := make(chan int)
			n := 0
			for _, l := range s.lanes.all() {
				l.post(func() { clients <- l.clients })
				n += <-clients
			}
			if n == 1 {
				return
			}
			if time.Now().After(deadline) {
				t.Fatal("the connection stays in the general way")
			}
		}
	}
	in := bufio.NewReader(conn)
	if _, err := io.WriteString(conn, "PROXY TCP4 192.0.2.7 192.0.2.8 1000 80\r\n"); err != nil {
		t.Fatal(err)
	}
	home()
	for range 2 {
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "192.0.2.7" {
			t.Errorf("the client is %q, %v", body, err)
		}
		home()
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	ending, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := s.Shutdown(ending); err != nil {
		t.Error(err)
	}
}
