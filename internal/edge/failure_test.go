package edge_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"vortex"
	"vortex/internal/edge"
)

func TestServesOnWithoutTheStore(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	a, b := newBackend(t, "a", named("a")), newBackend(t, "b", named("b"))
	h.apply(t, router("web", a))
	h.setDown(true)
	if _, body := h.get(t, client(t), "web.localhost", "/"); body != "a" {
		t.Errorf("got %q while the store is down", body)
	}
	revision := h.put(router("web", b))
	h.mu.Lock() // the watch starts over: the whole state comes at once, without web's first backend
	h.updates = []edge.RouterUpdate{{Revision: revision, Reset: true, Changes: h.updates[len(h.updates)-1].Changes}}
	h.mu.Unlock()
	h.setDown(false)
	h.awaitDrain(t, revision)
	if _, body := h.get(t, client(t), "web.localhost", "/"); body != "b" {
		t.Errorf("got %q after the store came back", body)
	}
}

func TestRemovalIsPublishedOnceTheStoreTakesIt(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	a, b := newBackend(t, "a", named("a")), newBackend(t, "b", named("b"))
	h.awaitDrain(t, h.put(router("web", a, b)))
	h.setRefusing(true)
	revision := h.put(router("web", b))
	h.awaitApplied(t, revision)
	h.setRefusing(false)
	h.awaitDrain(t, revision)
}

func TestChangeThatRemovesNothingIsPublishedToo(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.awaitDrain(t, h.put(router("web", newBackend(t, "a", named("a")))))
}

func TestAnswerBeforeTheUploadsEndArrives(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.apply(t, router("web", newBackend(t, "w", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		fmt.Fprint(w, "too much")
	})))
	conn := h.dial(t)
	go func() {
		fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
		_, _ = io.Copy(conn, newPattern(100_000)) // and then silence
	}()
	if got := read(t, bufio.NewReader(conn), "POST"); got.status != http.StatusRequestEntityTooLarge || got.body != "too much" {
		t.Errorf("got %+v", got)
	}
}

func TestClientThatLeavesEndsItsRequest(t *testing.T) {
	t.Parallel()
	for _, request := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nabc",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
	} {
		h := start(t, nil)
		arrived, told := make(chan struct{}), make(chan struct{})
		h.apply(t, router("web", newBackend(t, "w", func(_ http.ResponseWriter, r *http.Request) {
			close(arrived)
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
			close(told)
		})))
		conn := h.dial(t)
		fmt.Fprint(conn, request)
		<-arrived
		conn.Close()
		select {
		case <-told:
		case <-time.After(30 * time.Second):
			t.Fatalf("%q: the backend was not told", request)
		}
		eventually(t, "nothing to be in flight", func() bool {
			app := h.edge.Status().Apps[0]
			return app.Traffic.InFlight == 0 && app.Backends[0].InFlight == 0
		})
	}
}

func TestClientThatLeavesWhileHeldEndsItsRequest(t *testing.T) {
	t.Parallel()
	h := start(t, func(c *edge.Config) { c.HoldTimeout = time.Hour })
	h.apply(t, router("web"))
	conn := h.dial(t)
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	held := func(n int64) func() bool { return func() bool { return h.edge.Status().Apps[0].Held == n } }
	eventually(t, "the request to be held", held(1))
	conn.Close()
	eventually(t, "nothing to be held", held(0))
}

func TestClientThatTakesNothingIsGivenUp(t *testing.T) {
	t.Parallel()
	h := start(t, func(c *edge.Config) { c.HTTP.BodyTimeout = 300 * time.Millisecond })
	h.apply(t, router("web", newBackend(t, "w", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/sized" {
			w.Header().Set("Content-Length", "1000000000")
		}
		_, _ = io.Copy(w, newPattern(1_000_000_000))
	})))
	for _, path := range []string{"/sized", "/chunked"} {
		conn := h.dial(t)
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", path)
		inFlight := func(n int64) func() bool {
			return func() bool { return h.edge.Status().Apps[0].Backends[0].InFlight == n }
		}
		eventually(t, "the request to arrive", inFlight(1))
		eventually(t, "the client to be given up", inFlight(0))
	}
}

func TestSilentBackendIsGivenUp(t *testing.T) {
	t.Parallel()
	h := start(t, func(c *edge.Config) { c.HTTP.ResponseTimeout = 200 * time.Millisecond })
	h.apply(t, router("web", newBackend(t, "w", func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})))
	for _, request := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
	} {
		if status, _, body := h.raw(t, request); status != http.StatusGatewayTimeout || !strings.Contains(body, "APP_TIMEOUT") {
			t.Errorf("%q: %d %s", request, status, body)
		}
	}
}

func TestUnusableBackendIsLeftOut(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	r := router("web", newBackend(t, "good", named("good")))
	r.Backends = append(r.Backends, vortex.Backend{Instance: "bad", Address: "no address", Port: 80}, vortex.Backend{Instance: "worse", Address: "10.0.0.1"})
	h.apply(t, r)
	if backends := h.edge.Status().Apps[0].Backends; len(backends) != 1 || backends[0].Instance != "good" {
		t.Errorf("backends %+v", backends)
	}
}

func TestShutdownCutsWhatDoesNotEnd(t *testing.T) {
	t.Parallel()
	h := start(t, func(c *edge.Config) { c.ShutdownTimeout = 100 * time.Millisecond })
	arrived := make(chan struct{})
	h.apply(t, router("web", newBackend(t, "w", func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
	})))
	conn := h.dial(t)
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	<-arrived
	if err := h.stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
}
