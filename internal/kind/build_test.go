package kind_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
)

const petSchema = `enum Colour { red, blue, white } @prefix("pet") type Pet { %s colour: Colour, %s owner: String?, n: U32? }`

func putSchema(tb testing.TB, s *kind.Store, name, text string) {
	tb.Helper()
	if _, err := s.Put(tb.Context(), kind.SchemaPrefix+name, []byte(text), 0); err != nil {
		tb.Fatal(err)
	}
}

// fillPets puts records in transactions of 1000; a third have each colour.
func fillPets(tb testing.TB, s *kind.Store, records int) {
	tb.Helper()
	for from := 0; from < records; from += 1000 {
		ops := make([]kind.Op, 0, 1000)
		for n := from; n < min(from+1000, records); n++ {
			ops = append(ops, petOp(n, []string{"red", "blue", "white"}[n%3], ""))
		}
		if _, err := s.Commit(tb.Context(), kind.Txn{Ops: ops}); err != nil {
			tb.Fatal(err)
		}
	}
}

func petOp(n int, colour, owner string) kind.Op {
	return kind.Op{Key: fmt.Sprintf("pet:%06d", n), Value: fmt.Appendf(nil, `{"colour":%q,"owner":%q,"n":%d}`, colour, owner, n)}
}

// countsByScan counts the records of each colour and owner by looking at all of them.
func countsByScan(v kind.View, field string) map[string]int {
	counts := map[string]int{}
	v.Prefix("pet:", func(rec *kind.Record) bool {
		_, rest, _ := strings.Cut(string(rec.Value), `"`+field+`":"`)
		value, _, _ := strings.Cut(rest, `"`)
		counts[value]++
		return true
	})
	return counts
}

// TestIndexIsBuiltWhileOthersReadAndWrite adds indexes to a type with many records. Writers change what a few
// values match all the while, and after each change every query must show exactly that change.
func TestIndexIsBuiltWhileOthersReadAndWrite(t *testing.T) {
	records := 50_000
	if testing.Short() {
		records = 20_000
	}
	s := kindtest.Open(t)
	putSchema(t, s, "pets", fmt.Sprintf(petSchema, "", ""))
	fillPets(t, s, records)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var rounds, during atomic.Int64
	defer wg.Wait()
	defer cancel()
	for w := range 2 {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				play(t, s, w, n, records)
				rounds.Add(1)
				if len(s.Building("Pet")) > 0 {
					during.Add(1)
				}
			}
		})
	}
	kindtest.Eventually(t, "the writers write", func() bool { return rounds.Load() > 2 })
	putSchema(t, s, "pets", fmt.Sprintf(petSchema, "@indexed", "@indexed"))
	kindtest.Eventually(t, "the indexes are complete", func() bool { return len(s.Building("Pet")) == 0 })
	cancel()
	wg.Wait()
	t.Logf("%d rounds of reads and writes, %d of them while the indexes were built", rounds.Load(), during.Load())
	s.View(func(v kind.View) {
		for _, field := range []string{"colour", "owner"} {
			for value, want := range countsByScan(v, field) {
				got := 0
				v.Find("Pet", field, value, func(*kind.Record) bool { got++; return true })
				if got != want {
					t.Errorf("%s %q: the index finds %d, a scan %d", field, value, got, want)
				}
			}
		}
	})
}

// play gives pets all over the keys to an owner, paints one, takes another away, and asks after each step.
func play(t *testing.T, s *kind.Store, writer, n, records int) {
	t.Helper()
	owner := fmt.Sprintf("owner-%d-%d", writer, n)
	pets := []int{writer + 2*n%records, records/2 + writer + 2*n%(records/2), records - 1 - writer - 2*n%(records/2), records + writer}
	slices.Sort(pets)
	pets = slices.Compact(pets)
	for i, pet := range pets {
		if _, err := s.Commit(context.Background(), kind.Txn{Ops: []kind.Op{petOp(pet, "white", owner)}}); err != nil {
			t.Error(err)
			return
		}
		expectOwned(t, s, owner, pets[:i+1])
	}
	ops := []kind.Op{petOp(pets[0], "red", "nobody"), {Key: fmt.Sprintf("pet:%06d", pets[len(pets)-1]), Delete: true}}
	if _, err := s.Commit(context.Background(), kind.Txn{Ops: ops}); err != nil {
		t.Error(err)
		return
	}
	expectOwned(t, s, owner, pets[1:len(pets)-1])
}

func expectOwned(t *testing.T, s *kind.Store, owner string, pets []int) {
	t.Helper()
	found, err := s.Query("Pet", kind.Filter{Field: "owner", Value: owner}, 0, 0)
	if vortex.IsKind(err, vortex.Invalid) {
		return // the field is not indexed yet
	}
	var want, got []string
	for _, n := range pets {
		want = append(want, petOp(n, "", "").Key)
	}
	for _, rec := range found {
		got = append(got, rec.Key)
	}
	if err != nil || !slices.Equal(want, got) {
		t.Errorf("%s owns %v, %v; want %v", owner, got, err, want)
	}
}

// TestIndexIsBuiltAgainAfterARestart stops a server in the middle of a build: indexes live in memory, so nothing is lost.
func TestIndexIsBuiltAgainAfterARestart(t *testing.T) {
	dir := t.TempDir()
	e := openEngine(t, dir)
	s, stop := openStore(t, kind.Config{Engine: e}, userSchema)
	putSchema(t, s, "pets", fmt.Sprintf(petSchema, "", ""))
	fillPets(t, s, 20_000)
	putSchema(t, s, "pets", fmt.Sprintf(petSchema, "@indexed", "@indexed"))
	stop()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = openEngine(t, dir)
	t.Cleanup(func() { _ = e.Close() })
	s, _ = openStore(t, kind.Config{Engine: e}, userSchema)
	if building := s.Building("Pet"); len(building) > 0 {
		t.Errorf("the store answers before %v are complete", building)
	}
	found, err := s.Query("Pet", kind.Filter{Field: "colour", Value: "red"}, 0, 0)
	if err != nil || len(found) != 6667 {
		t.Errorf("found %d, %v; want 6667", len(found), err)
	}
}

// TestUniqueFieldIsRightWhileItIsBuilt writes a value that a record holds which the new index may not have reached.
func TestUniqueFieldIsRightWhileItIsBuilt(t *testing.T) {
	s := kindtest.Open(t)
	putSchema(t, s, "pets", fmt.Sprintf(petSchema, "", ""))
	fillPets(t, s, 20_000)
	if _, err := s.Commit(t.Context(), kind.Txn{Ops: []kind.Op{petOp(19_999, "red", "ada")}}); err != nil {
		t.Fatal(err)
	}
	putSchema(t, s, "pets", fmt.Sprintf(petSchema, "", "@unique"))
	_, err := s.Commit(t.Context(), kind.Txn{Ops: []kind.Op{petOp(0, "red", "ada")}})
	if !vortex.IsKind(err, vortex.Exists) {
		t.Errorf("a value that another record holds: %v; want Exists", err)
	}
}

// TestInnerTypeKeepsItsKeys builds the index of a type whose prefix lies around that of another.
func TestInnerTypeKeepsItsKeys(t *testing.T) {
	s := kindtest.Open(t)
	for _, key := range []string{"pet", "pet:1", "pet:dog", "pet:dog:1", "pet-food", "pet;"} {
		if _, err := s.Put(t.Context(), key, []byte(`{"name":"a"}`), 0); err != nil {
			t.Fatal(err)
		}
	}
	putSchema(t, s, "dogs", `@prefix("pet:dog") type Dog { @indexed name: String }`)
	putSchema(t, s, "pets", `@prefix("pet") type Pet { @indexed name: String }`)
	for typ, want := range map[string][]string{"Pet": {"pet", "pet:1"}, "Dog": {"pet:dog", "pet:dog:1"}} {
		kindtest.Eventually(t, "the index of "+typ+" is complete", func() bool { return len(s.Building(typ)) == 0 })
		found, err := s.Query(typ, kind.Filter{Field: "name", Value: "a"}, 0, 0)
		var got []string
		for _, rec := range found {
			got = append(got, rec.Key)
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v; want %v", typ, got, err, want)
		}
	}
}
