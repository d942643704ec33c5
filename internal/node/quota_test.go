package node

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"vortex"
	"vortex/internal/edge"
	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
)

// TestTwoEdgesShareALimitThroughTheStore lets two edges on one store hold a limit together: one uses it up, the other refuses.
func TestTwoEdgesShareALimitThroughTheStore(t *testing.T) {
	t.Parallel()
	s := kindtest.Open(t)
	app := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer app.Close()
	addr, _ := app.Listener.Addr().(*net.TCPAddr)
	const limit = 200
	record := vortex.RouterRecord{
		ClientID: "web", Type: vortex.AppTypeHTTP,
		Backends: []vortex.Backend{{Instance: "web-1", Address: "127.0.0.1", Port: uint16(addr.Port)}},
		Rate:     []vortex.RateLimit{{Per: vortex.RateKeyHeader, Header: "X-Key", Limit: limit, Window: vortex.Duration(time.Hour)}},
	}
	if _, err := kind.Put(t.Context(), s, vortex.Routers, &record, "web"); err != nil {
		t.Fatal(err)
	}
	first, second := runEdge(t, s, "first"), runEdge(t, s, "second")
	for i := range limit {
		if status := first(); status != http.StatusOK {
			t.Fatalf("request %d was answered %d", i+1, status)
		}
	}
	await(t, "the first edge's report", func() bool {
		q, err := kind.Get(s, vortex.Quotas, "first")
		return err == nil && len(q.Value.Uses) == 1 && q.Value.Uses[0].Current == limit
	})
	for tries := 0; second() != http.StatusTooManyRequests; tries++ { // each of which it lets through
		if tries == limit/2 {
			t.Fatal("the second edge does not know what the first let through")
		}
		time.Sleep(100 * time.Millisecond)
	}
	rec, err := s.Get(vortex.Quotas.Key("first"))
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(time.UnixMilli(rec.ExpiresAt)); rec.ExpiresAt == 0 || left > edge.QuotaTTL {
		t.Errorf("the record of an edge that is gone stays for %v", left)
	}
}

// runEdge runs an edge on a store, and returns what asks it for its status.
func runEdge(t *testing.T, s *kind.Store, id string) (ask func() int) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := edge.New(edge.Config{ID: id, Node: id, Listeners: []net.Listener{ln}, Quotas: quotas{s}}, routers{s}, publisher{s})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("edge %s: %v", id, err)
		}
	})
	ask = func() int {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: web\r\nX-Key: k\r\nConnection: close\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	await(t, "the route", func() bool { return e.Status().Synced && len(e.Status().Apps) == 1 })
	return ask
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for %s", what)
		}
	}
}
