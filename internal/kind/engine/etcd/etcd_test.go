package etcd_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/engine"
	"vortex/internal/kind/engine/enginetest"
	"vortex/internal/kind/engine/etcd"
	"vortex/internal/kind/kindtest"
)

func embedded(t *testing.T) engine.Engine {
	t.Helper()
	e, err := etcd.Embedded{Dir: t.TempDir()}.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return e
}

func TestEmbedded(t *testing.T) { enginetest.Run(t, embedded) }

// TestDataDirectoryMayLieDeep opens a store where the path of a socket in it would be too long for the kernel.
func TestDataDirectoryMayLieDeep(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("deep/", 30))
	t.Setenv("TMPDIR", t.TempDir())
	for range 2 { // and again: nothing of the first is in the way
		e, err := etcd.Embedded{Dir: dir}.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		enginetest.Commit(t, e, enginetest.Put("a", "1"))
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "vortex-store-*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestExternal(t *testing.T) {
	server := startEtcd(t)
	n := 0
	enginetest.Run(t, func(t *testing.T) engine.Engine {
		t.Helper()
		n++
		return server.open(t, fmt.Sprintf("/test-%d/", n)) // one server, an empty prefix for each test
	})
}

// etcdServer is a real etcd as a process of its own.
type etcdServer struct {
	t            *testing.T
	dir          string
	client, peer string
	cmd          *exec.Cmd
	out          bytes.Buffer
	exited       chan struct{}
}

// startEtcd starts Debian's etcd on free loopback ports.
func startEtcd(t *testing.T) *etcdServer {
	t.Helper()
	if _, err := exec.LookPath("etcd"); err != nil {
		t.Skip("no etcd on PATH: install etcd-server to test external clusters")
	}
	s := &etcdServer{t: t, dir: t.TempDir(), client: freeAddr(t), peer: freeAddr(t)}
	s.start()
	t.Cleanup(s.kill)
	return s
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func (s *etcdServer) start() {
	s.t.Helper()
	s.cmd = exec.CommandContext(context.Background(), "etcd", "--data-dir", filepath.Join(s.dir, "data"),
		"--listen-client-urls", "http://"+s.client, "--advertise-client-urls", "http://"+s.client,
		"--listen-peer-urls", "http://"+s.peer, "--initial-advertise-peer-urls", "http://"+s.peer,
		"--initial-cluster", "default=http://"+s.peer)
	s.cmd.Env = append(os.Environ(), "ETCD_UNSUPPORTED_ARCH=arm64")
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.out
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	exited, cmd := make(chan struct{}), s.cmd
	s.exited = exited
	go func() { defer close(exited); _ = cmd.Wait() }()
}

// kill ends etcd as a crash would.
func (s *etcdServer) kill() {
	_ = s.cmd.Process.Kill()
	<-s.exited
}

// open connects, waiting until etcd serves.
func (s *etcdServer) open(t *testing.T, prefix string) *etcd.Engine {
	t.Helper()
	var e *etcd.Engine
	kindtest.Eventually(t, "etcd serves", func() (ok bool) {
		var err error
		e, err = etcd.External{Endpoints: []string{s.client}, Prefix: prefix}.Open(t.Context())
		return err == nil
	})
	t.Cleanup(func() { _ = e.Close() })
	return e
}

// TestEngineKilledAndRestarted is what an operator sees of an etcd that crashes: refusals of kind Unavailable, and then
// everything goes on, watches included, without a gap.
func TestEngineKilledAndRestarted(t *testing.T) {
	server := startEtcd(t)
	e := server.open(t, "")
	rev := enginetest.Commit(t, e, enginetest.Put("a", "1"))
	watch := enginetest.Watch(t, e, rev)
	watch.Next()
	server.kill()
	_, err := e.Commit(t.Context(), engine.Txn{Writes: []engine.Write{enginetest.Put("a", "lost")}})
	if !vortex.IsKind(err, vortex.Unavailable) {
		t.Errorf("a commit while the engine is away: %v; want Unavailable", err)
	}
	if _, err := e.ReadIndex(t.Context()); !vortex.IsKind(err, vortex.Unavailable) {
		t.Errorf("a read index while the engine is away: %v; want Unavailable", err)
	}
	server.start()
	kindtest.Eventually(t, "a commit succeeds again", func() bool {
		_, err := e.Commit(t.Context(), engine.Txn{Writes: []engine.Write{enginetest.Put("a", "2")}})
		return err == nil
	})
	for {
		if _, changes := watch.Next(); changes[0] == "a=2" {
			break
		}
	}
}

// TestStoreServesReadsWhileTheEngineIsAway holds the store to it: reads from memory, writes refused, recovery by itself.
func TestStoreServesReadsWhileTheEngineIsAway(t *testing.T) {
	server := startEtcd(t)
	store := openStore(t, server.open(t, ""))
	if _, err := store.Put(t.Context(), "k", []byte("v"), 0); err != nil {
		t.Fatal(err)
	}
	server.kill()
	if _, err := store.Put(t.Context(), "k", []byte("lost"), 0); !vortex.IsKind(err, vortex.Unavailable) {
		t.Fatalf("a write while the engine is away: %v; want Unavailable", err)
	}
	if !store.Stale() {
		t.Error("the store does not know that the engine is away")
	}
	if rec, err := store.Get("k"); err != nil || string(rec.Value) != "v" {
		t.Errorf("a read while the engine is away: %v, %v", rec, err)
	}
	server.start()
	kindtest.Eventually(t, "the store finds the engine again", func() bool { return !store.Stale() })
	if _, err := store.Put(t.Context(), "k", []byte("w"), 0); err != nil {
		t.Fatalf("a write after the engine came back: %v", err)
	}
	if rec, err := store.Get("k"); err != nil || string(rec.Value) != "w" {
		t.Errorf("a read after the engine came back: %v, %v", rec, err)
	}
}

// TestOthersMayUseTheSameEtcd writes beside Vortex's prefix: revisions that are none of ours must not be waited for.
func TestOthersMayUseTheSameEtcd(t *testing.T) {
	server := startEtcd(t)
	other := server.open(t, "/other/")
	store := openStore(t, server.open(t, ""))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for n := range 5 {
		if _, err := store.Put(ctx, "k", fmt.Append(nil, n), 0); err != nil {
			t.Fatal(err)
		}
		enginetest.Commit(t, other, enginetest.Put("theirs", "x"))
		if err := store.Sync(ctx); err != nil {
			t.Fatalf("sync after a foreign write: %v", err)
		}
		if won, err := store.Swap(ctx, "k", []byte("no"), []byte("x"), 0); err != nil || won {
			t.Fatalf("a swap that loses: %t, %v", won, err)
		}
	}
}

func openStore(t *testing.T, e engine.Engine) *kind.Store {
	t.Helper()
	store, err := kind.Open(t.Context(), kind.Config{Engine: e})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = store.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return store
}
