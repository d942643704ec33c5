package edge_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"vortex/internal/edge"
	"vortex/internal/edge/limit"
)

// TestMain lets the test binary be a backend process of its own, so that one can be killed.
func TestMain(m *testing.M) {
	if addr := os.Getenv("EDGE_TEST_BACKEND"); addr != "" {
		serveProcess(addr)
		return
	}
	code := m.Run()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, "goroutines left behind:", err)
		code = 1
	}
	os.Exit(code)
}

func serveProcess(addr string) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(ln.Addr())
	_ = http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(time.Duration(rand.IntN(5)) * time.Millisecond)
		fmt.Fprint(w, os.Getpid())
	}))
}

// process is a backend that can be killed.
type process struct {
	backend
	cmd *exec.Cmd
}

func startProcess(t *testing.T, name string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "EDGE_TEST_BACKEND=127.0.0.1:0")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	addr, err := net.ResolveTCPAddr("tcp", strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return &process{backend{name: name, addr: addr}, cmd}
}

// load asks for a page over and over until stopped.
type load struct {
	done   atomic.Uint64
	failed atomic.Uint64
	first  atomic.Pointer[string] // why the first failed
	stop   func()
}

func (h *harness) load(t *testing.T, workers int, host string) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{}
	var wg sync.WaitGroup
	l.stop = func() { cancel(); wg.Wait() }
	t.Cleanup(l.stop)
	for range workers {
		c := client(t)
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := h.once(ctx, c, host); err != nil && ctx.Err() == nil {
					text := err.Error()
					l.failed.Add(1)
					l.first.CompareAndSwap(nil, &text)
				}
				l.done.Add(1)
			}
		})
	}
	return l
}

func (h *harness) once(ctx context.Context, c *http.Client, host string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+h.addr+"/", nil)
	if err != nil {
		return err
	}
	req.Host = host
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", resp.StatusCode, body)
	}
	return err
}

// more waits until the load has done n requests more.
func (l *load) more(t *testing.T, n uint64) {
	t.Helper()
	from := l.done.Load()
	eventually(t, "the load to go on", func() bool { return l.done.Load() >= from+n })
}

func (l *load) check(t *testing.T) {
	t.Helper()
	l.stop()
	if n := l.failed.Load(); n > 0 {
		t.Errorf("%d of %d requests failed, the first with: %s", n, l.done.Load(), *l.first.Load())
	}
	t.Logf("%d requests", l.done.Load())
}

func TestKilledBackendLosesNoGet(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	a, b, c := startProcess(t, "a"), startProcess(t, "b"), startProcess(t, "c")
	h.apply(t, router("web", &a.backend, &b.backend, &c.backend))
	l := h.load(t, 16, "web.localhost")
	l.more(t, 300)
	for _, victim := range []*process{a, b} {
		if err := victim.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		l.more(t, 500)
	}
	l.check(t)
}

func TestRollingReplacementLosesNothing(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	serve := func(generation int, i int) *backend {
		name := fmt.Sprintf("g%d-%d", generation, i)
		return newBackend(t, name, func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond)
			fmt.Fprint(w, name)
		})
	}
	present := []*backend{serve(0, 0), serve(0, 1), serve(0, 2)}
	h.apply(t, router("web", present...))
	l := h.load(t, 24, "web.localhost")
	begun, from := time.Now(), l.done.Load()
	for generation := 1; generation <= 4; generation++ {
		for i := range present {
			old, next := present[i], serve(generation, i)
			h.put(router("web", append([]*backend{next}, present...)...))
			present[i] = next
			h.awaitDrain(t, h.put(router("web", present...)))
			old.server.Close() // at once, hard: the edge said nothing is in flight there
			l.more(t, 100)
		}
	}
	t.Logf("%.0f requests a second", float64(l.done.Load()-from)/time.Since(begun).Seconds())
	l.check(t)
}

func TestDrainNamesBusyInstanceUntilItsRequestEnds(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	arrived, finish := make(chan struct{}), make(chan struct{})
	old := newBackend(t, "old", func(w http.ResponseWriter, _ *http.Request) {
		arrived <- struct{}{}
		<-finish
		fmt.Fprint(w, "old")
	})
	next := newBackend(t, "next", named("next"))
	h.apply(t, router("web", old))
	answer := make(chan string)
	go func() {
		_, body := h.get(t, client(t), "web.localhost", "/")
		answer <- body
	}()
	<-arrived
	revision := h.put(router("web", next))
	h.awaitDrain(t, revision, "old")
	if _, body := h.get(t, client(t), "web.localhost", "/"); body != "next" {
		t.Errorf("a new request went to %q", body)
	}
	close(finish)
	if body := <-answer; body != "old" {
		t.Errorf("the request in flight got %q", body)
	}
	h.awaitDrain(t, revision)
	revision = h.remove("web")
	h.awaitDrain(t, revision)
	if status, _ := h.get(t, client(t), "web.localhost", "/"); status != 404 {
		t.Errorf("a removed app answered %d", status)
	}
}

func TestHoldsRequestUntilBackendComes(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.apply(t, router("web"))
	answer := make(chan string)
	go func() {
		_, body := h.get(t, client(t), "web.localhost", "/")
		answer <- body
	}()
	h.await(t, "the demand to be published", func(s *store) bool {
		for _, m := range s.metrics {
			if m.ClientID == "web" && m.CurrentRPS == 1 && m.InFlight != nil && *m.InFlight == 1 {
				return true
			}
		}
		return false
	})
	h.put(router("web", newBackend(t, "w", named("woken"))))
	if body := <-answer; body != "woken" {
		t.Errorf("the held request got %q", body)
	}
}

func TestHoldEndsAndIsBounded(t *testing.T) {
	t.Parallel()
	h := start(t, func(c *edge.Config) { c.HoldTimeout, c.MaxHeld = 700*time.Millisecond, 2 })
	h.apply(t, router("web"))
	begun := time.Now()
	statuses := make(chan time.Duration, 6)
	for range cap(statuses) {
		go func() {
			resp := h.do(t, client(t), http.MethodGet, "web.localhost", "/", nil)
			resp.Body.Close()
			if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
				t.Errorf("status %d, Retry-After %q", resp.StatusCode, resp.Header.Get("Retry-After"))
			}
			statuses <- time.Since(begun)
		}()
	}
	waited := 0
	for range cap(statuses) {
		if <-statuses >= 700*time.Millisecond {
			waited++
		}
	}
	if waited < 2 {
		t.Errorf("%d requests waited, want at least the 2 there is room for", waited)
	}
}

func TestRestartedBackendIsFoundWithoutRouterChange(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	p := startProcess(t, "w")
	h.apply(t, router("web", &p.backend))
	c := client(t)
	if status, _ := h.get(t, c, "web.localhost", "/"); status != 200 {
		t.Fatalf("status %d", status)
	}
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	status := make(chan int)
	go func() {
		s, _ := h.get(t, c, "web.localhost", "/")
		status <- s
	}()
	eventually(t, "the backend to be left out", func() bool {
		apps := h.edge.Status().Apps
		return apps[0].Backends[0].Out == "refused"
	})
	ln, err := net.Listen("tcp", p.addr.String())
	if err != nil {
		t.Skip("the port was taken meanwhile:", err)
	}
	server := &http.Server{Handler: named("again")}
	go func() { _ = server.Serve(ln) }()
	defer server.Close()
	if s := <-status; s != 200 {
		t.Errorf("status %d after the restart", s)
	}
}

// pattern is a reader of n pseudo-random bytes.
type pattern struct {
	left   int64
	source *rand.ChaCha8
}

func newPattern(n int64) *pattern { return &pattern{n, rand.NewChaCha8([32]byte{1})} }

func (p *pattern) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	b = b[:min(int64(len(b)), p.left)]
	p.left -= int64(len(b))
	return p.source.Read(b)
}

func sum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

func TestStreams100MBInFlatMemory(t *testing.T) { // not parallel: it looks at the process' memory
	const size = 100 << 20
	h := start(t, nil)
	want := sha256.New()
	if _, err := io.Copy(want, newPattern(size)); err != nil {
		t.Fatal(err)
	}
	b := newBackend(t, "w", func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			got := sha256.New()
			n, err := io.Copy(got, r.Body)
			fmt.Fprintf(w, "%d %v %s", n, err, sum(got))
			return
		}
		if r.URL.Path == "/sized" {
			w.Header().Set("Content-Length", strconv.Itoa(size))
		}
		_, _ = io.Copy(w, newPattern(size))
	})
	h.apply(t, router("web", b))
	c := client(t)
	peak := watchHeap()
	for _, path := range []string{"/sized", "/chunked"} {
		resp := h.do(t, c, http.MethodGet, "web.localhost", path, nil)
		got := sha256.New()
		n, err := io.Copy(got, resp.Body)
		resp.Body.Close()
		if err != nil || n != size || sum(got) != sum(want) {
			t.Errorf("%s: %d bytes, %v, sum equal %v", path, n, err, sum(got) == sum(want))
		}
	}
	for _, length := range []int64{size, -1} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+h.addr+"/", newPattern(size))
		if err != nil {
			t.Fatal(err)
		}
		req.Host, req.ContentLength = "web.localhost", length
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		answer, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(answer) != fmt.Sprintf("%d <nil> %s", size, sum(want)) {
			t.Errorf("upload with length %d: %s", length, answer)
		}
	}
	if mb := peak() >> 20; mb > 40 {
		t.Errorf("the heap grew to %d MB", mb)
	} else {
		t.Logf("heap at most %d MB", mb)
	}
}

// watchHeap returns a function that tells the largest heap seen since.
func watchHeap() func() uint64 {
	stop, done := make(chan struct{}), make(chan uint64)
	go func() {
		var peak uint64
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapAlloc)
			select {
			case <-stop:
				done <- peak
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	return func() uint64 { close(stop); return <-done }
}

func TestEventsArriveOneByOne(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	next := make(chan struct{})
	b := newBackend(t, "w", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := 0; ; i++ {
			fmt.Fprintf(w, "data: %d\n\n", i)
			w.(http.Flusher).Flush()
			select {
			case <-next:
			case <-r.Context().Done():
				next <- struct{}{}
				return
			}
		}
	})
	h.apply(t, router("web", b))
	resp := h.do(t, client(t), http.MethodGet, "web.localhost", "/", nil)
	events := bufio.NewScanner(resp.Body)
	for i := range 5 {
		for events.Scan() && events.Text() == "" {
		}
		if want := fmt.Sprintf("data: %d", i); events.Text() != want {
			t.Fatalf("got %q, want %q: %v", events.Text(), want, events.Err())
		}
		next <- struct{}{}
	}
	resp.Body.Close()
	for { // the client left: the backend is told although it sends nothing, and nothing stays in flight
		select {
		case <-next:
			eventually(t, "nothing to be in flight", func() bool { return h.edge.Status().Apps[0].Backends[0].InFlight == 0 })
			return
		case <-time.After(30 * time.Second):
			t.Fatal("the backend was not told that the client left")
		}
	}
}

func TestWebSocketEchoesAndDrains(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	old := newBackend(t, "old", func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			return
		}
		for {
			kind, data, err := ws.Read(r.Context())
			if err != nil || ws.Write(r.Context(), kind, append([]byte("echo "), data...)) != nil {
				return
			}
		}
	})
	h.apply(t, router("web", old))
	ws, _, err := websocket.Dial(
		t.Context(), "ws://"+h.addr+"/chat", &websocket.DialOptions{Host: "web.localhost"})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	echo := func(text string) {
		t.Helper()
		if err := ws.Write(t.Context(), websocket.MessageText, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := ws.Read(t.Context()); err != nil || string(got) != "echo "+text {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	echo("before")
	revision := h.put(router("web", newBackend(t, "next", named("next"))))
	h.awaitDrain(t, revision, "old")
	echo("while draining")
	if _, body := h.get(t, client(t), "web.localhost", "/"); body != "next" {
		t.Errorf("a new request went to %q", body)
	}
	if err := ws.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Errorf("close: %v", err)
	}
	h.awaitDrain(t, revision)
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	h := start(t, func(c *edge.Config) { c.Limit = limit.Config{Limit: 5, Window: time.Hour} })
	h.apply(t, router("web", newBackend(t, "w", named("w"))))
	c := client(t)
	for i := range 8 {
		resp := h.do(t, c, http.MethodGet, "web.localhost", "/", nil)
		resp.Body.Close()
		want := 200
		if i >= 5 {
			want = 429
		}
		if resp.StatusCode != want || want == 429 && resp.Header.Get("Retry-After") == "" {
			t.Errorf("request %d: status %d, Retry-After %q", i, resp.StatusCode, resp.Header.Get("Retry-After"))
		}
	}
	h.edge.SetLimit(limit.Config{Limit: 1000, Window: time.Hour})
	if status, _ := h.get(t, c, "web.localhost", "/"); status != 200 {
		t.Errorf("status %d after the limit was raised", status)
	}
}

func TestShutdownFinishesWhatIsInFlight(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	arrived, finish := make(chan struct{}), make(chan struct{})
	h.apply(t, router("web", newBackend(t, "w", func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-finish
		fmt.Fprint(w, "whole")
	})))
	answer := make(chan string)
	go func() {
		_, body := h.get(t, client(t), "web.localhost", "/")
		answer <- body
	}()
	<-arrived
	stopped := make(chan error)
	go func() { stopped <- h.stop() }()
	eventually(t, "the edge to stop accepting", func() bool {
		conn, err := net.Dial("tcp", h.addr)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	close(finish)
	if body := <-answer; body != "whole" {
		t.Errorf("got %q", body)
	}
	if err := <-stopped; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestMetricsOfAnApp(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.apply(t, router("web", newBackend(t, "w", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/bad" {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})))
	h.await(t, "the first record, of nothing", func(s *store) bool { return len(s.metrics) > 0 && s.metrics[0].CurrentRPS == 0 })
	c := client(t)
	for range 20 {
		h.get(t, c, "web.localhost", "/")
	}
	h.get(t, c, "web.localhost", "/bad")
	h.await(t, "the traffic", func(s *store) bool {
		last := s.metrics[len(s.metrics)-1]
		return last.CurrentRPS > 0 && *last.LatencyP95Ms > 0 && *last.ErrorsPerSecond == 1 && *last.Connections == 1 && last.Edge == "edge-1"
	})
	h.await(t, "idleness", func(s *store) bool {
		last := s.metrics[len(s.metrics)-1]
		return last.CurrentRPS == 0 && *last.LatencyP95Ms == 0 && *last.InFlight == 0
	})
	h.mu.Lock()
	n := len(h.metrics)
	h.mu.Unlock()
	h.await(t, "nothing", func(*store) bool { return true })
	time.Sleep(500 * time.Millisecond)
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.metrics) > n+1 {
		t.Errorf("%d records of an idle app in half a second", len(h.metrics)-n)
	}
}
