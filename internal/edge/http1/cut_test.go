package http1

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync/atomic"
	"testing"

	"vortex/internal/edge/meter"
	"vortex/internal/edge/pool"
	"vortex/internal/edge/route"
)

// served runs a Server for one app until the test ends, and returns it with its address. stop ends the listener.
func served(t *testing.T, c Config, app http.HandlerFunc) (s *Server, addr string, stop func()) {
	t.Helper()
	backend := httptest.NewServer(app)
	t.Cleanup(backend.Close)
	c.Meters = &meter.Set{}
	c.Table = route.NewTable(route.Config{Config: pool.Config{Meters: c.Meters}})
	c.Table.Apply(route.App{Name: "web", HTTP: true, Backends: []pool.Endpoint{{
		Instance: "web-1", Addr: netip.MustParseAddrPort(backend.Listener.Addr().String()),
	}}}, 1)
	s = New(c)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, ln) }()
	return s, ln.Addr().String(), func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// TestRequestCutAtShutdownIsNotSentAgain cuts a request on a connection to the backend that was used before. The end of that connection is the
// edge's own doing, and no reason to send the request once more.
func TestRequestCutAtShutdownIsNotSentAgain(t *testing.T) {
	t.Parallel()
	for name, lanes := range map[string]int{"with lanes": 1, "without lanes": -1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int64
			arrived := make(chan struct{}, 10)
			s, addr, stop := served(t, Config{Lanes: lanes}, func(_ http.ResponseWriter, r *http.Request) {
				if asked.Add(1) > 1 {
					arrived <- struct{}{}
					<-r.Context().Done()
				}
			})
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			<-arrived
			stop()
			now, cancel := context.WithCancelCause(t.Context())
			reason := errors.New("at once")
			cancel(reason)
			if err := s.Shutdown(now); !errors.Is(err, reason) {
				t.Errorf("Shutdown: %v, want that something was cut", err)
			}
			if n := asked.Load(); n != 2 {
				t.Errorf("the backend got %d requests, want 2", n)
			}
			if n := s.Table.Pools()[0].Meter.InFlight(); n != 0 {
				t.Errorf("%d requests in flight", n)
			}
		})
	}
}
