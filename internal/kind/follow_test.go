package kind_test

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"testing"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/engine"
	"vortex/internal/kind/engine/etcd"
	"vortex/internal/kind/kindtest"
	"vortex/internal/kind/ksl"
)

// link is an engine that can be cut off, and put in another's place, as a failover or a restored backup does.
type link struct {
	mu   sync.Mutex
	to   engine.Engine
	cut  bool
	ends map[*context.CancelFunc]struct{}
}

var errCut = vortex.Errorf(vortex.Unavailable, "cut off")

func (l *link) far() (engine.Engine, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		return nil, errCut
	}
	return l.to, nil
}

// away cuts the link; every watch ends.
func (l *link) away() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = true
	for end := range l.ends {
		(*end)()
	}
}

// back joins the link to an engine.
func (l *link) back(e engine.Engine) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.to, l.cut = e, false
}

func (l *link) Range(ctx context.Context, lo, hi string, rev *int64) iter.Seq2[engine.KV, error] {
	e, err := l.far()
	if err != nil {
		return func(yield func(engine.KV, error) bool) { yield(engine.KV{}, err) }
	}
	return e.Range(ctx, lo, hi, rev)
}

func (l *link) Commit(ctx context.Context, txn engine.Txn) (engine.Result, error) {
	e, err := l.far()
	if err != nil {
		return engine.Result{}, err
	}
	return e.Commit(ctx, txn)
}

func (l *link) Watch(ctx context.Context, from int64) iter.Seq2[engine.Batch, error] {
	return func(yield func(engine.Batch, error) bool) {
		e, err := l.far()
		if err != nil {
			yield(engine.Batch{}, err)
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		l.mu.Lock()
		l.ends[&cancel] = struct{}{}
		l.mu.Unlock()
		e.Watch(ctx, from)(yield)
	}
}

func (l *link) ReadIndex(ctx context.Context) (int64, error) {
	e, err := l.far()
	if err != nil {
		return 0, err
	}
	return e.ReadIndex(ctx)
}

func (l *link) Compact(ctx context.Context, rev int64) error { return l.to.Compact(ctx, rev) }
func (l *link) Close() error                                 { return nil }

const linkedSchema = `
@prefix("user")
type User {
	@unique mail: String,
	@indexed team: String
}`

func embedded(t *testing.T) engine.Engine {
	t.Helper()
	e, err := etcd.Embedded{Dir: t.TempDir()}.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("close engine: %v", err)
		}
	})
	return e
}

func run(t *testing.T, e engine.Engine) *kind.Store {
	t.Helper()
	schema, err := ksl.Parse("linked.ksl", []byte(linkedSchema))
	if err != nil {
		t.Fatal(err)
	}
	store, err := kind.Open(t.Context(), kind.Config{Engine: e, Schema: schema})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := store.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return store
}

func user(mail, team string) []byte { return fmt.Appendf(nil, `{"mail":%q,"team":%q}`, mail, team) }

func mustPut(t *testing.T, s *kind.Store, key string, value []byte) {
	t.Helper()
	if _, err := s.Put(t.Context(), key, value, 0); err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
}

// team lists who a query finds.
func team(t *testing.T, s *kind.Store, name string) (keys []string) {
	t.Helper()
	found, err := s.Query("User", kind.Filter{Field: "team", Value: name}, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, rec := range found {
		keys = append(keys, rec.Key)
	}
	return keys
}

// TestCompactedMeanwhile cuts a server off until what it missed is compacted: it loads anew by itself, its indexes
// and guards with it, and tells its watchers to list again.
func TestCompactedMeanwhile(t *testing.T) {
	eng := embedded(t)
	l := &link{to: eng, ends: map[*context.CancelFunc]struct{}{}}
	store, other := run(t, l), run(t, eng)
	mustPut(t, store, "user:a", user("a@x", "red"))
	mustPut(t, store, "user:b", user("b@x", "red"))
	watch := store.Watch(kind.WatchOptions{})
	defer watch.Close()
	l.away()
	mustPut(t, other, "user:b", user("b@x", "blue"))
	mustPut(t, other, "user:c", user("c@x", "red"))
	if _, err := other.Delete(t.Context(), "user:a"); err != nil {
		t.Fatal(err)
	}
	if err := eng.Compact(t.Context(), other.Revision()); err != nil {
		t.Fatal(err)
	}
	kindtest.Eventually(t, "the loss is noticed", store.Stale)
	if got := team(t, store, "red"); len(got) != 2 {
		t.Errorf("reads from memory meanwhile: %v", got)
	}
	if _, err := store.Put(t.Context(), "x", []byte("1"), 0); !vortex.IsKind(err, vortex.Unavailable) {
		t.Errorf("a write meanwhile: %v; want Unavailable", err)
	}
	l.back(eng)
	kindtest.Eventually(t, "the store goes on", func() bool { return !store.Stale() && store.Revision() >= other.Revision() })
	if got := fmt.Sprint(team(t, store, "red"), team(t, store, "blue")); got != "[user:c] [user:b]" {
		t.Errorf("after it was loaded anew: %s", got)
	}
	if _, err := watch.Next(t.Context()); !vortex.IsKind(err, vortex.OutOfRange) {
		t.Errorf("the watch: %v; want OutOfRange", err)
	}
	if _, err := store.Put(t.Context(), "user:d", user("c@x", "red"), 0); !vortex.IsKind(err, vortex.Exists) {
		t.Errorf("a mail that is taken: %v; want Exists", err)
	}
	again := store.Watch(kind.WatchOptions{})
	defer again.Close()
	mustPut(t, other, "user:a", user("a@x", "green"))
	if batches, err := again.Next(t.Context()); err != nil || batches[0].Events[0].Key != "user:a" {
		t.Errorf("a new watch: %v, %v", batches, err)
	}
}

// TestEngineThatForgot puts an engine in the place of another that had more, as a promoted replica or a restored backup
// may: memory follows it back.
func TestEngineThatForgot(t *testing.T) {
	first, second := embedded(t), embedded(t)
	l := &link{to: first, ends: map[*context.CancelFunc]struct{}{}}
	store, behind := run(t, l), run(t, second)
	for n := range 20 {
		mustPut(t, store, fmt.Sprintf("user:%d", n), user(fmt.Sprintf("%d@x", n), "red"))
	}
	mustPut(t, behind, "user:0", user("0@x", "blue"))
	watch := store.Watch(kind.WatchOptions{From: 2}) // in the middle of history
	defer watch.Close()
	l.away()
	kindtest.Eventually(t, "the loss is noticed", store.Stale)
	l.back(second)
	kindtest.Eventually(t, "memory follows", func() bool { return !store.Stale() && store.Len() == 1 })
	if got := fmt.Sprint(team(t, store, "red"), team(t, store, "blue")); got != "[] [user:0]" {
		t.Errorf("after it was loaded anew: %s", got)
	}
	for {
		if _, err := watch.Next(t.Context()); err != nil {
			if !vortex.IsKind(err, vortex.OutOfRange) {
				t.Errorf("the watch: %v; want OutOfRange", err)
			}
			break
		}
	}
	mustPut(t, store, "user:1", user("1@x", "blue")) // its guard was forgotten too
	if got := fmt.Sprint(team(t, store, "blue")); got != "[user:0 user:1]" {
		t.Errorf("what is written from then on: %s", got)
	}
}

// TestEngineReplacedWhileWriting notices by a commit alone that the engine forgot.
func TestEngineReplacedWhileWriting(t *testing.T) {
	first, second := embedded(t), embedded(t)
	l := &link{to: first, ends: map[*context.CancelFunc]struct{}{}}
	store := run(t, l)
	for n := range 5 {
		mustPut(t, store, "k", fmt.Append(nil, n))
	}
	l.back(second) // nobody was told
	if _, err := second.Commit(t.Context(), engine.Txn{Writes: []engine.Write{{Key: "other", Value: []byte("\x01\x00x")}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Put(t.Context(), "k", []byte("new"), 0); !vortex.IsKind(err, vortex.Unavailable) {
		t.Errorf("a commit that goes back in time: %v; want Unavailable", err)
	}
	kindtest.Eventually(t, "memory follows", func() bool {
		rec, err := store.Get("k")
		return err == nil && string(rec.Value) == "new" && !store.Stale()
	})
}
