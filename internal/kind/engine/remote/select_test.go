package remote_test

import (
	"context"
	"fmt"
	"strconv"
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

// agentHolds is what an agent on n1 holds: its placements, and the instances and releases that they name.
func agentHolds() []kind.Selection {
	return append(placementsOf("n1"),
		kind.Selection{Prefix: vortex.Instances.Prefix + ":", Via: &kind.Via{Prefix: vortex.Placements.Prefix + ":", Fields: []string{"instance"}}},
		kind.Selection{Prefix: vortex.Releases.Prefix + ":", Via: &kind.Via{Prefix: vortex.Placements.Prefix + ":", Fields: []string{"client_id", "release"}}})
}

// want writes the instances of placements, and a release of the app.
func want(tb testing.TB, store *kind.Store, node string, n int, state vortex.WantedState) {
	tb.Helper()
	var txn kind.Txn
	for i := range n {
		id := fmt.Sprintf("%s-%05d", node, i)
		op, err := kind.PutOp(vortex.Instances, &vortex.InstanceRecord{ID: id, ClientID: "web", Release: 1, Wanted: state, CreatedAt: time.Now().UTC()}, id)
		if err != nil {
			tb.Fatal(err)
		}
		txn.Ops = append(txn.Ops, op)
	}
	for from := 0; from < len(txn.Ops); from += 2000 {
		if _, err := store.Commit(tb.Context(), kind.Txn{Ops: txn.Ops[from:min(from+2000, len(txn.Ops))]}); err != nil {
			tb.Fatal(err)
		}
	}
}

func release(tb testing.TB, store *kind.Store, app string, number uint64) {
	tb.Helper()
	spec := vortex.App{Metadata: vortex.Metadata{Name: app}, Spec: vortex.AppSpec{Type: vortex.AppTypeWorker, Image: "img"}}
	spec.SetDefaults()
	rec := vortex.ReleaseRecord{ClientID: app, Number: number, Hash: "h", Spec: spec, CreatedAt: time.Now().UTC()}
	if _, err := kind.Put(tb.Context(), store, vortex.Releases, &rec, app, strconv.FormatUint(number, 10)); err != nil {
		tb.Fatal(err)
	}
}

// TestRecordsThatOthersName holds ten thousand instances elsewhere against what an agent holds: what its own placements name, as it
// comes, changes and goes.
func TestRecordsThatOthersName(t *testing.T) {
	store := kindtest.Open(t)
	s := serve(t, store)
	release(t, store, "web", 1)
	release(t, store, "web", 2)
	release(t, store, "other", 1)
	want(t, store, "n1", 5, vortex.WantedStateRunning)
	want(t, store, "n2", 10_000, vortex.WantedStateRunning)
	place(t, store, "n1", 3)
	place(t, store, "n2", 10_000)
	mirror := storeOn(t, open(t, remote.Config{Servers: []string{s.addr}, Hold: agentHolds()}))
	held := func(what string, placements, instances, releases int) {
		t.Helper()
		var got string
		wanted := fmt.Sprint(placements, instances, releases)
		defer func() {
			if t.Failed() {
				t.Logf("held: %s; want %s", got, wanted)
			}
		}()
		kindtest.Eventually(t, what, func() bool {
			got = fmt.Sprint(len(kind.All(mirror, vortex.Placements)), len(kind.All(mirror, vortex.Instances)), len(kind.All(mirror, vortex.Releases)))
			return got == wanted
		})
	}
	held("what was there", 3, 3, 1)
	place(t, store, "n1", 5)
	held("what is named from now on", 5, 5, 1)
	want(t, store, "n1", 5, vortex.WantedStateStopped)
	want(t, store, "n2", 10_000, vortex.WantedStateStopped)
	kindtest.Eventually(t, "what changes", func() bool {
		for _, i := range kind.All(mirror, vortex.Instances) {
			if i.Value.Wanted != vortex.WantedStateStopped {
				return false
			}
		}
		return true
	})
	moved, err := kind.Get(mirror, vortex.Placements, "n1-00000")
	if err != nil {
		t.Fatal(err)
	}
	next := *moved.Value
	next.Release = 2
	if _, err := kind.Put(within(t), mirror, vortex.Placements, &next, moved.ID); err != nil {
		t.Fatal(err)
	}
	held("another release", 5, 5, 2)
	next.Node = "n2"
	if _, err := kind.Put(within(t), mirror, vortex.Placements, &next, moved.ID); err != nil {
		t.Fatal(err)
	}
	held("what is not named any more is gone", 4, 4, 1)
	s.stop()
	if _, err := store.Delete(t.Context(), vortex.Placements.Key("n1-00001")); err != nil {
		t.Fatal(err)
	}
	s.start()
	held("and what is missed is made up for", 3, 3, 1)
	s.stop()
	if _, err := store.Delete(t.Context(), vortex.Placements.Key("n1-00002")); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Compact(t.Context(), store.Revision()); err != nil {
		t.Fatal(err)
	}
	s.start()
	held("also when it was forgotten", 2, 2, 1)
	if kib := mirror.MemoryBytes() >> 10; kib > 20 {
		t.Errorf("the store takes %d KiB beside ten thousand instances elsewhere; want at most 20", kib)
	}
}

func TestSelectionsThatAreRefused(t *testing.T) {
	s := serve(t, kindtest.Open(t))
	for what, hold := range map[string][]kind.Selection{
		"a prefix twice":         {{Prefix: "a:"}, {Prefix: "a:b:"}},
		"a field without index":  {{Prefix: vortex.Placements.Prefix + ":", Filter: &kind.Filter{Field: "epoch", Value: "1"}}},
		"named by nobody":        {{Prefix: "a:", Via: &kind.Via{Prefix: "b:", Fields: []string{"x"}}}},
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
	e := open(t, remote.Config{Servers: []string{outside.addr, member.addr}})
	if got := e.Server(); got != member.addr {
		t.Errorf("%s is followed whole; want %s, which has a store", got, member.addr)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := (remote.Config{Servers: []string{outside.addr}, Token: token}).Open(ctx); err == nil {
		t.Error("a server without a store of its own is followed whole")
	}
	agent := storeOn(t, open(t, remote.Config{Servers: []string{outside.addr}, Hold: placementsOf("n1")}))
	place(t, agent, "n1", 2) // through a server that has no store of its own
	kindtest.Eventually(t, "what is selected comes through it", func() bool { return agent.Len() == 2 && member.service.Store.Len() == 2 })
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
