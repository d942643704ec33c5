package static

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// fixed are the addresses of names.
type fixed map[string][]string

func (f fixed) addresses(name string) (addrs []netip.Addr) {
	for _, text := range f[name] {
		addrs = append(addrs, netip.MustParseAddr(text))
	}
	return addrs
}

// zone is a name server whose answers change.
type zone struct {
	mu    sync.Mutex
	names fixed
}

func (z *zone) set(name string, addrs ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.names[name] = addrs
}

func (z *zone) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if addrs := z.names.addresses(host); len(addrs) > 0 {
		return addrs, nil
	}
	return nil, errors.New("no such host")
}

// backend answers with its name.
func backend(t *testing.T, name string) (port int) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) })}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close() })
	addr, _ := ln.Addr().(*net.TCPAddr)
	return addr.Port
}

// world is an edge that runs alone, and its file.
type world struct {
	*Static

	path string
	stop func() error
}

func start(t *testing.T, c Config, content string) *world {
	t.Helper()
	w := &world{path: filepath.Join(t.TempDir(), "edge.yaml")}
	w.write(t, content)
	c.File = w.path
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	w.Static = s
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	w.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() {
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	})
	w.await(t, "the first file", func(s State) bool { return s.Reloads == 1 })
	return w
}

// write replaces the file at once, as editors do.
func (w *world) write(t *testing.T, content string) {
	t.Helper()
	tmp := w.path + ".new"
	if err := os.WriteFile(tmp, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, w.path); err != nil {
		t.Fatal(err)
	}
}

func (w *world) await(t *testing.T, what string, ok func(State) bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok(w.State()) {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for %s: %+v", what, w.State())
		}
		time.Sleep(time.Millisecond)
	}
}

// get asks the edge's first listener.
func (w *world) get(t *testing.T) string {
	t.Helper()
	resp, err := http.Get("http://" + w.Edge().Addrs()[0].String())
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return string(body)
}

const one = `
listeners: [{name: web, address: "127.0.0.1:0"}]
routes: [{name: site, backends: [{address: "%s"}]}]
resolveSeconds: 0.1
`

func TestFileIsFollowed(t *testing.T) {
	t.Parallel()
	a, b := backend(t, "a"), backend(t, "b")
	w := start(t, Config{}, fmt.Sprintf(one, fmt.Sprint("127.0.0.1:", a)))
	if got := w.get(t); got != "a" {
		t.Fatalf("answered %q", got)
	}
	w.write(t, fmt.Sprintf(one, fmt.Sprint("127.0.0.1:", b)))
	w.await(t, "the second file", func(s State) bool { return s.Reloads == 2 })
	if got := w.get(t); got != "b" {
		t.Errorf("after the change answered %q", got)
	}
	w.write(t, "listeners: []\n")
	w.await(t, "the refusal", func(s State) bool { return s.Error != nil })
	if err := w.State().Error.Error(); !strings.Contains(err, "edge.yaml:1:1: listeners: expected at least one") {
		t.Errorf("refused with %s", err)
	}
	if got := w.get(t); got != "b" {
		t.Errorf("with a bad file answered %q", got)
	}
	if err := os.Remove(w.path); err != nil {
		t.Fatal(err)
	}
	w.await(t, "the second refusal", func(s State) bool { return s.Refused == 2 })
	if got := w.get(t); got != "b" {
		t.Errorf("without a file answered %q", got)
	}
	if err := os.WriteFile(w.path, []byte(fmt.Sprintf(one, fmt.Sprint("127.0.0.1:", a))), 0o600); err != nil { // in place
		t.Fatal(err)
	}
	w.await(t, "the good file", func(s State) bool { return s.Error == nil && s.Reloads == 3 })
	if got := w.get(t); got != "a" {
		t.Errorf("mended it answered %q", got)
	}
	w.Reload()
	w.await(t, "the asked one", func(s State) bool { return s.Reloads == 4 })
}

func TestLinkedFileIsFollowed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, b := backend(t, "a"), backend(t, "b")
	for name, port := range map[string]int{"v1": a, "v2": b} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "edge.yaml"), []byte(fmt.Sprintf(one, fmt.Sprint("127.0.0.1:", port))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := func(target, name string) {
		t.Helper()
		tmp := filepath.Join(dir, "tmp")
		if err := os.Symlink(target, tmp); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("v1", "data")
	link("data/edge.yaml", "edge.yaml")
	s, err := New(Config{File: filepath.Join(dir, "edge.yaml")})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{Static: s}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	w.await(t, "the first file", func(s State) bool { return s.Reloads == 1 })
	link("v2", "data")
	w.await(t, "the second file", func(s State) bool { return s.Reloads == 2 })
	if got := w.get(t); got != "b" {
		t.Errorf("answered %q", got)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestNamesAreLookedUpAgain(t *testing.T) {
	t.Parallel()
	port := backend(t, "here")
	z := &zone{names: fixed{"web.internal": {"127.0.0.1"}}}
	w := start(t, Config{Resolver: z}, fmt.Sprintf(one, fmt.Sprint("web.internal:", port)))
	if got := w.get(t); got != "here" {
		t.Fatalf("answered %q", got)
	}
	backends := func() (list []string) {
		for _, app := range w.Edge().Status().Apps {
			for _, b := range app.Backends {
				list = append(list, b.Address)
			}
		}
		return list
	}
	z.set("web.internal", "127.0.0.1", "127.0.0.2")
	w.await(t, "the second address", func(State) bool { return len(backends()) == 2 })
	z.set("web.internal")
	w.Reload()
	w.await(t, "the file again", func(s State) bool { return s.Reloads == 2 })
	if list := backends(); len(list) != 2 {
		t.Errorf("a name that is gone has the addresses %v", list)
	}
	z.set("web.internal", "127.0.0.1")
	w.await(t, "the one address", func(State) bool { return len(backends()) == 1 })
}

func TestTakenAddressIsRefusedWhole(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	a, b := backend(t, "a"), backend(t, "b")
	first := fmt.Sprintf(one, fmt.Sprint("127.0.0.1:", a))
	w := start(t, Config{}, first)
	second := strings.Replace(first, "]\n", fmt.Sprintf(", {name: second, address: %q}]\n", taken.Addr()), 1)
	w.write(t, strings.Replace(second, strconv.Itoa(a), strconv.Itoa(b), 1))
	w.await(t, "the refusal", func(s State) bool { return s.Error != nil })
	if err := w.State().Error.Error(); !strings.Contains(err, "another program does") {
		t.Errorf("refused with %s", err)
	}
	if got := w.get(t); got != "a" {
		t.Errorf("answered %q: half of the file is in force", got)
	}
	if n := w.State().Refused; n != 1 {
		t.Errorf("refused %d times", n)
	}
	taken.Close()
	w.await(t, "the file to be tried again", func(s State) bool { return s.Error == nil })
	if got := w.get(t); got != "b" {
		t.Errorf("answered %q when the address was free", got)
	}
}

func TestLimitsAndZoneFollowTheFile(t *testing.T) {
	t.Parallel()
	near, far := backend(t, "near"), backend(t, "far")
	file := func(zone string, requests int) string {
		return fmt.Sprintf(`
listeners: [{name: web, address: "127.0.0.1:0"}]
routes:
  - name: site
    zone: {prefer: true, enoughPercent: 1}
    backends: [{address: "127.0.0.1:%d", zone: near}, {address: "127.0.0.1:%d", zone: far}]
zone: %s
shutdownSeconds: 20
limits: {connectionRequests: %d, clientConnections: 0, minBodyRate: 0, bodyGraceSeconds: 1}
`, near, far, zone, requests)
	}
	w := start(t, Config{}, file("near", 0))
	ask := func() (body string, last bool) {
		resp, err := http.Get("http://" + w.Edge().Addrs()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(text), resp.Close
	}
	for range 10 {
		if body, last := ask(); body != "near" || last {
			t.Fatalf("answered %q, last %v", body, last)
		}
	}
	w.write(t, file("far", 1))
	w.await(t, "the other zone", func(s State) bool { return s.Reloads == 2 })
	for range 10 {
		if body, last := ask(); body != "far" || !last {
			t.Fatalf("answered %q, last %v", body, last)
		}
	}
}

func TestBackendsAreCheckedWhereTheFileSaysSo(t *testing.T) {
	t.Parallel()
	well := backend(t, "well")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var sick atomic.Bool
	sick.Store(true)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/health" && sick.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = io.WriteString(w, "moody")
	})}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close() })
	w := start(t, Config{}, fmt.Sprintf(`
listeners: [{name: web, address: "127.0.0.1:0"}]
routes: [{name: site, pool: site}]
pools:
  - name: site
    backends: [{address: "127.0.0.1:%d"}, {address: "%s"}]
    check: {path: /health, periodSeconds: 0.05, failureThreshold: 2}
`, well, ln.Addr()))
	seen := func() map[string]bool {
		got := map[string]bool{}
		for range 20 {
			got[w.get(t)] = true
		}
		return got
	}
	for deadline := time.Now().Add(20 * time.Second); seen()["moody"]; {
		if time.Now().After(deadline) {
			t.Fatal("a backend that fails its checks gets requests")
		}
	}
	sick.Store(false)
	for deadline := time.Now().Add(20 * time.Second); !seen()["moody"]; {
		if time.Now().After(deadline) {
			t.Fatal("a backend that passes its checks again gets no requests")
		}
	}
}
