package kind_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/engine"
	"vortex/internal/kind/engine/etcd"
	"vortex/internal/kind/kindtest"
	"vortex/internal/kind/ksl"
)

// openEngine returns an embedded engine that closes when the test ends.
func openEngine(t *testing.T, dir string) engine.Engine {
	t.Helper()
	e, err := etcd.Embedded{Dir: dir}.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// openStore runs a store on an engine until the test ends or stop is called.
func openStore(t *testing.T, cfg kind.Config, schema string) (store *kind.Store, stop func()) {
	t.Helper()
	parsed, err := ksl.Parse("test.ksl", []byte(schema))
	if err != nil {
		t.Fatal(err)
	}
	cfg.Schema = parsed
	store, err = kind.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = store.Run(ctx) }()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return store, stop
}

const userSchema = `@prefix("user")
type User { @unique email: String, @unique phone: String?, @indexed team: String? }`

func putUser(ctx context.Context, s *kind.Store, id, email string, ttl time.Duration) error {
	_, err := s.Put(ctx, "user:"+id, fmt.Appendf(nil, `{"email":%q}`, email), ttl)
	return err
}

func TestUniqueValues(t *testing.T) {
	e := openEngine(t, t.TempDir())
	t.Cleanup(func() { _ = e.Close() })
	s, _ := openStore(t, kind.Config{Engine: e}, userSchema)
	put := func(what, id, email string, want bool) {
		t.Helper()
		err := putUser(t.Context(), s, id, email, 0)
		if want && err != nil || !want && !vortex.IsKind(err, vortex.Exists) {
			t.Fatalf("%s: %v; want accepted %t", what, err, want)
		}
	}
	put("the first", "1", "a@x", true)
	put("the same again", "1", "a@x", true)
	put("a second with its value", "2", "a@x", false)
	put("another value", "2", "b@x", true)
	put("a change to a taken one", "2", "a@x", false)
	put("a change", "1", "c@x", true)
	put("the value given up", "2", "a@x", true)
	if _, err := s.Delete(t.Context(), "user:2"); err != nil {
		t.Fatal(err)
	}
	put("the value of a deleted one", "3", "a@x", true)
	if err := putUser(t.Context(), s, "4", "short@x", time.Millisecond); err != nil {
		t.Fatal(err)
	}
	kindtest.Eventually(t, "the value of an expired one is free", func() bool { return putUser(t.Context(), s, "5", "short@x", 0) == nil })

	put3 := func(id, email string) kind.Op {
		return kind.Op{Key: "user:" + id, Value: fmt.Appendf(nil, `{"email":%q}`, email)}
	}
	_, err := s.Commit(t.Context(), kind.Txn{Ops: []kind.Op{put3("8", "z@x"), put3("9", "z@x")}})
	if !vortex.IsKind(err, vortex.Exists) {
		t.Errorf("twice in one transaction: %v", err)
	}
	_, err = s.Commit(t.Context(), kind.Txn{Ops: []kind.Op{put3("1", "a@x"), put3("3", "c@x")}})
	if err != nil {
		t.Errorf("two records exchange their values: %v", err)
	}
	if _, err := s.Put(t.Context(), "vortex:unique:User:email:00", nil, 0); !vortex.IsKind(err, vortex.Invalid) {
		t.Errorf("a write to a guard: %v", err)
	}
	if found := s.PrefixScan("vortex:unique"); len(found) != 0 {
		t.Errorf("readers see %d guards", len(found))
	}
}

// TestUniqueHoldsAcrossServers lets two servers on one engine race for the same values.
func TestUniqueHoldsAcrossServers(t *testing.T) {
	e := openEngine(t, t.TempDir())
	t.Cleanup(func() { _ = e.Close() })
	a, _ := openStore(t, kind.Config{Engine: e}, userSchema)
	b, _ := openStore(t, kind.Config{Engine: e}, userSchema)
	for round := range 50 {
		var won atomic.Int32
		var wg sync.WaitGroup
		for n, s := range []*kind.Store{a, b, a, b} {
			wg.Go(func() {
				err := putUser(t.Context(), s, fmt.Sprintf("%d-%d", round, n), fmt.Sprintf("%d@x", round), 0)
				switch {
				case err == nil:
					won.Add(1)
				case !vortex.IsKind(err, vortex.Exists):
					t.Errorf("round %d: %v", round, err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Fatalf("round %d: %d of 4 hold the value", round, won.Load())
		}
	}
}

func TestConditions(t *testing.T) {
	s := kindtest.Open(t)
	rev, err := s.Put(t.Context(), "a", []byte("1"), 0)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		conditions []kind.Condition
		want       bool
	}{
		"value":               {[]kind.Condition{kind.IfValue("a", []byte("1"))}, true},
		"other value":         {[]kind.Condition{kind.IfValue("a", []byte("2"))}, false},
		"absent by value":     {[]kind.Condition{kind.IfValue("b", nil)}, true},
		"not absent by value": {[]kind.Condition{kind.IfValue("a", nil)}, false},
		"revision":            {[]kind.Condition{kind.IfRevision("a", rev)}, true},
		"other revision":      {[]kind.Condition{kind.IfRevision("a", rev+1)}, false},
		"absent by revision":  {[]kind.Condition{kind.IfRevision("b", 0)}, true},
		"one of two":          {[]kind.Condition{kind.IfRevision("a", rev), kind.IfValue("b", []byte("x"))}, false},
	} {
		_, err := s.Commit(t.Context(), kind.Txn{If: c.conditions}) // nothing is written: only asked
		if c.want && err != nil || !c.want && !vortex.IsKind(err, vortex.Conflict) {
			t.Errorf("%s: %v; want it to hold: %t", name, err, c.want)
		}
	}
}

// TestSwapWithStaleMemory lets a server that has not heard of anything compete with another: it may be slow, not wrong.
func TestSwapWithStaleMemory(t *testing.T) {
	e := openEngine(t, t.TempDir())
	t.Cleanup(func() { _ = e.Close() })
	a, _ := openStore(t, kind.Config{Engine: e}, userSchema)
	b, _ := openStore(t, kind.Config{Engine: e}, userSchema)
	for n := range 200 {
		if _, err := a.Put(t.Context(), "k", fmt.Append(nil, n), 0); err != nil {
			t.Fatal(err)
		}
		if won, err := b.Swap(t.Context(), "k", fmt.Append(nil, n), fmt.Append(nil, n, "b"), 0); err != nil || !won {
			t.Fatalf("round %d: b knows the value and its swap says %t, %v", n, won, err)
		}
		if won, err := a.Swap(t.Context(), "k", fmt.Append(nil, n), []byte("x"), 0); err != nil || won {
			t.Fatalf("round %d: a expects an old value and its swap says %t, %v", n, won, err)
		}
		if gone, err := b.Delete(t.Context(), "k"); err != nil || !gone {
			t.Fatalf("round %d: b's delete says %t, %v", n, gone, err)
		}
		if gone, err := a.Delete(t.Context(), "k"); err != nil || gone {
			t.Fatalf("round %d: a's delete of nothing says %t, %v", n, gone, err)
		}
	}
}

// TestIncrementsAreNotLost counts by compare-and-swap from many goroutines on two servers.
func TestIncrementsAreNotLost(t *testing.T) {
	e := openEngine(t, t.TempDir())
	t.Cleanup(func() { _ = e.Close() })
	a, _ := openStore(t, kind.Config{Engine: e}, userSchema)
	b, _ := openStore(t, kind.Config{Engine: e}, userSchema)
	const workers, rounds = 6, 30
	var wg sync.WaitGroup
	for w := range workers {
		s := []*kind.Store{a, b}[w%2]
		wg.Go(func() {
			for range rounds {
				for won := false; !won; {
					old, n := []byte(nil), 0
					if rec, err := s.Get("n"); err == nil {
						old = rec.Value
						_, _ = fmt.Sscan(string(old), &n)
					}
					var err error
					if won, err = s.Swap(t.Context(), "n", old, fmt.Append(nil, n+1), 0); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	if rec, err := a.Get("n"); err != nil || string(rec.Value) != strconv.Itoa(workers*rounds) {
		if err := a.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if rec, err = a.Get("n"); err != nil || string(rec.Value) != strconv.Itoa(workers*rounds) {
			t.Fatalf("counted %v, %v; want %d", rec, err, workers*rounds)
		}
	}
}

func TestLimits(t *testing.T) {
	e := openEngine(t, t.TempDir())
	t.Cleanup(func() { _ = e.Close() })
	s, _ := openStore(t, kind.Config{Engine: e, MaxKeyBytes: 10, MaxValueBytes: 100}, userSchema)
	for name, op := range map[string]kind.Op{
		"empty key":     {Value: []byte("v")},
		"long key":      {Key: strings.Repeat("k", 11)},
		"long value":    {Key: "k", Value: bytes.Repeat([]byte("v"), 101)},
		"negative life": {Key: "k", TTL: -time.Second},
	} {
		if _, err := s.Commit(t.Context(), kind.Txn{Ops: []kind.Op{op}}); !vortex.IsKind(err, vortex.Invalid) {
			t.Errorf("%s: %v; want Invalid", name, err)
		}
	}
	fits := kind.Op{Key: strings.Repeat("k", 10), Value: bytes.Repeat([]byte("v"), 100)}
	if _, err := s.Commit(t.Context(), kind.Txn{Ops: []kind.Op{fits}}); err != nil {
		t.Errorf("what fits exactly: %v", err)
	}
	if _, err := s.Commit(t.Context(), kind.Txn{Ops: []kind.Op{fits, fits}}); !vortex.IsKind(err, vortex.Invalid) {
		t.Errorf("a key twice: %v; want Invalid", err)
	}
}

func TestRestartKeepsEverything(t *testing.T) {
	dir := t.TempDir()
	e := openEngine(t, dir)
	s, stop := openStore(t, kind.Config{Engine: e}, userSchema)
	for n := range 50 {
		if err := putUser(t.Context(), s, strconv.Itoa(n), fmt.Sprintf("%d@x", n), 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Put(t.Context(), "lives", []byte("long"), time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), kind.SchemaPrefix+"more", []byte(`@prefix("pet") type Pet { @indexed name: String }`), 0); err != nil {
		t.Fatal(err)
	}
	rev := s.Revision()
	before, _ := s.Get("lives")
	stop()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = openEngine(t, dir)
	t.Cleanup(func() { _ = e.Close() })
	s, _ = openStore(t, kind.Config{Engine: e}, userSchema)
	after, err := s.Get("lives")
	if err != nil || s.Revision() < rev || len(s.PrefixScan("user:")) != 50 || after.ExpiresAt != before.ExpiresAt || after.ModRevision != before.ModRevision {
		t.Fatalf("after a restart: revision %d, %d users, %+v, %v", s.Revision(), len(s.PrefixScan("user:")), after, err)
	}
	if found, err := s.Query("User", kind.Filter{Field: "email", Value: "7@x"}, 0, 0); err != nil || len(found) != 1 {
		t.Errorf("query: %d, %v", len(found), err)
	}
	if err := putUser(t.Context(), s, "thief", "7@x", 0); !vortex.IsKind(err, vortex.Exists) {
		t.Errorf("a taken value: %v; want Exists", err)
	}
	if _, err := s.Put(t.Context(), "pet:1", []byte(`{"name":7}`), 0); !vortex.IsKind(err, vortex.Invalid) {
		t.Errorf("a schema that was loaded before is forgotten: %v", err)
	}
}

func TestSchemaLoadedAtRunTimeIndexesWhatIsThere(t *testing.T) {
	s := kindtest.Open(t)
	for n := range 10 {
		if _, err := s.Put(t.Context(), fmt.Sprintf("pet:%d", n), fmt.Appendf(nil, `{"name":"n%d"}`, n%2), 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Query("Pet", kind.Filter{Field: "name", Value: "n1"}, 0, 0); !vortex.IsKind(err, vortex.Invalid) {
		t.Fatalf("a type nobody defined: %v", err)
	}
	if _, err := s.Put(t.Context(), kind.SchemaPrefix+"pets", []byte("type {"), 0); !vortex.IsKind(err, vortex.Invalid) {
		t.Fatalf("a schema that does not parse: %v", err)
	}
	if _, err := s.CheckSchema(t.Context(), "pets", []byte(`@prefix("vortex:app") type AppRecord { name: U8 }`)); !vortex.IsKind(err, vortex.Invalid) {
		t.Fatalf("a schema that retypes the cluster's: %v", err)
	}
	if _, err := s.Put(t.Context(), kind.SchemaPrefix+"pets", []byte(`@prefix("pet") type Pet { @indexed name: String }`), 0); err != nil {
		t.Fatal(err)
	}
	if found, err := s.Query("Pet", kind.Filter{Field: "name", Value: "n1"}, 0, 0); err != nil || len(found) != 5 {
		t.Fatalf("query: %d, %v; want 5", len(found), err)
	}
}

func TestCommitEndsWithItsContext(t *testing.T) {
	s := kindtest.Open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Put(ctx, "k", []byte("v"), 0); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v; want the context's error", err)
	}
}
