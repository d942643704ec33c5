package remote_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/engine/remote"
	"vortex/internal/kind/kindtest"
)

// place writes placements of one node, n of them.
func place(tb testing.TB, store *kind.Store, node string, n int) {
	tb.Helper()
	for from := 0; from < n; from += 1000 {
		var txn kind.Txn
		for i := from; i < min(from+1000, n); i++ {
			id := fmt.Sprintf("%s-%05d", node, i)
			op, err := kind.PutOp(vortex.Placements, &vortex.PlacementRecord{
				Instance: id, ClientID: "web", Node: node, Release: 1, Epoch: 1, CreatedAt: time.Now().UTC(),
			}, id)
			if err != nil {
				tb.Fatal(err)
			}
			txn.Ops = append(txn.Ops, op)
		}
		if _, err := store.Commit(tb.Context(), txn); err != nil {
			tb.Fatal(err)
		}
	}
}

func placementsOf(node string) []kind.Selection {
	return []kind.Selection{{Prefix: vortex.Placements.Prefix + ":", Filter: &kind.Filter{Field: "node", Value: node}}}
}

func TestOnlyWhatIsSelectedIsHeld(t *testing.T) {
	store := kindtest.Open(t)
	place(t, store, "n1", 3)
	place(t, store, "n2", 3)
	mirror := storeOn(t, open(t, remote.Config{Servers: []string{serve(t, store).addr}, Hold: placementsOf("n1")}))
	held := func(what string, want int) {
		t.Helper()
		kindtest.Eventually(t, what, func() bool { return mirror.Len() == want })
		for _, p := range kind.All(mirror, vortex.Placements) {
			if p.Value.Node != "n1" {
				t.Errorf("%s: %s of %s is held", what, p.ID, p.Value.Node)
			}
		}
	}
	held("those of the node", 3)
	place(t, store, "n2", 10)
	place(t, store, "n1", 5)
	held("new ones too", 5)
	moved, err := kind.Get(store, vortex.Placements, "n1-00001")
	if err != nil {
		t.Fatal(err)
	}
	to := *moved.Value
	to.Node = "n2"
	if _, err := kind.Put(t.Context(), store, vortex.Placements, &to, moved.ID); err != nil {
		t.Fatal(err)
	}
	held("one that moved away is not", 4)
	to.Node = "n1"
	if _, err := kind.Put(t.Context(), store, vortex.Placements, &to, moved.ID); err != nil {
		t.Fatal(err)
	}
	held("and is again when it comes back", 5)
	if _, err := kind.Put(within(t), mirror, vortex.Metrics, &vortex.ClientMetrics{ClientID: "web"}, "web"); err != nil {
		t.Errorf("a write of what is not held: %v", err)
	}
	if _, err := kind.Get(store, vortex.Metrics, "web"); err != nil {
		t.Error(err)
	}
}

// TestMemoryOfASelection holds ten thousand placements elsewhere against the memory of a store that selects its own node's.
func TestMemoryOfASelection(t *testing.T) {
	store := kindtest.Open(t)
	s := serve(t, store)
	place(t, store, "n1", 20)
	mirror := storeOn(t, open(t, remote.Config{Servers: []string{s.addr}, Hold: placementsOf("n1")}))
	place(t, store, "n2", 10_000)
	if err := mirror.Sync(within(t)); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d of %d records, %d of %d KiB", mirror.Len(), store.Len(), mirror.MemoryBytes()>>10, store.MemoryBytes()>>10)
	if mirror.Len() != 20 || mirror.MemoryBytes() > 20<<10 {
		t.Errorf("the store holds %d records, %d KiB; want 20 in at most 20 KiB", mirror.Len(), mirror.MemoryBytes()>>10)
	}
}

func TestSelectionsThatAreRefused(t *testing.T) {
	s := serve(t, kindtest.Open(t))
	for what, hold := range map[string][]kind.Selection{
		"a prefix twice":         {{Prefix: "a:"}, {Prefix: "a:b:"}},
		"a field without index":  {{Prefix: vortex.Placements.Prefix + ":", Filter: &kind.Filter{Field: "epoch", Value: "1"}}},
		"a filter without types": {{Prefix: "none:", Filter: &kind.Filter{Field: "node", Value: "n1"}}},
	} {
		e := open(t, remote.Config{Servers: []string{s.addr}, Hold: hold})
		if _, err := kind.Open(t.Context(), kind.Config{Engine: e}); !vortex.IsKind(err, vortex.Invalid) {
			t.Errorf("%s: %v; want Invalid", what, err)
		}
	}
}

// TestAServerOutsideOfTheGroupPassesNothingOnWhole keeps servers from following each other in a circle.
func TestAServerOutsideOfTheGroupPassesNothingOnWhole(t *testing.T) {
	member := serve(t, kindtest.Open(t))
	outside := serve(t, storeOn(t, open(t, remote.Config{Servers: []string{member.addr}})))
	e := open(t, remote.Config{Servers: []string{outside.addr}})
	if _, err := kind.Open(t.Context(), kind.Config{Engine: e}); !vortex.IsKind(err, vortex.Unavailable) {
		t.Errorf("followed whole: %v; want Unavailable", err)
	}
	agent := storeOn(t, open(t, remote.Config{Servers: []string{outside.addr}, Hold: placementsOf("n1")}))
	place(t, agent, "n1", 2) // through a server that has no store of its own
	kindtest.Eventually(t, "what is selected comes through it", func() bool { return agent.Len() == 2 && member.store.Len() == 2 })
}

// BenchmarkWrite is a write on a machine without a store: to a server, into its store and back.
func BenchmarkWrite(b *testing.B) {
	store := kindtest.Open(b)
	s := serve(b, store)
	for name, hold := range map[string][]kind.Selection{"Held": {{Prefix: "a:"}}, "Elsewhere": {{Prefix: "b:"}}, "Whole": nil} {
		mirror := storeOn(b, open(b, remote.Config{Servers: []string{s.addr}, Hold: hold}))
		b.Run(name, func(b *testing.B) { write(b, mirror) })
	}
	b.Run("Server", func(b *testing.B) { write(b, store) })
}

func write(b *testing.B, s *kind.Store) {
	b.Helper()
	value := make([]byte, 512)
	for b.Loop() {
		if _, err := s.Put(context.Background(), "a:x", value, 0); err != nil {
			b.Fatal(err)
		}
	}
}
