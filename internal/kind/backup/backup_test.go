package backup_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/backup"
	"vortex/internal/kind/engine"
	"vortex/internal/kind/engine/etcd"
	"vortex/internal/kind/kindtest"
	"vortex/internal/kind/ksl"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(victimEnv); dir != "" {
		victim(dir)
	}
	goleak.VerifyTestMain(m)
}

// openEngine opens an embedded engine in a directory.
func openEngine(t *testing.T, dir string) engine.Engine {
	t.Helper()
	eng, err := etcd.Embedded{Dir: dir}.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = eng.Close() })
	return eng
}

// openStore opens a store on an engine and runs it until the test, or stop, ends.
func openStore(t *testing.T, eng engine.Engine) (store *kind.Store, stop func()) {
	t.Helper()
	store, err := kind.Open(t.Context(), kind.Config{Engine: eng, Schema: builtin(t)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = store.Run(ctx) })
	stop = func() { cancel(); wg.Wait() }
	t.Cleanup(stop)
	return store, stop
}

func builtin(t *testing.T) *ksl.Schema {
	t.Helper()
	schema, err := ksl.Parse("vortex.ksl", vortex.Schema())
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// content is what a model, a store or a state holds.
type content map[string]string

func contentOf(t *testing.T, s *backup.State) content {
	t.Helper()
	got := content{}
	for rec, err := range s.Records() {
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := got[rec.Key]; twice {
			t.Fatalf("%s comes twice", rec.Key)
		}
		got[rec.Key] = string(rec.Value)
	}
	return got
}

func storeContent(store *kind.Store) content {
	got := content{}
	for _, rec := range store.PrefixScan("") {
		got[rec.Key] = string(rec.Value)
	}
	return got
}

// ledger is what was committed at which revision.
type ledger struct {
	mu   sync.Mutex
	txns map[int64][]kind.Op
}

func (l *ledger) commit(ctx context.Context, store *kind.Store, ops ...kind.Op) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	rev, err := store.Commit(ctx, kind.Txn{Ops: ops})
	if err != nil {
		return err
	}
	if l.txns == nil {
		l.txns = map[int64][]kind.Op{}
	}
	l.txns[rev] = ops
	return nil
}

// at is the content at a revision.
func (l *ledger) at(revision int64) content {
	l.mu.Lock()
	defer l.mu.Unlock()
	model := content{}
	for rev := int64(0); rev <= revision; rev++ {
		for _, op := range l.txns[rev] {
			if op.Delete {
				delete(model, op.Key)
			} else {
				model[op.Key] = string(op.Value)
			}
		}
	}
	return model
}

// some is a transaction that counts and makes up to three random writes.
func some(n int) []kind.Op {
	ops := []kind.Op{{Key: "n", Value: strconv.AppendInt(nil, int64(n), 10)}}
	used := map[string]bool{}
	for i := range 1 + rand.IntN(3) {
		key := fmt.Sprintf("k%03d", rand.IntN(200))
		if used[key] {
			continue
		}
		used[key] = true
		if rand.IntN(4) == 0 {
			ops = append(ops, kind.Op{Key: key, Delete: true})
		} else {
			ops = append(ops, kind.Op{Key: key, Value: bytes.Repeat(fmt.Appendf(nil, "%d-%d ", n, i), 1+rand.IntN(40))})
		}
	}
	return ops
}

// save writes a snapshot of a store into a new file.
func save(t *testing.T, store *kind.Store) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "store.snap")
	var buf bytes.Buffer
	if _, err := backup.Write(&buf, store.Snapshot(), backup.Header{}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestSnapshotUnderWriters saves while four writers go on: each file holds exactly the state at its revision.
func TestSnapshotUnderWriters(t *testing.T) {
	store := kindtest.Open(t)
	var l ledger
	ctx, cancel := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	defer writers.Wait()
	defer cancel()
	for range 4 {
		writers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if err := l.commit(ctx, store, some(n)...); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		})
	}
	var before int64
	for range 10 {
		kindtest.Eventually(t, "the writers go on", func() bool { return store.Revision() > before+20 })
		path := save(t, store)
		state, err := backup.OpenFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if state.Revision <= before {
			t.Errorf("a snapshot at revision %d after one at %d", state.Revision, before)
		}
		before = state.Revision
		kindtest.Eventually(t, "the ledger knows it", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.txns[before] != nil })
		if diff := cmp.Diff(l.at(before), contentOf(t, state)); diff != "" {
			t.Fatalf("the snapshot at revision %d: %s", before, diff)
		}
	}
}

// TestSummaryIsThatOfTheFile holds the writer and the reader to the same figures, and the digest to sha256sum's.
func TestSummaryIsThatOfTheFile(t *testing.T) {
	store := kindtest.Open(t)
	for n := range 1000 {
		if _, err := store.Put(t.Context(), fmt.Sprint("k", n), bytes.Repeat([]byte("x"), n), 0); err != nil {
			t.Fatal(err)
		}
	}
	var buf bytes.Buffer
	wrote, err := backup.Write(&buf, store.Snapshot(), backup.Header{Log: "l", Version: "v"})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(path, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	read, err := backup.Verify(path, nil)
	if diff := cmp.Diff(wrote, read); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	if digest := fmt.Sprintf("%x", sha(buf.Bytes())); read.SHA256 != digest || read.Bytes != int64(buf.Len()) || read.Records != 1000 {
		t.Errorf("%+v of %d bytes with digest %s", read, buf.Len(), digest)
	}
}

// TestDamageIsNoticed cuts a snapshot anywhere, flips any bit, and adds to it: it is refused, and the error says where.
func TestDamageIsNoticed(t *testing.T) {
	store := kindtest.Open(t)
	for n := range 300 {
		if _, err := store.Put(t.Context(), fmt.Sprint("k", n), bytes.Repeat(fmt.Append(nil, n), 100), 0); err != nil {
			t.Fatal(err)
		}
	}
	good, err := os.ReadFile(save(t, store))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "bad.snap")
	refused := func(t *rapid.T, what string, bad []byte) {
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := backup.OpenFile(path)
		if _, ok := errors.AsType[*backup.DamageError](err); !ok || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "at byte") {
			t.Fatalf("%s: %v", what, err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		at := rapid.IntRange(0, len(good)-1).Draw(t, "at")
		flipped := bytes.Clone(good)
		flipped[at] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		refused(t, fmt.Sprintf("a bit flipped in byte %d", at), flipped)
		refused(t, fmt.Sprintf("cut to %d bytes", at), good[:at])
		refused(t, "something after the end", append(bytes.Clone(good), byte(at)))
	})
}

// TestRestoreReplacesAll restores into an engine that holds something else, over guards and expired records.
func TestRestoreReplacesAll(t *testing.T) {
	source := kindtest.Open(t)
	for n := range 500 {
		if _, err := source.Put(t.Context(), fmt.Sprint("app/", n), fmt.Append(nil, n), 0); err != nil {
			t.Fatal(err)
		}
	}
	put(t, source, "leaves", time.Hour)
	put(t, source, "brief", 300*time.Millisecond)
	want := storeContent(source)
	delete(want, "brief")
	path := save(t, source)
	brief, _ := source.Get("brief")
	kindtest.Eventually(t, "the brief one expires", func() bool { return brief == nil || time.Now().UnixMilli() > brief.ExpiresAt })

	eng := openEngine(t, t.TempDir())
	target, stop := openStore(t, eng)
	put(t, target, "app/7", 0)
	put(t, target, "gone", 0)
	stop()
	state, err := backup.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Restore(t.Context(), eng, state, backup.Options{}); !vortex.IsKind(err, vortex.Precondition) || !strings.Contains(err.Error(), "--force") {
		t.Errorf("restore over something: %v", err)
	}
	if again, _ := openStore(t, eng); len(again.PrefixScan("")) != 2 {
		t.Error("a refused restore changed something")
	}
	report, err := backup.Restore(t.Context(), eng, state, backup.Options{Replace: true, Schema: builtin(t)})
	if err != nil || report.Records != len(want) || report.Expired > 1 || report.Misfits != 0 {
		t.Errorf("report %+v, %v", report, err)
	}
	restored, _ := openStore(t, eng)
	if diff := cmp.Diff(want, storeContent(restored)); diff != "" {
		t.Error(diff)
	}
	before, _ := source.Get("leaves")
	if after, err := restored.Get("leaves"); err != nil || after.ExpiresAt != before.ExpiresAt {
		t.Errorf("expiry of %+v, %v; want %d", after, err, before.ExpiresAt)
	}
}

func put(t *testing.T, store *kind.Store, key string, ttl time.Duration) {
	t.Helper()
	if _, err := store.Put(t.Context(), key, []byte("v"), ttl); err != nil {
		t.Fatal(err)
	}
}

// TestBrokenRestore breaks in the middle: no store opens on what is there, and the next restore needs no permission.
func TestBrokenRestore(t *testing.T) {
	source := kindtest.Open(t)
	want := content{}
	for n := range 2000 {
		key := fmt.Sprintf("k%04d", n)
		want[key] = key
		if n%100 == 99 {
			var ops []kind.Op
			for i := n - 99; i <= n; i++ {
				key := fmt.Sprintf("k%04d", i)
				ops = append(ops, kind.Op{Key: key, Value: []byte(key)})
			}
			if _, err := source.Commit(t.Context(), kind.Txn{Ops: ops}); err != nil {
				t.Fatal(err)
			}
		}
	}
	state, err := backup.OpenFile(save(t, source))
	if err != nil {
		t.Fatal(err)
	}
	eng := openEngine(t, t.TempDir())
	broken := errors.New("power cut")
	if _, err := backup.Restore(t.Context(), &breaking{Engine: eng, left: 9, err: broken}, state, backup.Options{}); !errors.Is(err, broken) {
		t.Fatalf("the restore did not break: %v", err)
	}
	_, err = kind.Open(t.Context(), kind.Config{Engine: eng})
	if !vortex.IsKind(err, vortex.Precondition) || !strings.Contains(err.Error(), "vortex snapshot restore") {
		t.Errorf("a store opens on half a state: %v", err)
	}
	if _, err := backup.Restore(t.Context(), eng, state, backup.Options{}); err != nil {
		t.Fatal(err)
	}
	restored, _ := openStore(t, eng)
	if diff := cmp.Diff(want, storeContent(restored)); diff != "" {
		t.Error(diff)
	}
}

// breaking is an engine that fails for good after some commits.
type breaking struct {
	engine.Engine

	mu   sync.Mutex
	left int
	err  error
}

func (b *breaking) Commit(ctx context.Context, txn engine.Txn) (engine.Result, error) {
	b.mu.Lock()
	b.left--
	left := b.left
	b.mu.Unlock()
	if left < 0 {
		return engine.Result{}, b.err
	}
	return b.Engine.Commit(ctx, txn)
}

// TestRecordsThatNoLongerFit are restored and told of.
func TestRecordsThatNoLongerFit(t *testing.T) {
	eng := openEngine(t, t.TempDir())
	untyped, err := kind.Open(t.Context(), kind.Config{Engine: eng})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = untyped.Run(ctx) })
	for _, key := range []string{"vortex:node:a", "vortex:node:b", "free"} {
		put(t, untyped, key, 0)
	}
	path := save(t, untyped)
	cancel()
	wg.Wait()
	state, err := backup.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	report, err := backup.Restore(t.Context(), openEngine(t, t.TempDir()), state, backup.Options{Schema: builtin(t)})
	if err != nil || report.Records != 3 || report.Misfits != 2 || len(report.Reasons) != 2 || !strings.Contains(report.Reasons[0].Error(), "vortex:node:a") {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestNoSnapshots(t *testing.T) {
	if _, err := backup.OpenFile(filepath.Join(t.TempDir(), "none")); !vortex.IsKind(err, vortex.NotFound) {
		t.Error(err)
	}
	if _, err := backup.OpenDir(t.TempDir(), backup.Moment{}); !vortex.IsKind(err, vortex.NotFound) {
		t.Error(err)
	}
	empty := save(t, kindtest.Open(t))
	if state, err := backup.OpenFile(empty); err != nil || len(contentOf(t, state)) != 0 {
		t.Errorf("of an empty store: %v", err)
	}
}
