package edge_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"vortex"
	"vortex/internal/edge"
)

// store is the routers' source and the records' sink, in memory, with revisions.
type store struct {
	mu       sync.Mutex
	revision uint64
	updates  []edge.RouterUpdate
	changed  chan struct{}
	edges    []vortex.EdgeRecord
	metrics  []vortex.ClientMetrics
	down     bool // it cannot be watched
	refusing bool // it cannot be written
}

var errDown = errors.New("the store is down")

// setDown takes the store down or up, for readers and writers.
func (s *store) setDown(down bool) {
	s.setRefusing(down)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
	s.wake()
}

func (s *store) setRefusing(refusing bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusing = refusing
}

func newStore() *store {
	return &store{
		changed: make(chan struct{}),
		updates: []edge.RouterUpdate{{Reset: true}},
	}
}

func (s *store) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// put writes routers in one transaction and returns its revision.
func (s *store) put(routers ...vortex.RouterRecord) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	u := edge.RouterUpdate{Revision: s.revision}
	for _, r := range routers {
		u.Changes = append(u.Changes, edge.RouterChange{App: r.ClientID, Router: &r})
	}
	s.updates = append(s.updates, u)
	s.wake()
	return s.revision
}

func (s *store) remove(app string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	s.updates = append(s.updates, edge.RouterUpdate{Revision: s.revision, Changes: []edge.RouterChange{{App: app}}})
	s.wake()
	return s.revision
}

func (s *store) WatchRouters(ctx context.Context) iter.Seq2[edge.RouterUpdate, error] {
	return func(yield func(edge.RouterUpdate, error) bool) {
		for next := 0; ; {
			s.mu.Lock()
			pending, changed, down := slices.Clone(s.updates[next:]), s.changed, s.down
			s.mu.Unlock()
			if down {
				yield(edge.RouterUpdate{}, errDown)
				return
			}
			for _, u := range pending {
				if !yield(u, nil) {
					return
				}
			}
			next += len(pending)
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}
}

func (s *store) PutMetrics(_ context.Context, m vortex.ClientMetrics) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refusing {
		return errDown
	}
	s.metrics = append(s.metrics, m)
	s.wake()
	return nil
}

func (s *store) PutEdge(_ context.Context, r vortex.EdgeRecord) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refusing {
		return errDown
	}
	s.edges = append(s.edges, r)
	s.wake()
	return nil
}

// await returns when what the store holds satisfies ok.
func (s *store) await(t *testing.T, what string, ok func(*store) bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		s.mu.Lock()
		done, changed := ok(s), s.changed
		s.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			s.mu.Lock()
			defer s.mu.Unlock()
			t.Fatalf("waited too long for %s\nedges %+v\nmetrics %+v", what, s.edges, s.metrics)
		}
	}
}

// awaitDrain waits until the edge has published a revision of at least r with exactly these busy instances.
func (s *store) awaitDrain(t *testing.T, r uint64, busy ...string) {
	t.Helper()
	s.await(t, fmt.Sprintf("revision %d with busy %v", r, busy), func(s *store) bool {
		if len(s.edges) == 0 {
			return false
		}
		last := s.edges[len(s.edges)-1]
		return last.Revision >= r && slices.Equal(last.Busy, busy)
	})
}

// harness is a running edge.
type harness struct {
	*store
	edge *edge.Edge
	addr string // of its listener
	stop func() error
}

// withoutLanes makes the tests serve all requests in the general way.
const withoutLanes = "EDGE_TEST_WITHOUT_LANES"

// TestWithoutLanes runs the other tests once more, as where the kernel has no io_uring for the edge.
func TestWithoutLanes(t *testing.T) {
	if os.Getenv(withoutLanes) != "" {
		t.Skip("this is the other run")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.timeout=5m")
	cmd.Env = append(os.Environ(), withoutLanes+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// start runs an edge until the test ends.
func start(t *testing.T, configure func(*edge.Config)) *harness {
	t.Helper()
	h := &harness{store: newStore()}
	addrs := make(chan []net.Addr, 1)
	c := edge.Config{
		ID: "edge-1", Listen: []string{"127.0.0.1:0"}, Accepting: func(a []net.Addr) { addrs <- a },
		MetricsInterval: 100 * time.Millisecond, ShutdownTimeout: 20 * time.Second,
	}
	if os.Getenv(withoutLanes) != "" {
		c.HTTP.Lanes = -1
	}
	if configure != nil {
		configure(&c)
	}
	h.edge = edge.New(c, h.store, h.store)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.edge.Run(ctx) }()
	h.stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() {
		if err := h.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	select {
	case a := <-addrs:
		h.addr = a[0].String()
	case err := <-ended:
		t.Fatalf("Run ended: %v", err)
	}
	h.awaitDrain(t, 0)
	return h
}

// apply writes a router and waits until the edge has it.
func (h *harness) apply(t *testing.T, r vortex.RouterRecord) uint64 {
	t.Helper()
	revision := h.put(r)
	h.awaitApplied(t, revision)
	return revision
}

func (h *harness) awaitApplied(t *testing.T, revision uint64) {
	t.Helper()
	eventually(t, "the router to be applied", func() bool { return h.edge.Status().Revision >= revision })
}

func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			tb.Fatalf("waited too long for %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// backend is a server behind the edge.
type backend struct {
	name   string
	server *http.Server
	addr   *net.TCPAddr
}

func newBackend(t *testing.T, name string, handler http.HandlerFunc) *backend {
	t.Helper()
	ln, addr := listen(t)
	b := &backend{name: name, addr: addr, server: &http.Server{Handler: handler}}
	go func() { _ = b.server.Serve(ln) }()
	t.Cleanup(func() { b.server.Close() })
	return b
}

func named(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) }
}

func router(app string, backends ...*backend) vortex.RouterRecord {
	r := vortex.RouterRecord{ClientID: app, Type: vortex.AppTypeHTTP, Backends: []vortex.Backend{}}
	for _, b := range backends {
		r.Backends = append(r.Backends, vortex.Backend{Instance: b.name, Address: b.addr.IP.String(), Port: uint16(b.addr.Port)})
	}
	return r
}

// client asks an edge without following redirects.
func client(t *testing.T) *http.Client {
	t.Helper()
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// get returns the status and body of a GET.
func (h *harness) get(t *testing.T, c *http.Client, host, path string) (int, string) {
	t.Helper()
	resp := h.do(t, c, http.MethodGet, host, path, nil)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("read body: %v", err)
	}
	return resp.StatusCode, string(b)
}

func (h *harness) do(t *testing.T, c *http.Client, method, host, path string, body io.Reader) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+h.addr+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	resp, err := c.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp
}

func TestServesAppByNamePrefixAndAlone(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	b := newBackend(t, "web-1", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s prefix=%s host=%s for=%s proto=%s", r.URL, r.Header.Get("X-Forwarded-Prefix"),
			r.Header.Get("X-Forwarded-Host"), r.Header.Get("X-Forwarded-For"), r.Header.Get("X-Forwarded-Proto"))
	})
	h.apply(t, router("web", b))
	for _, test := range []struct{ host, path, want string }{
		{"web.localhost:8000", "/a?b=c", "/a?b=c prefix= host=web.localhost:8000 for=127.0.0.1 proto=http"},
		{"WEB.localhost.", "/a", "/a prefix= host=WEB.localhost. for=127.0.0.1 proto=http"},
		{"anything", "/web/x?y", "/x?y prefix=/web host=anything for=127.0.0.1 proto=http"},
		{"anything", "/x", "/x prefix= host=anything for=127.0.0.1 proto=http"},
	} {
		status, body := h.get(t, client(t), test.host, test.path)
		if status != 200 || body != test.want {
			t.Errorf("%s%s: %d %q, want %q", test.host, test.path, status, body, test.want)
		}
	}
}

func TestUnknownHostSaysWhatThereIs(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	if status, body := h.get(t, client(t), "x.example", "/"); status != 404 || !strings.Contains(body, "vortex apply") {
		t.Errorf("with no app: %d %s", status, body)
	}
	a, b := newBackend(t, "a-1", named("a")), newBackend(t, "b-1", named("b"))
	h.put(router("a", a))
	h.apply(t, router("b", b))
	status, body := h.get(t, client(t), "x.example:8000", "/nowhere")
	if status != 404 || !strings.Contains(body, "http://a.localhost:8000/") || !strings.Contains(body, "APP_NOT_FOUND") {
		t.Errorf("with two apps: %d %s", status, body)
	}
	resp := h.do(t, client(t), http.MethodGet, "x.example", "/a?q=1", nil)
	resp.Body.Close()
	if resp.StatusCode != http.StatusPermanentRedirect || resp.Header.Get("Location") != "/a/?q=1" {
		t.Errorf("bare prefix: %d to %q", resp.StatusCode, resp.Header.Get("Location"))
	}
}
