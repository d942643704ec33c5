package kind_test

import (
	"context"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
)

// texts collects records as key=value.
func texts(t *testing.T, records iter.Seq2[*kind.Record, error]) []string {
	t.Helper()
	var out []string
	for rec, err := range records {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, rec.Key+"="+string(rec.Value))
	}
	return out
}

// changes collects events as key: before -> after.
func changes(events []kind.Event) (out []string) {
	value := func(rec *kind.Record) string {
		if rec == nil {
			return "-"
		}
		return string(rec.Value)
	}
	for _, ev := range events {
		out = append(out, fmt.Sprintf("%s: %s -> %s", ev.Key, value(ev.Prev), value(ev.Record)))
	}
	return out
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func at(t *testing.T, s *kind.Store, rev int64) kind.Past {
	t.Helper()
	past, err := s.At(t.Context(), rev)
	if err != nil {
		t.Fatal(err)
	}
	return past
}

func TestPastIsReadAsItWas(t *testing.T) {
	store := kindtest.Open(t)
	first := put(t, store, "a", "1")
	second := put(t, store, "b", "1")
	if _, err := store.Delete(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	last := put(t, store, "b", "2")
	same(t, "at the first", texts(t, at(t, store, first).Prefix(t.Context(), "")), []string{"a=1"})
	same(t, "at the second", texts(t, at(t, store, second).Scan(t.Context(), "", "")), []string{"a=1", "b=1"})
	same(t, "at the last", texts(t, at(t, store, last).Prefix(t.Context(), "")), []string{"b=2"})
	rec, err := at(t, store, second).Get(t.Context(), "b")
	if err != nil || string(rec.Value) != "1" || rec.ModRevision != second {
		t.Errorf("b was %+v, %v", rec, err)
	}
	for _, key := range []string{"b", "vortex:clock"} {
		if _, err := at(t, store, first).Get(t.Context(), key); !vortex.IsKind(err, vortex.NotFound) {
			t.Errorf("%s at the first: %v; want NotFound", key, err)
		}
	}
	if _, err := store.At(t.Context(), last+1); !vortex.IsKind(err, vortex.Invalid) {
		t.Errorf("the future: %v; want Invalid", err)
	}
}

func TestPastIsFoundByField(t *testing.T) {
	e := openEngine(t, t.TempDir())
	t.Cleanup(func() { _ = e.Close() })
	s, _ := openStore(t, kind.Config{Engine: e}, userSchema)
	put(t, s, "user:1", `{"email":"a","team":"x"}`)
	rev := put(t, s, "user:2", `{"email":"b","team":"x"}`)
	put(t, s, "user:1", `{"email":"a","team":"y"}`)
	past := at(t, s, rev)
	one, two := `user:1={"email":"a","team":"x"}`, `user:2={"email":"b","team":"x"}`
	same(t, "team x", texts(t, past.Find(t.Context(), "User", "team", "x")), []string{one, two})
	same(t, "team y", texts(t, past.Find(t.Context(), "User", "team", "y")), nil)
	for _, err := range past.Find(t.Context(), "User", "nothing", "") {
		if !vortex.IsKind(err, vortex.Invalid) {
			t.Errorf("a field without an index: %v; want Invalid", err)
		}
	}
	filtered := kind.Matching(past.Prefix(t.Context(), "user"), kind.Filter{Field: "email", Value: "b"})
	same(t, "a filtered scan", texts(t, filtered), []string{two})
}

func TestExpiryIsJudgedAtTheTimeOfThePast(t *testing.T) {
	store := kindtest.Open(t)
	rev, err := store.Put(t.Context(), "k", []byte("v"), 300*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	kindtest.Eventually(t, "the record expires", func() bool { _, err := store.Get("k"); return err != nil })
	gone := put(t, store, "other", "1")
	put(t, store, "other", "2")
	same(t, "while it lived", texts(t, at(t, store, rev).Prefix(t.Context(), "k")), []string{"k=v"})
	same(t, "when it had expired, not swept", texts(t, at(t, store, gone).Prefix(t.Context(), "k")), nil)
	past, err := store.AtTime(t.Context(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	same(t, "now", texts(t, past.Prefix(t.Context(), "k")), nil)
}

func TestHistoryTellsBeforeAndAfter(t *testing.T) {
	store := kindtest.Open(t)
	start := put(t, store, "a", "1")
	if _, err := store.Commit(t.Context(), kind.Txn{Ops: []kind.Op{{Key: "a", Value: []byte("2")}, {Key: "b", Value: []byte("1")}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Delete(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	end := put(t, store, "c", "1")
	read := func(prefix string, from, to int64) (out []string) {
		t.Helper()
		for b, err := range store.History(t.Context(), prefix, from, to) {
			if err != nil {
				t.Fatal(err)
			}
			if b.Time.IsZero() || b.Revision < from {
				t.Errorf("revision %d at %v", b.Revision, b.Time)
			}
			out = append(out, strings.Join(changes(b.Events), ", "))
		}
		return out
	}
	same(t, "from the second on", read("", start+1, 0), []string{"a: 1 -> 2, b: - -> 1", "a: 2 -> -", "c: - -> 1"})
	same(t, "the first two", read("", start, start+1), []string{"a: - -> 1", "a: 1 -> 2, b: - -> 1"})
	same(t, "of one key", read("a", 0, 0), []string{"a: - -> 1", "a: 1 -> 2", "a: 2 -> -"})
	same(t, "one", read("", end, end), []string{"c: - -> 1"})
	same(t, "backwards", read("", end, start), nil)
	for _, err := range store.History(t.Context(), "", start, end+1) {
		if !vortex.IsKind(err, vortex.Invalid) {
			t.Errorf("into the future: %v; want Invalid", err)
		}
	}
}

func TestDiffIsTheNetDifference(t *testing.T) {
	store := kindtest.Open(t)
	for _, key := range []string{"gone", "same", "changed", "back"} {
		put(t, store, key, "1")
	}
	from := store.Revision()
	for _, v := range []string{"2", "3"} {
		put(t, store, "changed", v)
	}
	put(t, store, "back", "2")
	put(t, store, "back", "1")
	put(t, store, "z", "new")
	if _, err := store.Delete(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	read := func(a, b int64, prefix string) []string {
		t.Helper()
		var events []kind.Event
		for ev, err := range kind.Diff(t.Context(), at(t, store, a), at(t, store, b), prefix) {
			if err != nil {
				t.Fatal(err)
			}
			events = append(events, ev)
		}
		return changes(events)
	}
	to := store.Revision()
	same(t, "forward", read(from, to, ""), []string{"changed: 1 -> 3", "gone: 1 -> -", "z: - -> new"})
	same(t, "backward", read(to, from, ""), []string{"changed: 3 -> 1", "gone: - -> 1", "z: new -> -"})
	same(t, "below a prefix", read(from, to, "g"), []string{"gone: 1 -> -"})
	same(t, "of nothing", read(to, to, ""), nil)
}

func TestCompactedPastTellsWhatIsKept(t *testing.T) {
	store := kindtest.Open(t)
	first := put(t, store, "k", "1")
	put(t, store, "k", "2")
	kept := put(t, store, "k", "3")
	last := put(t, store, "k", "4")
	for range 2 {
		if oldest, err := store.Compact(t.Context(), kept); err != nil || oldest != kept {
			t.Fatalf("compact: %d, %v; want %d", oldest, err, kept)
		}
	}
	if oldest, err := store.Compact(t.Context(), first); err != nil || oldest != kept {
		t.Errorf("compact what is compacted: %d, %v; want %d", oldest, err, kept)
	}
	_, err := store.At(t.Context(), first)
	if !vortex.IsKind(err, vortex.OutOfRange) || !strings.Contains(err.Error(), fmt.Sprint("the oldest kept is ", kept)) {
		t.Errorf("a compacted revision: %v; want OutOfRange with %d", err, kept)
	}
	same(t, "the oldest kept", texts(t, at(t, store, kept).Prefix(t.Context(), "")), []string{"k=3"})
	for _, err := range store.History(t.Context(), "", first, 0) {
		if !vortex.IsKind(err, vortex.OutOfRange) {
			t.Errorf("a history from what is compacted: %v; want OutOfRange", err)
		}
	}
	for b, err := range store.History(t.Context(), "", 0, 0) {
		if err != nil || b.Revision != last {
			t.Errorf("the history kept: %+v, %v; want revision %d", b, err, last)
		}
	}
	if _, err := store.RevisionAt(t.Context(), time.Now().Add(-time.Hour)); !vortex.IsKind(err, vortex.OutOfRange) {
		t.Errorf("an hour ago: %v; want OutOfRange", err)
	}
	if _, err := store.Compact(t.Context(), last+1); !vortex.IsKind(err, vortex.Invalid) {
		t.Errorf("compact the future: %v; want Invalid", err)
	}
}

func TestHistoryIsKeptByCountAgeAndMost(t *testing.T) {
	for _, c := range []struct {
		name string
		keep kind.Retention
		want func(newest int64) int64 // the oldest kept
	}{
		{"young ones stay whatever their count", kind.Retention{Age: time.Hour}, nil},
		{"so many stay whatever their age", kind.Retention{Age: time.Millisecond, Count: 7}, func(n int64) int64 { return n - 7 }},
		{"no more stay however young", kind.Retention{Age: time.Hour, Count: 2, Max: 5}, func(n int64) int64 { return n - 5 }},
		{"off", kind.Retention{Max: 5}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := kindtest.Open(t)
			for n := range 20 {
				put(t, store, "k", strconv.Itoa(n))
			}
			apart(t)
			asked := make(chan struct{}, 100)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			go func() {
				done <- store.KeepHistory(ctx, func() kind.Retention { asked <- struct{}{}; return c.keep })
			}()
			<-asked
			want := func(n int64) int64 { oldest, _ := store.Oldest(t.Context()); return oldest }
			if c.want != nil {
				want = c.want
			}
			kindtest.Eventually(t, "old history is forgotten", func() bool {
				oldest, err := store.Oldest(t.Context())
				return err == nil && oldest == want(store.Revision())
			})
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if c.want == nil {
				if _, err := store.At(t.Context(), 2); err != nil {
					t.Errorf("the first revision is forgotten: %v", err)
				}
			}
		})
	}
}
