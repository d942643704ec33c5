package enginetest

import (
	"testing"

	"vortex"
	"vortex/internal/kind/engine"
)

// one reads a single key at a revision.
func one(t *testing.T, e engine.Engine, key string, rev int64) []string {
	t.Helper()
	return collect(t, e, key, key+"\x00", &rev)
}

// testOneKeyInThePast follows a key through its life, long after.
func testOneKeyInThePast(t *testing.T, e engine.Engine) {
	t.Helper()
	before := Commit(t, e, Put("other", "x"))
	created := Commit(t, e, Put("a", "1"))
	changed := Commit(t, e, Put("a", "2"), Put("a\x00", "neighbour"))
	deleted := Commit(t, e, del("a"))
	again := Commit(t, e, Put("a", "3"))
	for range 300 {
		Commit(t, e, Put("a", "later"))
	}
	equal(t, "before it was made", one(t, e, "a", before), nil)
	equal(t, "when it was made", one(t, e, "a", created), []string{"a=1"})
	equal(t, "when it was changed", one(t, e, "a", changed), []string{"a=2"})
	equal(t, "when it was deleted", one(t, e, "a", deleted), nil)
	equal(t, "when it was made again", one(t, e, "a", again), []string{"a=3"})
	equal(t, "all keys then", collect(t, e, "", "", &again), []string{"a=3", "a\x00=neighbour", "other=x"})
	for _, at := range []struct{ rev, created, changed int64 }{{changed, created, changed}, {again, again, again}, {0, again, again + 300}} {
		for kv, err := range e.Range(t.Context(), "a", "a\x00", &at.rev) {
			if err != nil || kv.CreateRevision != at.created || kv.ModRevision != at.changed {
				t.Errorf("at %d: %+v, %v; want it made at %d and changed at %d", at.rev, kv, err, at.created, at.changed)
			}
		}
	}
}

func testTheFuture(t *testing.T, e engine.Engine) {
	t.Helper()
	future := Commit(t, e, Put("a", "1")) + 1000
	for _, err := range e.Range(t.Context(), "", "", &future) {
		if !vortex.IsKind(err, vortex.OutOfRange) {
			t.Errorf("a range at a revision of the future: %v; want OutOfRange", err)
		}
	}
	if err := e.Compact(t.Context(), future); !vortex.IsKind(err, vortex.OutOfRange) {
		t.Errorf("a compaction up to a revision of the future: %v; want OutOfRange", err)
	}
}

// testCompactionKeeps holds that a compaction leaves everything alone that is visible at its revision or later.
func testCompactionKeeps(t *testing.T, e engine.Engine) {
	t.Helper()
	Commit(t, e, Put("steady", "1"), Put("a", "1"), Put("b", "1"), Put("c", "1"))
	Commit(t, e, Put("a", "2"), del("b"))
	middle := Commit(t, e, Put("b", "2"), del("c"))
	Commit(t, e, Put("c", "2"))
	newest := Commit(t, e, Put("a", "3"), del("b"))
	want := []string{"a=2", "b=2", "steady=1"}
	for range 2 {
		if err := e.Compact(t.Context(), middle); err != nil {
			t.Fatalf("compact: %v", err)
		}
		equal(t, "at the revision that was compacted to", collect(t, e, "", "", &middle), want)
		equal(t, "at the newest", now(t, e, "", ""), []string{"a=3", "c=2", "steady=1"})
	}
	w := Watch(t, e, middle+1)
	_, changes := w.Next()
	equal(t, "the history after it", changes, []string{"c=2"})
	_, changes = w.Next()
	equal(t, "and on", changes, []string{"a=3", "-b"})
	if err := e.Compact(t.Context(), newest); err != nil {
		t.Fatalf("compact further: %v", err)
	}
	equal(t, "after everything is compacted", now(t, e, "", ""), []string{"a=3", "c=2", "steady=1"})
	result, err := e.Commit(t.Context(), engine.Txn{Compares: []engine.Compare{{Key: "b"}}, Writes: []engine.Write{Put("b", "4")}})
	if err != nil || !result.Committed || result.Revision <= newest {
		t.Errorf("a key whose deletion is compacted is absent: %+v, %v", result, err)
	}
}

// testNothingChanged holds that every revision that a caller gets is one that a watch reaches, with nothing written after it.
func testNothingChanged(t *testing.T, e engine.Engine) {
	t.Helper()
	rev := Commit(t, e, Put("a", "1"))
	for what, txn := range map[string]engine.Txn{
		"a delete of an absent key": {Writes: []engine.Write{del("absent")}},
		"a compare that loses":      {Compares: []engine.Compare{{Key: "a"}}, Writes: []engine.Write{Put("a", "2")}},
		"a compare alone":           {Compares: []engine.Compare{{Key: "a", ModRevision: rev}}},
	} {
		result, err := e.Commit(t.Context(), txn)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		index, err := e.ReadIndex(t.Context())
		if err != nil {
			t.Fatalf("read index after %s: %v", what, err)
		}
		reach(t, e, rev, max(result.Revision, index))
	}
	equal(t, "what is there", now(t, e, "", ""), []string{"a=1"})
}

// reach waits until a watch from a revision has told of everything up to another.
func reach(t *testing.T, e engine.Engine, from, to int64) {
	t.Helper()
	w := Watch(t, e, from)
	for rev := int64(0); rev < to; {
		b := w.batch()
		if b.Revision <= rev {
			t.Fatalf("revision %d after %d", b.Revision, rev)
		}
		rev = b.Revision
	}
}
