package kind_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
)

// apart waits until the next write gets a mark of its own, and returns a time between that write and the ones before.
func apart(t *testing.T) time.Time {
	t.Helper()
	began := time.Now()
	kindtest.Eventually(t, "the clock goes on", func() bool { return time.Since(began) > 150*time.Millisecond })
	return began.Add(100 * time.Millisecond)
}

func TestRevisionsHaveTimes(t *testing.T) {
	store := kindtest.Open(t)
	watch := store.Watch(kind.WatchOptions{})
	defer watch.Close()
	var revs []int64
	var between []time.Time
	for range 3 {
		between = append(between, apart(t))
		revs = append(revs, put(t, store, "k", "v"))
	}
	between = append(between, apart(t))
	var seen []kind.Batch
	for len(seen) < len(revs) {
		batches, err := watch.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, batches...)
	}
	for i, rev := range revs {
		at, err := store.TimeOf(t.Context(), rev)
		if err != nil || at.Before(between[i]) || at.After(between[i+1]) {
			t.Errorf("revision %d happened at %v, %v; want from %v to %v", rev, at, err, between[i], between[i+1])
		}
		if b := seen[i]; len(b.Events) != 1 || !b.Time.Equal(at) {
			t.Errorf("watchers learn %+v; want one event at %v", b, at)
		}
		got, err := store.RevisionAt(t.Context(), between[i+1])
		if err != nil || got != rev {
			t.Errorf("at %v it was revision %d, %v; want %d", between[i+1], got, err, rev)
		}
		if got, err = store.RevisionAt(t.Context(), at); err != nil || got != rev {
			t.Errorf("at its own time it was revision %d, %v; want %d", got, err, rev)
		}
	}
	replayed := store.Watch(kind.WatchOptions{From: revs[1]})
	defer replayed.Close()
	want, _ := store.TimeOf(t.Context(), revs[1])
	if batches, err := replayed.Next(t.Context()); err != nil || !batches[0].Time.Equal(want) {
		t.Errorf("a replay tells %v, %v; want %v", batches, err, want)
	}
}

func TestTimesOutsideTheHistory(t *testing.T) {
	store := kindtest.Open(t)
	rev := put(t, store, "k", "v")
	if _, err := store.RevisionAt(t.Context(), time.Now().Add(time.Hour)); !vortex.IsKind(err, vortex.Invalid) {
		t.Errorf("a revision of the future: %v; want Invalid", err)
	}
	if _, err := store.TimeOf(t.Context(), rev+1); !vortex.IsKind(err, vortex.Invalid) {
		t.Errorf("the time of what has not happened: %v; want Invalid", err)
	}
	if _, err := store.TimeOf(t.Context(), 0); !vortex.IsKind(err, vortex.Invalid) {
		t.Errorf("the time of revision 0: %v; want Invalid", err)
	}
}

func TestHiddenKeysAreNobodysBusiness(t *testing.T) {
	store := kindtest.Open(t)
	put(t, store, "k", "v")
	for _, rec := range store.PrefixScan("") {
		if kind.Hidden(rec.Key) {
			t.Errorf("a scan shows %s", rec.Key)
		}
	}
	for _, key := range []string{"vortex:clock", "vortex:unique:x"} {
		_, err := store.Put(t.Context(), key, []byte("1"), 0)
		if !vortex.IsKind(err, vortex.Invalid) || !strings.Contains(err.Error(), key) {
			t.Errorf("a put of %s: %v; want Invalid", key, err)
		}
	}
}

// TestTimesOfTwoServersAreInOrder lets two servers write through one engine; every watcher must see times that only grow.
func TestTimesOfTwoServersAreInOrder(t *testing.T) {
	e := openEngine(t, t.TempDir())
	t.Cleanup(func() { _ = e.Close() })
	first, _ := openStore(t, kind.Config{Engine: e}, userSchema)
	second, _ := openStore(t, kind.Config{Engine: e}, userSchema)
	watch := first.Watch(kind.WatchOptions{})
	defer watch.Close()
	const each = 200
	var wg sync.WaitGroup
	for n, s := range []*kind.Store{first, second} {
		wg.Go(func() {
			for range each {
				if _, err := s.Put(t.Context(), string(rune('a'+n)), []byte("v"), 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	var last time.Time
	for seen := 0; seen < 2*each; {
		batches, err := watch.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range batches {
			if b.Time.Before(last) || b.Time.IsZero() {
				t.Fatalf("revision %d happened at %v, after %v", b.Revision, b.Time, last)
			}
			last = b.Time
			seen++
		}
	}
	wg.Wait()
}
