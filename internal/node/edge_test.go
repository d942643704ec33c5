package node

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vortex"
	"vortex/internal/edge"
	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
)

func TestEdgeIsToldOfRoutersAndNodes(t *testing.T) {
	t.Parallel()
	s := kindtest.Open(t)
	put := func(node string, state vortex.LivenessState) {
		t.Helper()
		if _, err := kind.Put(t.Context(), s, vortex.Liveness, &vortex.LivenessRecord{Node: node, State: state}, node); err != nil {
			t.Fatal(err)
		}
	}
	put("n1", vortex.LivenessStateReady)
	put("n2", vortex.LivenessStateDown)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	updates := make(chan edge.RouterUpdate)
	go func() {
		defer close(updates)
		for u, err := range (routers{s}).WatchRouters(ctx) {
			if err != nil {
				t.Error(err)
			}
			updates <- u
		}
	}()
	expect := func(reset bool, want ...edge.NodeChange) {
		t.Helper()
		u := <-updates
		if diff := cmp.Diff(want, u.Nodes); diff != "" || u.Reset != reset {
			t.Errorf("reset %v: %s", u.Reset, diff)
		}
	}
	expect(true, edge.NodeChange{Node: "n1"}, edge.NodeChange{Node: "n2", Gone: true, Given: true})
	put("n1", vortex.LivenessStateSuspect)
	expect(false, edge.NodeChange{Node: "n1", Gone: true})
	put("n1", vortex.LivenessStateReady)
	expect(false, edge.NodeChange{Node: "n1"})
	router := vortex.RouterRecord{ClientID: "web", Backends: []vortex.Backend{}}
	if _, err := kind.Put(t.Context(), s, vortex.Routers, &router, "web"); err != nil {
		t.Fatal(err)
	}
	if u := <-updates; len(u.Changes) != 1 || u.Changes[0].App != "web" || u.Nodes != nil {
		t.Errorf("got %+v", u)
	}
	if _, err := s.Delete(t.Context(), vortex.Liveness.Key("n2")); err != nil {
		t.Fatal(err)
	}
	expect(false, edge.NodeChange{Node: "n2"})
	cancel()
	for range updates { // until it has ended
	}
}
