// Package enginetest is the contract of engine.Engine in its precise form: the suite that every engine passes.
//
//	func TestConformance(t *testing.T) {
//		enginetest.Run(t, func(t *testing.T) engine.Engine { … })
//	}
package enginetest

import (
	"context"
	"fmt"
	"iter"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vortex"
	"vortex/internal/kind/engine"
)

// Run holds an engine to its contract. open returns an empty engine that is closed when its test ends.
func Run(t *testing.T, open func(t *testing.T) engine.Engine) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, engine.Engine){
		"Range":              testRange,
		"RangeInPages":       testRangeInPages,
		"RangeInThePast":     testRangeInThePast,
		"Compares":           testCompares,
		"WholeOrNothing":     testWholeOrNothing,
		"Revisions":          testRevisions,
		"LargeTransaction":   testLargeTransaction,
		"WatchGroups":        testWatchGroups,
		"WatchResumes":       testWatchResumes,
		"WatchEnds":          testWatchEnds,
		"Compaction":         testCompaction,
		"ReadIndex":          testReadIndex,
		"ConcurrentCommits":  testConcurrentCommits,
		"CanceledContext":    testCanceledContext,
		"AnyBytes":           testAnyBytes,
		"OneKeyInThePast":    testOneKeyInThePast,
		"TheFuture":          testTheFuture,
		"CompactionKeeps":    testCompactionKeeps,
		"NothingChanged":     testNothingChanged,
		"OneWinner":          testOneWinner,
		"LostBesideWon":      testLostBesideWon,
		"ConcurrentOutcomes": testConcurrentOutcomes,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

// Put returns the write that puts value at key.
func Put(key, value string) engine.Write { return engine.Write{Key: key, Value: []byte(value)} }

func del(key string) engine.Write { return engine.Write{Key: key, Delete: true} }

// Commit commits writes without compares and returns the revision at which they happened.
func Commit(t *testing.T, e engine.Engine, writes ...engine.Write) int64 {
	t.Helper()
	result, err := e.Commit(t.Context(), engine.Txn{Writes: writes})
	if err != nil || !result.Committed {
		t.Fatalf("commit: %+v, %v", result, err)
	}
	return result.Revision
}

// collect reads a range as key=value.
func collect(t *testing.T, e engine.Engine, lo, hi string, rev *int64) []string {
	t.Helper()
	var out []string
	for kv, err := range e.Range(t.Context(), lo, hi, rev) {
		if err != nil {
			t.Fatalf("range: %v", err)
		}
		out = append(out, kv.Key+"="+string(kv.Value))
	}
	return out
}

// now reads a range at the newest revision.
func now(t *testing.T, e engine.Engine, lo, hi string) []string {
	t.Helper()
	return collect(t, e, lo, hi, new(int64(0)))
}

func equal[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func testRange(t *testing.T, e engine.Engine) {
	t.Helper()
	if got := now(t, e, "", ""); len(got) != 0 {
		t.Fatalf("an empty engine holds %v", got)
	}
	rev := Commit(t, e, Put("b", "2"), Put("a", "1"), Put("c", ""), Put("\x01\xff", "binary"))
	equal(t, "everything in order", now(t, e, "", ""), []string{"\x01\xff=binary", "a=1", "b=2", "c="})
	equal(t, "from a up to c", now(t, e, "a", "c"), []string{"a=1", "b=2"})
	equal(t, "from b on", now(t, e, "b", ""), []string{"b=2", "c="})
	equal(t, "nothing", now(t, e, "d", "z"), nil)
	Commit(t, e, Put("b", "3"))
	for kv, err := range e.Range(t.Context(), "b", "c", new(int64(0))) {
		if err != nil || kv.CreateRevision != rev || kv.ModRevision <= rev {
			t.Errorf("b was made at %d: %+v, %v", rev, kv, err)
		}
	}
	for _, err := range e.Range(t.Context(), "", "", new(int64(0))) {
		equal(t, "an error", err, nil)
		break // the consumer may stop
	}
}

func testRangeInPages(t *testing.T, e engine.Engine) {
	t.Helper()
	const keys = 4500
	for from := 0; from < keys; from += 100 {
		writes := make([]engine.Write, 0, 100)
		for n := range 100 {
			writes = append(writes, Put(fmt.Sprintf("k%05d", from+n), "old"))
		}
		Commit(t, e, writes...)
	}
	var rev int64
	count := 0
	for kv, err := range e.Range(t.Context(), "k", "l", &rev) {
		switch {
		case err != nil:
			t.Fatal(err)
		case count == 0: // what is written while pages are read is not part of it
			Commit(t, e, Put("k04499", "new"), Put("k09999", "new"), del("k04000"))
		case kv.Key != fmt.Sprintf("k%05d", count) || string(kv.Value) != "old":
			t.Fatalf("record %d is %s=%s", count, kv.Key, kv.Value)
		}
		count++
	}
	equal(t, "records", count, keys)
}

func testRangeInThePast(t *testing.T, e engine.Engine) {
	t.Helper()
	first := Commit(t, e, Put("a", "1"), Put("b", "1"))
	second := Commit(t, e, Put("a", "2"), del("b"))
	equal(t, "at the first revision", collect(t, e, "", "", &first), []string{"a=1", "b=1"})
	equal(t, "at the second", collect(t, e, "", "", &second), []string{"a=2"})
	var rev int64
	collect(t, e, "", "", &rev)
	equal(t, "the revision of an answer", rev, second)
}

func testCompares(t *testing.T, e engine.Engine) {
	t.Helper()
	try := func(what string, want bool, compares ...engine.Compare) int64 {
		t.Helper()
		result, err := e.Commit(t.Context(), engine.Txn{Compares: compares, Writes: []engine.Write{Put("a", what)}})
		if err != nil || result.Committed != want {
			t.Fatalf("%s: %+v, %v; want committed %t", what, result, err, want)
		}
		return result.Revision
	}
	first := try("absent", true, engine.Compare{Key: "a"})
	try("absent again", false, engine.Compare{Key: "a"})
	second := try("at its revision", true, engine.Compare{Key: "a", ModRevision: first})
	try("at an old revision", false, engine.Compare{Key: "a", ModRevision: first})
	try("one of two", false, engine.Compare{Key: "a", ModRevision: second}, engine.Compare{Key: "b", ModRevision: 1})
	Commit(t, e, del("a"))
	try("deleted is absent", true, engine.Compare{Key: "a"})
}

func testWholeOrNothing(t *testing.T, e engine.Engine) {
	t.Helper()
	Commit(t, e, Put("a", "1"))
	result, err := e.Commit(t.Context(), engine.Txn{
		Compares: []engine.Compare{{Key: "z", ModRevision: 7}}, Writes: []engine.Write{del("a"), Put("b", "2")},
	})
	if err != nil || result.Committed {
		t.Fatalf("%+v, %v", result, err)
	}
	equal(t, "after a transaction that lost", now(t, e, "", ""), []string{"a=1"})
}

func testRevisions(t *testing.T, e engine.Engine) {
	t.Helper()
	last := int64(0)
	for n := range 20 {
		rev := Commit(t, e, Put("a", strconv.Itoa(n)), Put("b", strconv.Itoa(n)))
		if rev <= last {
			t.Fatalf("revision %d after %d", rev, last)
		}
		last = rev
	}
	Commit(t, e, del("nothing")) // is no error
}

func testLargeTransaction(t *testing.T, e engine.Engine) {
	t.Helper()
	const keys = 100
	value := make([]byte, 10<<10)
	writes := make([]engine.Write, keys)
	for n := range writes {
		writes[n] = engine.Write{Key: fmt.Sprintf("k%03d", n), Value: value}
	}
	Commit(t, e, writes...)
	equal(t, "records", len(now(t, e, "", "")), keys)
}

// Watcher pulls batches from an engine's watch with a deadline.
type Watcher struct {
	t       *testing.T
	batches chan engine.Batch
	err     chan error
}

// Watch follows an engine from a revision until the test ends.
func Watch(t *testing.T, e engine.Engine, from int64) *Watcher {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &Watcher{t: t, batches: make(chan engine.Batch), err: make(chan error, 1)}
	done := make(chan struct{})
	go func() { defer close(done); w.follow(ctx, e.Watch(ctx, from)) }()
	t.Cleanup(func() { cancel(); <-done })
	return w
}

func (w *Watcher) follow(ctx context.Context, seq iter.Seq2[engine.Batch, error]) {
	for b, err := range seq {
		if err != nil {
			w.err <- err
			return
		}
		select {
		case w.batches <- b:
		case <-ctx.Done():
			return
		}
	}
}

// batch returns the next batch, whether it changed something or not.
func (w *Watcher) batch() engine.Batch {
	w.t.Helper()
	select {
	case b := <-w.batches:
		return b
	case err := <-w.err:
		w.t.Fatalf("watch: %v", err)
	case <-time.After(30 * time.Second):
		w.t.Fatal("no batch within 30 s")
	}
	return engine.Batch{}
}

// End waits until the watch ends, and returns its error.
func (w *Watcher) End() error {
	w.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case <-w.batches:
		case err := <-w.err:
			return err
		case <-deadline:
			w.t.Fatal("the watch does not end within 30 s")
		}
	}
}

// Next returns the next batch that changed something, as key=value or -key.
func (w *Watcher) Next() (rev int64, changes []string) {
	w.t.Helper()
	for len(changes) == 0 {
		b := w.batch()
		rev = b.Revision
		for _, c := range b.Changes {
			if c.Delete {
				changes = append(changes, "-"+c.Key)
			} else {
				changes = append(changes, c.Key+"="+string(c.Value))
			}
		}
	}
	return rev, changes
}

func testWatchGroups(t *testing.T, e engine.Engine) {
	t.Helper()
	base := Commit(t, e, Put("a", "0"))
	w := Watch(t, e, base+1)
	var revs []int64
	for n := range 50 {
		revs = append(revs, Commit(t, e, Put("a", strconv.Itoa(n)), Put("b", strconv.Itoa(n))))
	}
	for n, want := range revs {
		rev, changes := w.Next()
		equal(t, "revision", rev, want)
		equal(t, "one transaction is one batch", changes, []string{fmt.Sprintf("a=%d", n), fmt.Sprintf("b=%d", n)})
	}
	Commit(t, e, del("a"), del("absent"))
	_, changes := w.Next()
	equal(t, "a delete", changes, []string{"-a"})
}

func testWatchResumes(t *testing.T, e engine.Engine) {
	t.Helper()
	first := Commit(t, e, Put("a", "1"))
	Commit(t, e, Put("a", "2"))
	third := Commit(t, e, Put("a", "3"))
	w := Watch(t, e, first+1)
	_, changes := w.Next()
	equal(t, "from the past", changes, []string{"a=2"})
	w.Next()
	Commit(t, e, Put("a", "4"))
	_, changes = w.Next()
	equal(t, "then the present", changes, []string{"a=4"})
	later := Watch(t, e, third+2)
	Commit(t, e, Put("a", "5"))
	_, changes = later.Next()
	equal(t, "from the future", changes, []string{"a=5"})
}

func testWatchEnds(t *testing.T, e engine.Engine) {
	t.Helper()
	rev := Commit(t, e, Put("a", "1"))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		for _, err := range e.Watch(ctx, rev+1) {
			if err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	cancel()
	select {
	case err := <-done:
		if err != nil && ctx.Err() == nil {
			t.Errorf("a watch whose context ended: %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the watch outlives its context")
	}
}

func testCompaction(t *testing.T, e engine.Engine) {
	t.Helper()
	old := Commit(t, e, Put("a", "1"))
	Commit(t, e, Put("a", "2"))
	newest := Commit(t, e, Put("a", "3"))
	for range 2 { // again is no error
		if err := e.Compact(t.Context(), newest); err != nil {
			t.Fatalf("compact: %v", err)
		}
	}
	for _, err := range e.Range(t.Context(), "", "", &old) {
		if !vortex.IsKind(err, vortex.OutOfRange) {
			t.Errorf("a range in what was compacted: %v; want OutOfRange", err)
		}
	}
	var failed error
	for _, err := range e.Watch(t.Context(), old) {
		failed = err
		break
	}
	if !vortex.IsKind(failed, vortex.OutOfRange) {
		t.Errorf("a watch from what was compacted: %v; want OutOfRange", failed)
	}
	equal(t, "what is current stays", now(t, e, "", ""), []string{"a=3"})
	_, changes := Watch(t, e, newest).Next()
	equal(t, "and can be watched", changes, []string{"a=3"})
}

func testReadIndex(t *testing.T, e engine.Engine) {
	t.Helper()
	for n := range 20 {
		rev := Commit(t, e, Put("a", strconv.Itoa(n)))
		index, err := e.ReadIndex(t.Context())
		if err != nil || index < rev {
			t.Fatalf("read index %d, %v; a commit was acknowledged at %d", index, err, rev)
		}
	}
}

// testConcurrentCommits lets writers count up one key by compare and retry: none may be lost, and every
// watcher sees the same history.
func testConcurrentCommits(t *testing.T, e engine.Engine) {
	t.Helper()
	const writers, rounds = 8, 25
	from := Commit(t, e, Put("n", "0")) + 1
	first, second := Watch(t, e, from), Watch(t, e, from)
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range rounds {
				for !increment(t, e) {
				}
			}
		})
	}
	wg.Wait()
	equal(t, "sum", now(t, e, "n", "o"), []string{fmt.Sprintf("n=%d", writers*rounds)})
	for n := range writers * rounds {
		rev, changes := first.Next()
		equal(t, "history", changes, []string{fmt.Sprintf("n=%d", n+1)})
		again, _ := second.Next()
		equal(t, "history of the other", again, rev)
	}
}

// increment tries once, and reports whether it won.
func increment(t *testing.T, e engine.Engine) bool {
	t.Helper()
	var n int
	var rev int64
	for kv, err := range e.Range(t.Context(), "n", "o", new(int64(0))) {
		if err != nil {
			t.Errorf("range: %v", err)
			return true
		}
		_, _ = fmt.Sscan(string(kv.Value), &n)
		rev = kv.ModRevision
	}
	result, err := e.Commit(t.Context(), engine.Txn{
		Compares: []engine.Compare{{Key: "n", ModRevision: rev}}, Writes: []engine.Write{Put("n", strconv.Itoa(n+1))},
	})
	if err != nil {
		t.Errorf("commit: %v", err)
	}
	return result.Committed || err != nil
}

// testConcurrentOutcomes lets many transactions run at the same time, half of which compare what is not so: each has its
// own outcome, happens whole or not at all, and every one that happened is in the watch at the revision it was told.
func testConcurrentOutcomes(t *testing.T, e engine.Engine) {
	t.Helper()
	const writers, rounds = 16, 12
	from := Commit(t, e, Put("x", "0")) + 1
	w := Watch(t, e, from)
	var mu sync.Mutex
	want := map[string]int64{}
	var wg sync.WaitGroup
	for n := range writers {
		wg.Go(func() {
			for r := range rounds {
				name := fmt.Sprintf("k-%02d-%02d", n, r)
				txn := engine.Txn{Writes: []engine.Write{Put(name+"-a", name), Put(name+"-b", name)}}
				lose := (n+r)%2 == 0
				switch {
				case lose:
					txn.Compares = []engine.Compare{{Key: "x", ModRevision: from - 1}, {Key: name, ModRevision: 7}}
				case r%3 == 0:
					txn.Compares = []engine.Compare{{Key: "x", ModRevision: from - 1}, {Key: name + "-a"}}
				}
				result, err := e.Commit(t.Context(), txn)
				if err != nil || result.Committed == lose {
					t.Errorf("%s: %+v, %v; want committed %t", name, result, err, !lose)
				}
				if result.Committed {
					mu.Lock()
					want[name] = result.Revision
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	got := map[string]int64{}
	for len(got) < len(want) {
		rev, changes := w.Next()
		for i := 0; i < len(changes); i += 2 {
			name := changes[i][:len("k-00-00")]
			equal(t, "both writes of a transaction, side by side", changes[i:i+2], []string{name + "-a=" + name, name + "-b=" + name})
			got[name] = rev
		}
	}
	equal(t, "what happened, and when", got, want)
	equal(t, "records", len(now(t, e, "k", "l")), 2*len(want))
}

func testCanceledContext(t *testing.T, e engine.Engine) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.Commit(ctx, engine.Txn{Writes: []engine.Write{Put("a", "1")}}); err == nil || vortex.IsKind(err, vortex.Unavailable) {
		t.Errorf("a commit whose caller has gone: %v; want the context's error", err)
	}
	for _, err := range e.Range(ctx, "", "", new(int64(0))) {
		if err == nil || vortex.IsKind(err, vortex.Unavailable) {
			t.Errorf("a range whose caller has gone: %v; want the context's error", err)
		}
	}
}
