package edge_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"vortex/internal/edge"
)

// ask returns the status of a request to an address, or 0 when nobody answers.
func ask(addr, forwardedFor string) (int, string) {
	req, err := http.NewRequest(http.MethodGet, "http://"+addr+"/", http.NoBody)
	if err != nil {
		return 0, err.Error()
	}
	req.Header.Set("X-Forwarded-For", forwardedFor)
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(body)
}

func TestListenersComeAndGo(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.apply(t, router("web", newBackend(t, "web-1", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("X-Forwarded-For"))
	})))
	first := freeAddr(t)
	second := freeAddr(t)
	set := func(list ...edge.Listener) {
		t.Helper()
		if err := h.edge.SetListeners(context.Background(), list); err != nil {
			t.Fatal(err)
		}
	}
	set(edge.Listener{Name: "a", Address: first})
	if status, _ := ask(h.addr, ""); status != 0 {
		t.Errorf("the listener that went answers %d", status)
	}
	if status, body := ask(first, "192.0.2.1"); status != 200 || body != "127.0.0.1" {
		t.Errorf("the new listener answers %d %q", status, body)
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if status, body := ask(first, ""); status != 200 {
					t.Errorf("answered %d %s", status, body)
				}
			}
		})
	}
	for range 50 {
		set(edge.Listener{Name: "a", Address: first}, edge.Listener{Name: "b", Address: second})
		set(edge.Listener{Name: "a", Address: first})
	}
	stop()
	wg.Wait()
	set(edge.Listener{Name: "a", Address: first, Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	if _, body := ask(first, "192.0.2.1"); body != "192.0.2.1, 127.0.0.1" {
		t.Errorf("a trusted proxy is not believed: %q", body)
	}
	taken, err := net.Listen("tcp", second)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	err = h.edge.SetListeners(context.Background(), []edge.Listener{{Name: "c", Address: freeAddr(t)}, {Name: "b", Address: second}})
	if err == nil || !strings.Contains(err.Error(), "another program does") {
		t.Errorf("a taken address: %v", err)
	}
	_, port, _ := net.SplitHostPort(first)
	err = h.edge.SetListeners(context.Background(), []edge.Listener{{Name: "a", Address: ":" + port}})
	if err == nil || !strings.Contains(err.Error(), "while it listens on "+first+" itself") {
		t.Errorf("an address that holds another: %v", err)
	}
	if status, _ := ask(first, ""); status != 200 || len(h.edge.Addrs()) != 1 {
		t.Errorf("after a refused change: %d, %v", status, h.edge.Addrs())
	}
}

// freeAddr returns an address that nobody listens on; the other tests listen on another loopback address.
func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.77.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}
