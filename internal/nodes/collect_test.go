package nodes_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
	"vortex/internal/nodes"
)

func keep[T any](t *testing.T, store *kind.Store, table vortex.Table[T], rec T, id ...string) {
	t.Helper()
	if _, err := kind.Put(t.Context(), store, table, &rec, id...); err != nil {
		t.Fatal(err)
	}
}

// What a node left behind that stays down goes, except what is still placed there, and itself only once it was put out of the cluster.
func TestWhatALostNodeLeftBehindIsCollected(t *testing.T) {
	store := kindtest.Open(t)
	beats := &nodes.Heartbeats{}
	for _, name := range []string{"here", "lost"} {
		keep(t, store, vortex.Nodes, vortex.NodeRecord{ID: name, Name: name, Drivers: []string{"sim"}}, name)
		keep(t, store, vortex.Identities, vortex.IdentityRecord{Name: name, Role: vortex.ClusterRoleAgent, JoinedAt: time.Now()}, name)
		keep(t, store, vortex.Metrics, vortex.ClientMetrics{ClientID: "web", CurrentRPS: 7, Edge: name}, "web", name)
		for _, kindOf := range []string{"replaced", "placed"} {
			id := kindOf + "-" + name
			keep(t, store, vortex.Containers, vortex.ContainerRecord{ID: id, ClientID: "web", Node: name, Status: vortex.ContainerStatusRunning}, id)
		}
		keep(t, store, vortex.Placements, vortex.PlacementRecord{Instance: "placed-" + name, ClientID: "web", Node: name}, "placed-"+name)
	}
	keep(t, store, vortex.Clusters, vortex.ClusterRecord{ID: "c", Epoch: 1, CreatedAt: time.Now()}, "self")
	keep(t, store, vortex.Cordons, vortex.CordonRecord{Node: "lost", Since: time.Now()}, "lost")
	keep(t, store, vortex.NodeLabels, vortex.LabelsRecord{Node: "lost", Labels: map[string]string{"zone": "eu"}}, "lost")
	keep(t, store, vortex.Subnets, vortex.SubnetRecord{Node: "lost"}, "10.42.7.0/24")
	m := &nodes.Monitor{
		Writer: kind.Writer{Store: store}, Heartbeats: beats, SuspectAfter: 200 * time.Millisecond, DownAfter: 400 * time.Millisecond,
		CollectAfter: 200 * time.Millisecond, Events: &recorder{}, Log: slog.New(slog.DiscardHandler),
	}
	beats.Beat("here")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = m.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })

	gone := func(key string) func() bool {
		return func() bool { _, err := store.Get(key); return vortex.IsKind(err, vortex.NotFound) }
	}
	kindtest.Eventually(t, "the container that runs elsewhere by now is forgotten", gone(vortex.Containers.Key("replaced-lost")))
	kindtest.Eventually(t, "what its edge saw is forgotten", gone(vortex.Metrics.Key("web", "lost")))
	for _, key := range []string{
		vortex.Containers.Key("placed-lost"), vortex.Containers.Key("replaced-here"), vortex.Metrics.Key("web", "here"), vortex.Nodes.Key("lost"),
		vortex.Cordons.Key("lost"), vortex.NodeLabels.Key("lost"),
	} {
		if gone(key)() {
			t.Errorf("%s was deleted", key)
		}
	}
	for _, key := range []string{vortex.Identities.Key("lost"), vortex.Placements.Key("placed-lost")} {
		if _, err := store.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{
		vortex.Nodes.Key("lost"), vortex.Liveness.Key("lost"), vortex.Subnets.Key("10.42.7.0/24"), vortex.Cordons.Key("lost"), vortex.NodeLabels.Key("lost"),
	} {
		kindtest.Eventually(t, key+" is forgotten with the node that was put out", gone(key))
	}
}
