package kind_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
)

func put(t *testing.T, s *kind.Store, key, value string) int64 {
	t.Helper()
	rev, err := s.Put(t.Context(), key, []byte(value), 0)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

// events reads as many events as key=value or -key.
func events(t *testing.T, w *kind.Watch, n int) (got []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for len(got) < n {
		batches, err := w.Next(ctx)
		if err != nil {
			t.Fatalf("after %v: %v", got, err)
		}
		for _, b := range batches {
			for _, ev := range b.Events {
				if ev.Deleted {
					got = append(got, "-"+ev.Key)
				} else {
					got = append(got, ev.Key+"="+string(ev.Record.Value))
				}
			}
		}
	}
	return got
}

func TestWatchSelectsByPrefixAndFilter(t *testing.T) {
	s := kindtest.Open(t)
	byPrefix := s.Watch(kind.WatchOptions{Prefixes: []string{"a:", "c:"}})
	defer byPrefix.Close()
	byField := s.Watch(kind.WatchOptions{Filter: &kind.Filter{Field: "f", Value: "1"}})
	defer byField.Close()
	put(t, s, "a:1", `{"f":1}`)
	put(t, s, "b:1", `{"f":1}`)
	put(t, s, "b:1", `{"f":2}`) // it matched before
	put(t, s, "b:1", `{"f":3}`)
	put(t, s, "c:1", `{"f":2}`)
	if got := fmt.Sprint(events(t, byPrefix, 2)); got != `[a:1={"f":1} c:1={"f":2}]` {
		t.Errorf("by prefix: %s", got)
	}
	if got := fmt.Sprint(events(t, byField, 3)); got != `[a:1={"f":1} b:1={"f":1} b:1={"f":2}]` {
		t.Errorf("by field: %s", got)
	}
}

// TestWatchResumesFromAnyRevision resumes at every revision, on the store that made them and on one opened later,
// which has to ask the engine.
func TestWatchResumesFromAnyRevision(t *testing.T) {
	e := openEngine(t, t.TempDir())
	t.Cleanup(func() { _ = e.Close() })
	first, _ := openStore(t, kind.Config{Engine: e}, userSchema)
	const writes = 20
	var revs []int64
	for n := range writes {
		revs = append(revs, put(t, first, "k", strconv.Itoa(n)))
	}
	later, _ := openStore(t, kind.Config{Engine: e}, userSchema)
	for name, s := range map[string]*kind.Store{"ring": first, "engine": later} {
		var watches []*kind.Watch
		for _, rev := range revs {
			watches = append(watches, s.Watch(kind.WatchOptions{From: rev}))
		}
		put(t, s, "k", "live")
		for n, w := range watches {
			got := events(t, w, writes-n+1)
			for i := range writes - n {
				if got[i] != fmt.Sprintf("k=%d", n+i) {
					t.Fatalf("%s: resumed at %d it got %v", name, n, got)
				}
			}
			if got[writes-n] != "k=live" {
				t.Fatalf("%s: resumed at %d it got %v", name, n, got)
			}
			w.Close()
		}
		if _, err := s.Delete(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		if name == "ring" {
			continue
		}
		if err := e.Compact(t.Context(), s.Revision()); err != nil {
			t.Fatal(err)
		}
		third, _ := openStore(t, kind.Config{Engine: e}, userSchema)
		w := third.Watch(kind.WatchOptions{From: revs[0]})
		defer w.Close()
		if _, err := w.Next(t.Context()); !vortex.IsKind(err, vortex.OutOfRange) {
			t.Errorf("from a compacted revision: %v; want OutOfRange", err)
		}
		break
	}
}

// TestProgressFollowsWhatIsReplayed holds that no progress is told before everything up to it, where the engine
// sends the beginning and memory holds the rest.
func TestProgressFollowsWhatIsReplayed(t *testing.T) {
	e := openEngine(t, t.TempDir())
	t.Cleanup(func() { _ = e.Close() })
	first, _ := openStore(t, kind.Config{Engine: e}, userSchema)
	old := put(t, first, "k", "old")
	later, _ := openStore(t, kind.Config{Engine: e}, userSchema)
	put(t, later, "k", "new")
	for from := old - 1; from <= old+1; from++ {
		w := later.Watch(kind.WatchOptions{From: from, Prefixes: []string{"k"}, Progress: time.Millisecond})
		var seen, told int64
		rev := put(t, later, "other", "x")
		for told < rev {
			batches, err := w.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range batches {
				if len(b.Events) > 0 && b.Revision <= told {
					t.Fatalf("from %d: progress told %d before the change of revision %d", from, told, b.Revision)
				}
				if told = b.Revision; len(b.Events) > 0 {
					seen++
				}
			}
		}
		if want := min(old+2-from, 2); seen != want {
			t.Errorf("from %d: %d changes before the progress; want %d", from, seen, want)
		}
		w.Close()
	}
}

// TestWaitingForHistoryEndsWithItsContext resumes where the engine has nothing more to send.
func TestWaitingForHistoryEndsWithItsContext(t *testing.T) {
	e := openEngine(t, t.TempDir())
	t.Cleanup(func() { _ = e.Close() })
	first, stop := openStore(t, kind.Config{Engine: e}, userSchema)
	rev := put(t, first, "k", "1")
	stop()
	s, _ := openStore(t, kind.Config{Engine: e}, userSchema)
	w := s.Watch(kind.WatchOptions{From: rev})
	defer w.Close()
	events(t, w, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := w.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v; want the context's error", err)
	}
}

func TestSlowWatcherIsDroppedAndDelaysNobody(t *testing.T) {
	e := openEngine(t, t.TempDir())
	t.Cleanup(func() { _ = e.Close() })
	s, _ := openStore(t, kind.Config{Engine: e, WatchBuffer: 8}, userSchema)
	slow, other := s.Watch(kind.WatchOptions{}), s.Watch(kind.WatchOptions{Prefixes: []string{"x"}})
	defer slow.Close()
	defer other.Close()
	for n := range 50 {
		put(t, s, "k", strconv.Itoa(n))
	}
	put(t, s, "x", "1")
	if _, err := slow.Next(t.Context()); !vortex.IsKind(err, vortex.Exhausted) {
		t.Errorf("the slow one: %v; want Exhausted", err)
	}
	if got := events(t, other, 1); got[0] != "x=1" {
		t.Errorf("the one whose keys seldom change: %v", got)
	}
}

func TestStoppedStoreEndsItsWatches(t *testing.T) {
	e := openEngine(t, t.TempDir())
	t.Cleanup(func() { _ = e.Close() })
	s, stop := openStore(t, kind.Config{Engine: e}, userSchema)
	w := s.Watch(kind.WatchOptions{})
	defer w.Close()
	put(t, s, "k", "last")
	stop()
	if got := events(t, w, 1); got[0] != "k=last" {
		t.Errorf("what was queued is lost: %v", got)
	}
	if _, err := w.Next(t.Context()); !vortex.IsKind(err, vortex.Unavailable) {
		t.Errorf("then: %v; want Unavailable", err)
	}
	late := s.Watch(kind.WatchOptions{})
	defer late.Close()
	if _, err := late.Next(t.Context()); !vortex.IsKind(err, vortex.Unavailable) {
		t.Errorf("a watch of a stopped store: %v; want Unavailable", err)
	}
}
