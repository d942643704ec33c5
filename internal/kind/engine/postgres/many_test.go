package postgres_test

import (
	"fmt"
	"sync"
	"testing"

	"vortex"
	"vortex/internal/kind/engine"
	"vortex/internal/kind/engine/enginetest"
	"vortex/internal/kind/engine/postgres"
	"vortex/internal/kind/engine/postgres/pgtest"
)

// TestServersShareADatabase opens it from several servers at once, which also make its tables at once. Each sees the same history.
func TestServersShareADatabase(t *testing.T) {
	server := pgtest.Start(t)
	const servers, writes = 3, 100
	engines := make([]*postgres.Engine, servers)
	var all sync.WaitGroup
	for n := range engines {
		all.Go(func() {
			var err error
			if engines[n], err = (postgres.Config{URL: server.URL()}).Open(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
	var watches []*enginetest.Watcher
	for _, e := range engines {
		t.Cleanup(func() { _ = e.Close() })
		watches = append(watches, enginetest.Watch(t, e, 2))
	}
	for n, e := range engines {
		for lane := range 4 {
			all.Go(func() {
				for i := range writes {
					if _, err := putter(e)(t.Context(), fmt.Sprintf("k/%d/%d/%d", n, lane, i)); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	all.Wait()
	for range servers * 4 * writes {
		rev, changes := watches[0].Next()
		for _, other := range watches[1:] {
			if r, c := other.Next(); r != rev || c[0] != changes[0] {
				t.Fatalf("one server sees %v at %d, another %v at %d", changes, rev, c, r)
			}
		}
	}
}

// TestWithoutNotification holds that a row that nobody announced is found all the same.
func TestWithoutNotification(t *testing.T) {
	server := pgtest.Start(t)
	e := open(t, server.URL())
	watch := enginetest.Watch(t, e, enginetest.Commit(t, e, enginetest.Put("a", "1"))+1)
	server.Exec("INSERT INTO vortex.log SELECT revision + 1, 'b', revision + 1, false, 'quiet', now() FROM vortex.log")
	if _, changes := watch.Next(); changes[0] != "b=quiet" {
		t.Errorf("found %v", changes)
	}
}

// TestHistoryBeyondMemory watches from long ago, through transactions of many sizes, while more is written.
func TestHistoryBeyondMemory(t *testing.T) {
	server := pgtest.Start(t)
	e := open(t, server.URL())
	const groups, each = 30, 200
	first := enginetest.Commit(t, e, enginetest.Put("start", ""))
	large := make([]engine.Write, 5000) // more than a page of the log
	for i := range large {
		large[i] = enginetest.Put(fmt.Sprintf("large/%05d", i), "v")
	}
	var writers sync.WaitGroup
	for lane := range groups {
		writers.Go(func() {
			for i := range each {
				if _, err := putter(e)(t.Context(), fmt.Sprintf("k/%d/%d", lane, i)); err != nil {
					t.Error(err)
				}
			}
			if lane == 0 {
				enginetest.Commit(t, e, large...)
			}
		})
	}
	writers.Wait()
	if there := len(state(t, e)); there != groups*each {
		t.Fatalf("%d keys are there, want %d", there, groups*each)
	}
	watch := enginetest.Watch(t, e, first+1)
	last, changed := first, 0
	for changed < groups*each+len(large) {
		rev, changes := watch.Next()
		if rev <= last {
			t.Fatalf("revision %d after %d", rev, last)
		}
		last, changed = rev, changed+len(changes)
		if len(changes) != 1 && len(changes) != len(large) {
			t.Fatalf("a transaction of %d changes", len(changes))
		}
	}
	enginetest.Commit(t, e, enginetest.Put("end", "now"))
	if _, changes := watch.Next(); changes[0] != "end=now" {
		t.Errorf("after the past: %v", changes)
	}
}

// TestLimits holds that what PostgreSQL cannot take is refused alone, not with the others of its group.
func TestLimits(t *testing.T) {
	server := pgtest.Start(t)
	e := open(t, server.URL())
	long := string(make([]byte, 3000))
	for _, txn := range []engine.Txn{
		{Writes: []engine.Write{enginetest.Put(long, "")}},
		{Compares: []engine.Compare{{Key: long}}},
	} {
		if _, err := e.Commit(t.Context(), txn); !vortex.IsKind(err, vortex.Invalid) {
			t.Errorf("a key of 3000 bytes: %v; want Invalid", err)
		}
	}
	huge := string(make([]byte, 20<<20)) // more than a group takes
	enginetest.Commit(t, e, enginetest.Put("huge", huge))
	for kv, err := range e.Range(t.Context(), "huge", "", new(int64(0))) {
		if err != nil || len(kv.Value) != len(huge) {
			t.Errorf("a value of 20 MiB came back with %d bytes, %v", len(kv.Value), err)
		}
	}
}
