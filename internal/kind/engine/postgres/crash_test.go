package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/engine"
	"vortex/internal/kind/engine/enginetest"
	"vortex/internal/kind/engine/postgres/pgtest"
	"vortex/internal/kind/kindtest"
)

// load writes keys, each once, from several goroutines, and remembers what was acknowledged.
type load struct {
	t      *testing.T
	commit func(ctx context.Context, key string) (int64, error)
	stop   context.CancelFunc
	done   sync.WaitGroup

	mu     sync.Mutex
	acked  map[string]int64 // key to revision
	failed int
}

func startLoad(t *testing.T, commit func(ctx context.Context, key string) (int64, error)) *load {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	l := &load{t: t, commit: commit, stop: stop, acked: map[string]int64{}}
	for n := range 4 {
		l.done.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				l.write(ctx, fmt.Sprintf("k/%d/%06d", n, i))
			}
		})
	}
	t.Cleanup(l.end)
	return l
}

// write writes a key. Only a database that is away is a reason to fail.
func (l *load) write(ctx context.Context, key string) {
	rev, err := l.commit(context.Background(), key)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.acked[key] = rev
		return
	}
	l.failed++
	if !vortex.IsKind(err, vortex.Unavailable) {
		l.t.Errorf("write of %s: %v; want it done or Unavailable", key, err)
	}
	select {
	case <-ctx.Done():
	case <-time.After(time.Millisecond):
	}
}

// more waits until n more writes were acknowledged than before.
func (l *load) more(what string, n int) {
	l.t.Helper()
	before, _ := l.counts()
	kindtest.Eventually(l.t, what, func() bool { acked, _ := l.counts(); return acked >= before+n })
}

func (l *load) counts() (acked, failed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked), l.failed
}

func (l *load) end() { l.stop(); l.done.Wait() }

// state reads every key with the revision at which it changed.
func state(t *testing.T, e engine.Engine) map[string]int64 {
	t.Helper()
	keys := map[string]int64{}
	for kv, err := range e.Range(t.Context(), "k/", "k0", new(int64(0))) {
		if err != nil {
			t.Fatal(err)
		}
		keys[kv.Key] = kv.ModRevision
	}
	return keys
}

// follow collects what a watch tells from a revision on, until it has told of as much as a reader sees.
func follow(t *testing.T, e engine.Engine, from int64) func() map[string]int64 {
	t.Helper()
	var mu sync.Mutex
	var last int64
	seen := map[string]int64{}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		for batch, err := range e.Watch(ctx, from) {
			if err != nil {
				t.Errorf("watch: %v", err)
				return
			}
			mu.Lock()
			for _, c := range batch.Changes {
				if seen[c.Key] != 0 || batch.Revision <= last {
					t.Errorf("%s at %d after %d, and before at %d", c.Key, batch.Revision, last, seen[c.Key])
				}
				seen[c.Key] = batch.Revision
			}
			last = batch.Revision
			mu.Unlock()
		}
	})
	t.Cleanup(func() { cancel(); done.Wait() })
	return func() map[string]int64 {
		t.Helper()
		index, err := e.ReadIndex(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		kindtest.Eventually(t, "the watch reaches the read index", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return last >= index
		})
		cancel()
		done.Wait()
		return seen
	}
}

// contains fails the test for everything acknowledged that is not there as it was acknowledged.
func contains(t *testing.T, what string, there, acked map[string]int64) {
	t.Helper()
	for key, rev := range acked {
		if there[key] != rev {
			t.Errorf("%s: %s was acknowledged at revision %d, and is at %d", what, key, rev, there[key])
		}
	}
}

func putter(e engine.Engine) func(ctx context.Context, key string) (int64, error) {
	return func(ctx context.Context, key string) (int64, error) {
		result, err := e.Commit(ctx, engine.Txn{Writes: []engine.Write{enginetest.Put(key, "v")}})
		return result.Revision, err
	}
}

// TestCrash kills the database in the middle of writes: nothing acknowledged is lost, and a watch tells all without a gap.
func TestCrash(t *testing.T) {
	server := pgtest.Start(t)
	e := open(t, server.URL())
	seen := follow(t, e, enginetest.Commit(t, e, enginetest.Put("first", ""))+1)
	writers := startLoad(t, putter(e))
	for range 3 {
		writers.more("writes are acknowledged", 100)
		server.Kill()
		_, before := writers.counts()
		kindtest.Eventually(t, "writes are refused", func() bool { _, failed := writers.counts(); return failed > before })
		server.Restart()
	}
	writers.more("writes are acknowledged again", 100)
	writers.end()
	there := state(t, e)
	contains(t, "in the database", there, writers.acked)
	if diff := cmp.Diff(there, seen()); diff != "" {
		t.Errorf("what the watch told is not what is there (-there +told):\n%s", diff)
	}
}

// TestSilence stops the database without closing its connections: every method gives up with Unavailable, and works again after.
func TestSilence(t *testing.T) {
	server := pgtest.Start(t)
	e := open(t, server.URL())
	rev := enginetest.Commit(t, e, enginetest.Put("a", "1"))
	server.Pause()
	var calls sync.WaitGroup
	for what, call := range map[string]func() error{
		"commit": func() error {
			_, err := e.Commit(t.Context(), engine.Txn{Writes: []engine.Write{enginetest.Put("b", "1")}})
			return err
		},
		"read index": func() error { _, err := e.ReadIndex(t.Context()); return err },
		"compact":    func() error { return e.Compact(t.Context(), rev) },
		"range": func() error {
			for _, err := range e.Range(t.Context(), "", "", new(int64(0))) {
				return err
			}
			return errors.New("no answer at all")
		},
	} {
		calls.Go(func() {
			if err := call(); !vortex.IsKind(err, vortex.Unavailable) {
				t.Errorf("%s while the database is silent: %v; want Unavailable", what, err)
			}
		})
	}
	calls.Wait()
	server.Resume()
	kindtest.Eventually(t, "a commit succeeds again", func() bool {
		_, err := e.Commit(t.Context(), engine.Txn{Writes: []engine.Write{enginetest.Put("a", "2")}})
		return err == nil
	})
	watch := enginetest.Watch(t, e, rev+1)
	for _, changes := watch.Next(); changes[0] != "a=2"; { // the commit that was given up may have happened
		_, changes = watch.Next()
	}
}

// TestReadOnly demotes the database: it refuses writes, and the engine says so until they are taken again.
func TestReadOnly(t *testing.T) {
	server := pgtest.Start(t)
	e := open(t, server.URL())
	put := func() error {
		_, err := e.Commit(t.Context(), engine.Txn{Writes: []engine.Write{enginetest.Put("a", "1")}})
		return err
	}
	if err := put(); err != nil {
		t.Fatal(err)
	}
	server.Exec("ALTER SYSTEM SET default_transaction_read_only = on")
	server.Exec("SELECT pg_reload_conf()")
	kindtest.Eventually(t, "writes are refused as Unavailable", func() bool { return vortex.IsKind(put(), vortex.Unavailable) })
	server.Exec("ALTER SYSTEM RESET default_transaction_read_only")
	server.Exec("SELECT pg_reload_conf()")
	kindtest.Eventually(t, "writes are taken again", func() bool { return put() == nil })
}

// TestPromotion kills a primary under load and promotes its synchronous replica: reads go on from memory, writes are refused
// and then go on, and nothing that was acknowledged is lost. The old primary is not used when it comes back.
func TestPromotion(t *testing.T) {
	primary := pgtest.Start(t)
	replica := primary.Replica(pgtest.Synchronous)
	e := open(t, pgtest.URL([]*pgtest.Server{primary, replica}))
	store := openStore(t, e)
	writers := startLoad(t, func(ctx context.Context, key string) (int64, error) { return store.Put(ctx, key, []byte("v"), 0) })
	writers.more("writes are acknowledged", 200)
	primary.Kill()
	kindtest.Eventually(t, "the store knows that its engine is away", store.Stale)
	if _, err := store.Get("k/0/000000"); err != nil {
		t.Errorf("a read while no primary is there: %v", err)
	}
	replica.Promote()
	writers.more("writes are acknowledged by the promoted replica", 200)
	primary.Restart()
	primary.Exec("ALTER SYSTEM SET synchronous_standby_names = ''")
	primary.Exec("SELECT pg_reload_conf()")
	writers.more("the old primary changes nothing", 200)
	writers.end()
	there := state(t, e)
	contains(t, "in the database", there, writers.acked)
	if err := store.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	inMemory := map[string]int64{}
	for _, rec := range store.PrefixScan("k/") {
		inMemory[rec.Key] = rec.ModRevision
	}
	if diff := cmp.Diff(there, inMemory); diff != "" {
		t.Errorf("the store's memory is not what the database holds (-database +memory):\n%s", diff)
	}
}

// TestPromotionLosesWrites promotes a replica that lacks what was acknowledged: watches must not go on as if nothing happened.
func TestPromotionLosesWrites(t *testing.T) {
	primary := pgtest.Start(t)
	replica := primary.Replica(pgtest.Asynchronous)
	e := open(t, pgtest.URL([]*pgtest.Server{primary, replica}))
	rev := enginetest.Commit(t, e, enginetest.Put("a", "1"))
	replica.CaughtUp(primary)
	replica.Detach(primary)
	lost := enginetest.Commit(t, e, enginetest.Put("a", "lost"))
	watch := enginetest.Watch(t, e, rev+1)
	watch.Next()
	primary.Kill()
	replica.Promote()
	kindtest.Eventually(t, "the promoted replica answers", func() bool { _, err := e.ReadIndex(t.Context()); return err == nil })
	if err := watch.End(); !vortex.IsKind(err, vortex.OutOfRange) {
		t.Errorf("a watch of what is lost: %v; want OutOfRange", err)
	}
	if err := enginetest.Watch(t, e, lost+1).End(); !vortex.IsKind(err, vortex.OutOfRange) {
		t.Errorf("a new watch after what is lost: %v; want OutOfRange", err)
	}
	again := enginetest.Commit(t, e, enginetest.Put("b", "1"))
	if _, changes := enginetest.Watch(t, e, again).Next(); changes[0] != "b=1" {
		t.Errorf("a watch of what came after: %v", changes)
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
