package edge_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"vortex"
	"vortex/internal/edge"
)

// node writes what became of a node in one transaction.
func (s *store) node(changes ...edge.NodeChange) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	s.updates = append(s.updates, edge.RouterUpdate{Revision: s.revision, Nodes: changes})
	s.wake()
	return s.revision
}

// quick is a health check that needs little time.
func quick(path string) *vortex.HealthCheck {
	period, timeout, two := 0.05, 0.5, uint32(2)
	return &vortex.HealthCheck{Path: path, PeriodSeconds: &period, TimeoutSeconds: &timeout, FailureThreshold: &two}
}

// out returns why each backend of the only app gets no requests.
func (h *harness) out() string {
	var reasons []string
	for _, b := range h.edge.Status().Apps[0].Backends {
		reasons = append(reasons, b.Instance+":"+b.Out)
	}
	return strings.Join(reasons, " ")
}

// tally returns how many of n requests each backend answered.
func (h *harness) tally(t *testing.T, n int) map[string]int {
	t.Helper()
	got := map[string]int{}
	c := client(t)
	for range n {
		status, body := h.get(t, c, "web", "/")
		got[fmt.Sprint(status, " ", body)]++
	}
	return got
}

// moody answers with the status it was last given, on /health and elsewhere.
func moody(t *testing.T, name string) (b *backend, status *atomic.Int64) {
	t.Helper()
	status = &atomic.Int64{}
	status.Store(200)
	return newBackend(t, name, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(int(status.Load()))
		_, _ = io.WriteString(w, name)
	}), status
}

func TestEdgeChecksBackendsWhereItIsTold(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	a, mood := moody(t, "a")
	b, _ := moody(t, "b")
	r := router("web", a, b)
	r.Health = &vortex.PoolHealth{Checker: vortex.HealthCheckerEdge, HealthCheck: quick("/health")}
	h.apply(t, r)
	mood.Store(503)
	eventually(t, "the failing backend to be out", func() bool { return h.out() == "a:check b:" })
	if got := h.tally(t, 20); got["200 b"] != 20 {
		t.Errorf("while a fails: %v", got)
	}
	mood.Store(200)
	eventually(t, "the backend to be back", func() bool { return h.out() == "a: b:" })
	if got := h.tally(t, 20); got["200 a"] != 10 {
		t.Errorf("after a recovered: %v", got)
	}
	mood.Store(503)
	eventually(t, "the failing backend to be out again", func() bool { return h.out() == "a:check b:" })
	h.apply(t, router("web", a, b)) // without a check of the edge's own
	eventually(t, "the edge to believe the router alone", func() bool { return h.out() == "a: b:" })
}

func TestEdgeChecksBackendsWhileTheStoreIsAway(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	a, mood := moody(t, "a")
	b, _ := moody(t, "b")
	dying := startProcess(t, "dying")
	r := router("web", a, b, &dying.backend)
	r.Health = &vortex.PoolHealth{HealthCheck: quick("/health")}
	h.apply(t, r)
	mood.Store(503)
	if got := h.out(); got != "a: b: dying:" {
		t.Errorf("while the store is there the agents check: %s", got)
	}
	h.setDown(true)
	_ = dying.cmd.Process.Kill()
	_ = dying.cmd.Wait()
	eventually(t, "the edge to find out by itself", func() bool { return h.out() == "a:check b: dying:check" })
	mood.Store(200)
	eventually(t, "a to be back", func() bool { return h.out() == "a: b: dying:check" })
	if got := h.tally(t, 20); got["200 a"] != 10 || got["200 b"] != 10 {
		t.Errorf("requests go to %v", got)
	}
	h.setDown(false)
	eventually(t, "the agents to be believed again", func() bool { return h.out() == "a: b: dying:" })
}

func TestNodeThatIsSuspectedGetsNothingAtOnce(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	a, _ := moody(t, "a")
	b, _ := moody(t, "b")
	r := router("web", a, b)
	r.Backends[0].Node, r.Backends[1].Node = "n1", "n2"
	h.apply(t, r)
	begun := time.Now()
	h.node(edge.NodeChange{Node: "n1", Gone: true})
	eventually(t, "the node's backend to be out", func() bool { return h.out() == "a:node b:" })
	if took := time.Since(begun); took > time.Second {
		t.Errorf("took %v", took)
	}
	if got := h.tally(t, 20); got["200 b"] != 20 {
		t.Errorf("with n1 suspected: %v", got)
	}
	h.apply(t, r) // what is written anew about the app says nothing about the node
	if got := h.out(); got != "a:node b:" {
		t.Errorf("after the router was written again: %s", got)
	}
	h.awaitApplied(t, h.node(edge.NodeChange{Node: "n1"}))
	if got := h.tally(t, 20); got["200 a"] != 10 {
		t.Errorf("with n1 back: %v", got)
	}
}

// TestRequestsAtALostNodeAreAnswered gives a node up while requests wait for its backend: what may be sent twice goes to another, and who
// asked for the rest is told at once.
func TestRequestsAtALostNodeAreAnswered(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	var asked atomic.Int64
	silent := newBackend(t, "silent", func(_ http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		<-r.Context().Done()
	})
	r := router("web", silent)
	r.Backends[0].Node = "n1"
	h.apply(t, r)
	statuses := make(chan string, 2)
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		go func() {
			req, err := http.NewRequestWithContext(t.Context(), method, "http://"+h.addr+"/", http.NoBody)
			if err != nil {
				statuses <- err.Error()
				return
			}
			req.Host = "web.localhost"
			resp, err := client(t).Do(req)
			if err != nil {
				statuses <- err.Error()
				return
			}
			_ = resp.Body.Close()
			statuses <- fmt.Sprint(method, " ", resp.StatusCode)
		}()
	}
	eventually(t, "both to wait", func() bool { return asked.Load() == 2 })
	other, _ := moody(t, "other")
	r = router("web", silent, other)
	r.Backends[0].Node, r.Backends[1].Node = "n1", "n2"
	h.apply(t, r)
	h.node(edge.NodeChange{Node: "n1", Gone: true, Given: true})
	got := []string{<-statuses, <-statuses}
	slices.Sort(got)
	if want := []string{"GET 200", "POST 502"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestOutliersAreEjectedAndComeBack(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	a, mood := moody(t, "a")
	b, _ := moody(t, "b")
	r := router("web", a, b)
	r.Health = &vortex.PoolHealth{Outlier: &vortex.Outlier{Consecutive5xx: new(uint32(3)), EjectionSeconds: new(1.0)}}
	h.apply(t, r)
	mood.Store(500)
	got := h.tally(t, 20)
	if got["500 a"] != 3 || got["200 b"] != 17 {
		t.Errorf("while a fails: %v", got)
	}
	status := h.edge.Status().Apps[0].Backends[0]
	if status.Out != "ejected" || !strings.Contains(status.Detail, "3 requests in a row") || status.Errors != 3 {
		t.Errorf("a is %+v", status)
	}
	mood.Store(200)
	eventually(t, "the ejection to end", func() bool { return h.out() == "a: b:" })
	if got := h.tally(t, 20); got["200 a"] != 10 {
		t.Errorf("after the ejection: %v", got)
	}
}

// Backends that reset, hang or answer no HTTP are failures of their own; clients that leave are not the backend's.
func TestBackendsThatGiveNoAnswerAreEjected(t *testing.T) {
	t.Parallel()
	for name, handle := range map[string]func(net.Conn){
		"resets": func(c net.Conn) {
			_, _ = c.Read(make([]byte, 1))
			_ = c.(*net.TCPConn).SetLinger(0) //nolint:forcetypeassert // it is one
			_ = c.Close()
		},
		"hangs":   func(net.Conn) {},
		"garbles": func(c net.Conn) { _, _ = io.WriteString(c, "what?\r\n\r\n"); _ = c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := start(t, func(c *edge.Config) { c.HTTP.ResponseTimeout = 50 * time.Millisecond })
			bad := accept(t, "bad", handle)
			good, _ := moody(t, "good")
			r := router("web", bad, good)
			r.Health = &vortex.PoolHealth{Outlier: &vortex.Outlier{ConsecutiveFailures: new(uint32(3))}}
			h.apply(t, r)
			h.tally(t, 10)
			if got := h.out(); got != "bad:ejected good:" {
				t.Errorf("after ten requests: %s", got)
			}
			if got := h.tally(t, 20); got["200 good"] != 20 {
				t.Errorf("after the ejection: %v", got)
			}
		})
	}
}

// accept hands every connection to handle and closes what it leaves open at the end.
func accept(t *testing.T, name string, handle func(net.Conn)) *backend {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			handle(c)
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	addr, _ := ln.Addr().(*net.TCPAddr)
	return &backend{name: name, addr: addr}
}

func TestLeavingClientsEjectNobody(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	slow := newBackend(t, "slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	good, _ := moody(t, "good")
	r := router("web", slow, good)
	r.Health = &vortex.PoolHealth{Outlier: &vortex.Outlier{Consecutive5xx: new(uint32(1)), ConsecutiveFailures: new(uint32(1))}}
	h.apply(t, r)
	for range 6 {
		ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond) // the edge looks after a quarter of a second
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+h.addr+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := client(t).Do(req); err == nil {
			resp.Body.Close()
		}
		cancel()
	}
	eventually(t, "the requests to end", func() bool { return h.edge.Status().Apps[0].Backends[0].InFlight == 0 })
	if got := h.out(); got != "slow: good:" {
		t.Errorf("after clients left: %s", got)
	}
}

// lines is a log.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), text)
}

func TestPanicUsesAllAndIsToldOnce(t *testing.T) {
	t.Parallel()
	var log lines
	h := start(t, func(c *edge.Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	var backends []*backend
	var moods []*atomic.Int64
	for _, name := range []string{"a", "b", "c"} {
		b, mood := moody(t, name)
		backends, moods = append(backends, b), append(moods, mood)
	}
	gone := newBackend(t, "gone", named("gone"))
	gone.server.Close()
	r := router("web", append(backends, gone)...)
	r.Health = &vortex.PoolHealth{Checker: vortex.HealthCheckerEdge, HealthCheck: quick("/health")}
	h.apply(t, r)
	eventually(t, "the dead one to be out", func() bool { return h.out() == "a: b: c: gone:check" })
	moods[0].Store(418)
	moods[1].Store(418)
	eventually(t, "two of three to fail", func() bool { return h.out() == "a:check b:check c: gone:check" })
	if got := h.tally(t, 30); got["418 a"] != 10 || got["418 b"] != 10 || got["200 c"] != 10 {
		t.Errorf("with a third healthy: %v", got)
	}
	if n := log.count("Pool panics"); n != 1 || !h.edge.Status().Apps[0].Panics {
		t.Errorf("told %d times", n)
	}
	moods[0].Store(200)
	eventually(t, "calm", func() bool { return h.out() == "a: b:check c: gone:check" })
	if got := h.tally(t, 30); got["200 a"] != 15 || got["200 c"] != 15 || log.count("Pool calm again") != 1 {
		t.Errorf("with two thirds healthy: %v", got)
	}
}

func TestCircuitAnswersAtOnceAndNamesTheLimit(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		circuit vortex.Circuit
		busy    int // requests that are being answered
		limit   string
	}{
		"requests":    {vortex.Circuit{MaxRequests: new(uint32(3))}, 3, "requests"},
		"connections": {vortex.Circuit{MaxConnections: new(uint32(2))}, 2, "connections"},
		"pending":     {vortex.Circuit{MaxPending: new(uint32(0)), Backend: &vortex.BackendCircuit{MaxRequests: new(uint32(2))}}, 2, "pending"},
		"backend":     {vortex.Circuit{Backend: &vortex.BackendCircuit{MaxConnections: new(uint32(1))}}, 1, "backend"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := start(t, func(c *edge.Config) { c.HoldTimeout = 300 * time.Millisecond })
			var asked atomic.Int64
			answer := make(chan struct{})
			b := newBackend(t, "b", func(w http.ResponseWriter, _ *http.Request) {
				asked.Add(1)
				<-answer
				_, _ = io.WriteString(w, "b")
			})
			r := router("web", b)
			r.Health = &vortex.PoolHealth{Circuit: &test.circuit}
			h.apply(t, r)
			var busy sync.WaitGroup
			for range test.busy {
				busy.Go(func() {
					if status, _ := h.get(t, client(t), "web", "/"); status != 200 {
						t.Errorf("one within the limit: %d", status)
					}
				})
			}
			eventually(t, "the backend to be busy", func() bool { return int(asked.Load()) == test.busy })
			begun := time.Now()
			resp := h.do(t, client(t), http.MethodGet, "web", "/", nil)
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("X-Vortex-Limit") != test.limit || !strings.Contains(string(body), "OVERLOADED") {
				t.Errorf("beyond the limit: %d %q %s", resp.StatusCode, resp.Header.Get("X-Vortex-Limit"), body)
			}
			if took := time.Since(begun); test.limit != "backend" && took > 250*time.Millisecond {
				t.Errorf("refused after %v", took)
			}
			close(answer)
			busy.Wait()
			if status, body := h.get(t, client(t), "web", "/"); status != 200 || body != "b" {
				t.Errorf("afterwards: %d %s", status, body)
			}
		})
	}
}

func TestBackendLimitMakesRequestsWaitInTurn(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	var at, most atomic.Int64
	handler := func(w http.ResponseWriter, _ *http.Request) {
		most.Store(max(most.Load(), at.Add(1)))
		time.Sleep(2 * time.Millisecond)
		at.Add(-1)
		_, _ = io.WriteString(w, "ok")
	}
	r := router("web", newBackend(t, "a", handler), newBackend(t, "b", handler))
	r.Health = &vortex.PoolHealth{Circuit: &vortex.Circuit{Backend: &vortex.BackendCircuit{MaxRequests: new(uint32(2))}}}
	h.apply(t, r)
	var clients sync.WaitGroup
	for range 20 {
		clients.Go(func() {
			c := client(t)
			for range 25 {
				if status, body := h.get(t, c, "web", "/"); status != 200 {
					t.Errorf("%d %s", status, body)
				}
			}
		})
	}
	clients.Wait()
	if most.Load() > 4 {
		t.Errorf("%d requests at once on two backends that take two each", most.Load())
	}
}

func TestRetriesAreBounded(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewPedanticRegistry()
	h := start(t, func(c *edge.Config) {
		c.HTTP.SkipDead = time.Nanosecond
		c.Metrics = promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	})
	registry.MustRegister(h.edge.Collector())
	answer := make(chan struct{})
	var asked, refused atomic.Int64
	slow := newBackend(t, "slow", func(http.ResponseWriter, *http.Request) { asked.Add(1); <-answer })
	refuses, _ := script(t, "refuses")
	r := router("web", slow, refuses)
	r.Health = &vortex.PoolHealth{Circuit: &vortex.Circuit{MaxRetries: new(uint32(1))}}
	h.apply(t, r)
	var clients sync.WaitGroup
	for range 16 {
		clients.Go(func() {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+h.addr+"/", nil)
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := client(t).Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
			if limit := resp.Header.Get("X-Vortex-Limit"); resp.StatusCode == http.StatusServiceUnavailable && limit == "retries" {
				refused.Add(1)
			}
		})
	}
	// Of those that meet the dead backend first, one is sent again and waits; the others are not.
	eventually(t, "all to wait or be refused", func() bool { return asked.Load()+refused.Load() == 16 })
	want := fmt.Sprintf(`vortex_edge_overloads_total{limit="retries",pool="web"} %d`, refused.Load())
	if _, text := h.get(t, client(t), "localhost:8000", "/metrics"); refused.Load() == 0 || !strings.Contains(text, want) {
		t.Errorf("%d wait, no %s in\n%s", asked.Load(), want, text)
	}
	close(answer)
	clients.Wait()
}

func TestHealthMetrics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewPedanticRegistry()
	h := start(t, func(c *edge.Config) { c.Metrics = promhttp.HandlerFor(registry, promhttp.HandlerOpts{}) })
	registry.MustRegister(h.edge.Collector())
	a, _ := moody(t, "a")
	b, _ := moody(t, "b")
	r := router("web", a, b)
	r.Backends[0].Node = "n1"
	r.Health = &vortex.PoolHealth{Circuit: &vortex.Circuit{MaxRequests: new(uint32(1)), MaxConnections: new(uint32(1))}}
	h.apply(t, r)
	h.awaitApplied(t, h.node(edge.NodeChange{Node: "n1", Gone: true}))
	_, text := h.get(t, client(t), "localhost:8000", "/metrics")
	for _, want := range []string{
		`vortex_edge_backends{pool="web"} 2`, `vortex_edge_backends_out{pool="web",reason="node"} 1`,
		`vortex_edge_ejections_total{pool="web"} 0`, `vortex_edge_panicking{pool="web"} 0`, `vortex_edge_probes_total 0`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}
