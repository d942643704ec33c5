package placement_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
	"vortex/internal/placement"
)

type nowhere struct{}

func (nowhere) Record(vortex.EventRecord) {}

func run(t *testing.T) *kind.Store {
	t.Helper()
	store := kindtest.Open(t)
	p := &placement.Placer{Writer: kind.Writer{Store: store}, Events: nowhere{}, Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("scheduler: %v", err)
		}
	})
	return store
}

func put[T any](t *testing.T, s *kind.Store, table vortex.Table[T], id string, value T) {
	t.Helper()
	if _, err := kind.Put(t.Context(), s, table, &value, id); err != nil {
		t.Fatal(err)
	}
}

func putNode(t *testing.T, s *kind.Store, id string, state vortex.LivenessState) {
	t.Helper()
	put(t, s, vortex.Nodes, id, vortex.NodeRecord{ID: id, Name: id, Address: "127.0.0.1", CPUMillis: 1000, MemoryBytes: 1 << 30, Drivers: []string{"sim"}})
	put(t, s, vortex.Liveness, id, vortex.LivenessRecord{Node: id, State: state, Since: time.Now()})
}

func instance(id string, wanted vortex.WantedState, ports ...uint16) vortex.InstanceRecord {
	return vortex.InstanceRecord{
		ID: id, ClientID: "web", Release: 1, Wanted: wanted, HostPorts: ports,
		CPUMillis: new(uint64(600)), MemoryBytes: new(uint64(64 << 20)), CreatedAt: time.Now(),
	}
}

func placed(s *kind.Store, id string) (node, explain string) {
	e, err := kind.Get(s, vortex.Placements, id)
	if err != nil {
		return "", ""
	}
	return e.Value.Node, e.Value.Explain
}

func TestInstanceIsPlacedWhenThereIsRoom(t *testing.T) {
	s := run(t)
	put(t, s, vortex.Instances, "a", instance("a", vortex.WantedStateRunning))
	kindtest.Eventually(t, "the reason is told", func() bool { _, why := placed(s, "a"); return strings.Contains(why, "no node") })
	putNode(t, s, "n1", vortex.LivenessStateSuspect)
	kindtest.Eventually(t, "the reason changes", func() bool { _, why := placed(s, "a"); return strings.Contains(why, "not ready") })
	putNode(t, s, "n1", vortex.LivenessStateReady)
	kindtest.Eventually(t, "it is placed", func() bool { node, why := placed(s, "a"); return node == "n1" && why == "" })
	put(t, s, vortex.Instances, "b", instance("b", vortex.WantedStateRunning))
	kindtest.Eventually(t, "the second does not fit", func() bool { _, why := placed(s, "b"); return strings.Contains(why, "CPU") })
	if _, err := s.Delete(t.Context(), vortex.Instances.Key("a")); err != nil {
		t.Fatal(err)
	}
	kindtest.Eventually(t, "the second takes its place", func() bool {
		node, _ := placed(s, "b")
		_, err := s.Get(vortex.Placements.Key("a"))
		return node == "n1" && vortex.IsKind(err, vortex.NotFound)
	})
}

// TestDeadInstanceKeptForItsLogsTakesNoPlace replaces a crashed instance of an app with a host port on the only node.
func TestDeadInstanceKeptForItsLogsTakesNoPlace(t *testing.T) {
	s := run(t)
	putNode(t, s, "n1", vortex.LivenessStateReady)
	put(t, s, vortex.Instances, "a", instance("a", vortex.WantedStateRunning, 8080))
	kindtest.Eventually(t, "a is placed", func() bool { node, _ := placed(s, "a"); return node == "n1" })
	container := vortex.ContainerRecord{ID: "a", ClientID: "web", Status: vortex.ContainerStatusRunning, Node: "n1"}
	put(t, s, vortex.Containers, "a", container)
	put(t, s, vortex.Instances, "a", instance("a", vortex.WantedStateStopped, 8080))
	put(t, s, vortex.Instances, "b", instance("b", vortex.WantedStateRunning, 8080))
	kindtest.Eventually(t, "b waits while a runs", func() bool { _, why := placed(s, "b"); return strings.Contains(why, "host port") })
	container.Status = vortex.ContainerStatusDead
	put(t, s, vortex.Containers, "a", container)
	kindtest.Eventually(t, "b is placed", func() bool { node, _ := placed(s, "b"); return node == "n1" })
}

// TestFailedStartIsNotRepeatedOnItsNode has an instance that could not be started on the node with the most room, and one of long ago.
func TestFailedStartIsNotRepeatedOnItsNode(t *testing.T) {
	s := run(t)
	putNode(t, s, "n1", vortex.LivenessStateReady)
	failed := instance("a", vortex.WantedStateRunning)
	put(t, s, vortex.Instances, "a", failed)
	kindtest.Eventually(t, "a is placed", func() bool { node, _ := placed(s, "a"); return node == "n1" })
	put(t, s, vortex.Containers, "a", vortex.ContainerRecord{ID: "a", ClientID: "web", Status: vortex.ContainerStatusDead, Node: "n1"})
	failed.Wanted, failed.Failed = vortex.WantedStateStopped, new(true)
	put(t, s, vortex.Instances, "a", failed)
	putNode(t, s, "n2", vortex.LivenessStateReady)
	running := instance("b", vortex.WantedStateRunning)
	running.CPUMillis = new(uint64(10))
	put(t, s, vortex.Instances, "b", running)
	kindtest.Eventually(t, "b is placed", func() bool { node, _ := placed(s, "b"); return node != "" })
	running.ID = "c"
	put(t, s, vortex.Instances, "c", running)
	kindtest.Eventually(t, "c is placed", func() bool { node, _ := placed(s, "c"); return node != "" })
	for _, id := range []string{"b", "c"} {
		if node, _ := placed(s, id); node != "n2" {
			t.Errorf("%s is on %s, where an instance could not be started", id, node)
		}
	}
	failed.CreatedAt = time.Now().Add(-time.Hour)
	put(t, s, vortex.Instances, "a", failed)
	running.ID = "d"
	put(t, s, vortex.Instances, "d", running)
	kindtest.Eventually(t, "what failed long ago counts no more", func() bool { node, _ := placed(s, "d"); return node == "n1" })
}
