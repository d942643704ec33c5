package kind_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
)

// value is what the model keeps of a record.
type value struct {
	text    string
	expires time.Time // zero: never
}

// model is what a store should hold: a map whose records end.
type model map[string]value

// look returns what a key may hold at some moment between from and to.
func (m model) look(key string, from, to time.Time) (text string, mayBeThere, mayBeGone bool) {
	v, ok := m[key]
	switch {
	case !ok:
		return "", false, true
	case v.expires.IsZero():
		return v.text, true, false
	default:
		return v.text, from.Before(v.expires), !to.Before(v.expires.Add(-time.Millisecond))
	}
}

// TestStoreBehavesAsAMapWhoseRecordsExpire plays random puts, deletes, swaps and reads with short lives against a map.
func TestStoreBehavesAsAMapWhoseRecordsExpire(t *testing.T) {
	store := kindtest.Open(t)
	ctx, cancel := context.WithCancel(t.Context())
	swept := make(chan struct{})
	go func() { defer close(swept); _ = store.Sweep(ctx) }()
	defer func() { cancel(); <-swept }()
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		m := model{}
		key := func() string {
			return fmt.Sprintf("run%d:%d", run, rapid.IntRange(0, 3).Draw(t, "key"))
		}
		ttl := func() time.Duration {
			return time.Duration(rapid.SampledFrom([]int{0, 0, 1, 2, 5}).Draw(t, "ttl")) * time.Millisecond
		}
		t.Repeat(map[string]func(*rapid.T){
			"put":    func(t *rapid.T) { m.put(t, store, key(), rapid.StringN(0, 5, -1).Draw(t, "text"), ttl()) },
			"delete": func(t *rapid.T) { m.delete(t, store, key()) },
			"get":    func(t *rapid.T) { m.get(t, store, key()) },
			"swap":   func(t *rapid.T) { m.swap(t, store, key(), ttl()) },
		})
	})
}

func (m model) put(t *rapid.T, s *kind.Store, key, text string, ttl time.Duration) {
	before := time.Now()
	if _, err := s.Put(context.Background(), key, []byte(text), ttl); err != nil {
		t.Fatal(err)
	}
	m.set(t, s, key, text, ttl, before)
}

// set notes a write that began at before. When the record ends is asked of the store, and held to what was asked for.
func (m model) set(t *rapid.T, s *kind.Store, key, text string, ttl time.Duration, before time.Time) {
	v := value{text: text}
	if ttl > 0 {
		v.expires = before.Add(ttl)
		if rec, err := s.Get(key); err == nil {
			v.expires = time.UnixMilli(rec.ExpiresAt)
			if v.expires.Before(before.Add(ttl-time.Millisecond)) || v.expires.After(time.Now().Add(ttl)) {
				t.Fatalf("put at %s for %s, it ends %s", before, ttl, v.expires)
			}
		}
	}
	m[key] = v
}

func (m model) get(t *rapid.T, s *kind.Store, key string) {
	from := time.Now()
	rec, err := s.Get(key)
	text, mayBeThere, mayBeGone := m.look(key, from.Truncate(time.Millisecond), time.Now())
	switch {
	case err == nil && (!mayBeThere || string(rec.Value) != text):
		t.Fatalf("%s holds %q; want %q, there: %t", key, rec.Value, text, mayBeThere)
	case err != nil && !mayBeGone:
		t.Fatalf("%s: %v; want %q", key, err, text)
	}
}

func (m model) delete(t *rapid.T, s *kind.Store, key string) {
	from := time.Now()
	existed, err := s.Delete(context.Background(), key)
	if err != nil {
		t.Fatal(err)
	}
	_, mayBeThere, mayBeGone := m.look(key, from.Truncate(time.Millisecond), time.Now())
	if existed && !mayBeThere || !existed && !mayBeGone {
		t.Fatalf("delete %s says %t; may be there %t, may be gone %t", key, existed, mayBeThere, mayBeGone)
	}
	delete(m, key)
}

func (m model) swap(t *rapid.T, s *kind.Store, key string, ttl time.Duration) {
	expected := ""
	if v, ok := m[key]; ok && rapid.Bool().Draw(t, "right") {
		expected = v.text
	}
	from := time.Now()
	won, err := s.Swap(context.Background(), key, []byte(expected), []byte("swapped"), ttl)
	if err != nil {
		t.Fatal(err)
	}
	text, mayBeThere, mayBeGone := m.look(key, from.Truncate(time.Millisecond), time.Now())
	mayWin := mayBeGone && expected == "" || mayBeThere && expected != "" && expected == text
	mayLose := mayBeThere && (expected == "" || expected != text) || mayBeGone && expected != ""
	if won && !mayWin || !won && !mayLose {
		t.Fatalf("swap %s from %q says %t; it holds %q, there %t, gone %t", key, expected, won, text, mayBeThere, mayBeGone)
	}
	if won {
		m.set(t, s, key, "swapped", ttl, from)
	}
}

// TestIndexesEqualAFullScan compares every query with a filter over all records after random transactions, some of which expire.
func TestIndexesEqualAFullScan(t *testing.T) {
	store := kindtest.Open(t)
	apps := []string{"web", "db", "edge"}
	states := []string{"Running", "Dead", "Provisioning"}
	rapid.Check(t, func(t *rapid.T) {
		for range rapid.IntRange(1, 10).Draw(t, "transactions") {
			ops := map[string]kind.Op{}
			for range rapid.IntRange(1, 5).Draw(t, "operations") {
				id := strconv.Itoa(rapid.IntRange(0, 15).Draw(t, "id"))
				op := kind.Op{Key: vortex.Containers.Key(id), Delete: rapid.IntRange(0, 3).Draw(t, "delete") == 0}
				if !op.Delete {
					op.Value = fmt.Appendf(nil, `{"id":%q,"status":%q,"ip_address":"","client_id":%q}`, id,
						rapid.SampledFrom(states).Draw(t, "state"), rapid.SampledFrom(apps).Draw(t, "app"))
					op.TTL = time.Duration(rapid.SampledFrom([]int{0, 0, 3}).Draw(t, "ttl")) * time.Millisecond
				}
				ops[op.Key] = op
			}
			if _, err := store.Commit(context.Background(), kind.Txn{Ops: slices.Collect(maps.Values(ops))}); err != nil {
				t.Fatal(err)
			}
		}
		for field, values := range map[string][]string{"client_id": apps, "status": states} {
			for _, v := range values {
				compareIndex(t, store, field, v)
			}
		}
	})
}

// compareIndex compares what the index finds with what all records say, in one view.
func compareIndex(t *rapid.T, store *kind.Store, field, v string) {
	var indexed, scanned []string
	store.View(func(view kind.View) {
		view.Find("ContainerRecord", field, v, func(r *kind.Record) bool { indexed = append(indexed, r.Key); return true })
		for _, e := range kind.List(view, vortex.Containers) {
			if field == "client_id" && e.Value.ClientID == v || field == "status" && string(e.Value.Status) == v {
				scanned = append(scanned, vortex.Containers.Key(e.ID))
			}
		}
	})
	if diff := cmp.Diff(scanned, indexed); diff != "" {
		t.Fatalf("%s = %s (-scan +index):\n%s", field, v, diff)
	}
}
