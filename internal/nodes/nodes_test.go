package nodes_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
	"vortex/internal/nodes"
)

type recorder struct {
	mu     sync.Mutex
	events []vortex.EventRecord
}

func (r *recorder) Record(ev vortex.EventRecord) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, ev)
}

// cluster is a store with a running node monitor.
type cluster struct {
	*testing.T

	store  *kind.Store
	beats  *nodes.Heartbeats
	events *recorder
	start  func()
	stop   func() // ends the lead
}

func run(t *testing.T, suspect, down time.Duration, names ...string) *cluster {
	t.Helper()
	c := &cluster{T: t, store: kindtest.Open(t), beats: &nodes.Heartbeats{}, events: &recorder{}}
	for _, name := range names {
		rec := vortex.NodeRecord{ID: name, Name: name, Address: "127.0.0.1", CPUMillis: 1000, MemoryBytes: 1 << 30, Drivers: []string{"sim"}}
		if _, err := kind.Put(t.Context(), c.store, vortex.Nodes, &rec, name); err != nil {
			t.Fatal(err)
		}
		c.beats.Beat(name)
	}
	m := &nodes.Monitor{
		Writer: kind.Writer{Store: c.store}, Heartbeats: c.beats, SuspectAfter: suspect, DownAfter: down,
		Events: c.events, Log: slog.New(slog.DiscardHandler),
	}
	c.stop = func() {}
	c.start = func() {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		c.stop = sync.OnceFunc(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("monitor: %v", err)
			}
		})
		t.Cleanup(c.stop)
	}
	c.start()
	for _, name := range names {
		c.state(name, vortex.LivenessStateReady)
	}
	return c
}

func (c *cluster) state(name string, want vortex.LivenessState) {
	c.Helper()
	kindtest.Eventually(c, name+" is "+string(want), func() bool {
		e, err := kind.Get(c.store, vortex.Liveness, name)
		return err == nil && e.Value.State == want
	})
}

func TestSessionThatBreaksIsSuspectAtOnceAndReadyWhenBack(t *testing.T) {
	c := run(t, time.Hour, 2*time.Hour, "n1", "n2", "n3")
	c.beats.End("n1") // no timer can have passed
	c.state("n1", vortex.LivenessStateSuspect)
	c.beats.Beat("n1")
	c.state("n1", vortex.LivenessStateReady)
	kindtest.Eventually(t, "five transitions are told", func() bool {
		c.events.mu.Lock()
		defer c.events.mu.Unlock()
		return len(c.events.events) == 5
	})
}

func TestSilentNodeIsSuspectThenDownThenBack(t *testing.T) {
	c := run(t, time.Hour, 2*time.Hour, "n1")
	c.beats.Silent("n1", "its heartbeats stopped")
	c.state("n1", vortex.LivenessStateSuspect)
	c.beats.Confirm("n1", "nobody reaches it")
	c.state("n1", vortex.LivenessStateDown)
	e, err := kind.Get(c.store, vortex.Liveness, "n1")
	if err != nil || e.Value.SilentSince.IsZero() || e.Value.Reason != "nobody reaches it" {
		t.Errorf("the record: %+v, %v", e.Value, err)
	}
	if silence := e.Value.Since.Sub(e.Value.SilentSince); silence < vortex.DefaultLostAfter {
		t.Errorf("it was given up after %v, before any app's patience ended", silence)
	}
	c.beats.Silent("n1", "still nothing")
	c.beats.Beat("n1")
	c.state("n1", vortex.LivenessStateReady)
}

func TestImpatientAppIsNotKeptWaiting(t *testing.T) {
	c := run(t, time.Hour, 2*time.Hour, "n1")
	soon := 0.01
	app := vortex.AppRecord{Name: "a", Spec: vortex.App{Metadata: vortex.Metadata{Name: "a"}, Spec: vortex.AppSpec{Image: "i", LostAfterSeconds: &soon}}}
	if _, err := kind.Put(t.Context(), c.store, vortex.Apps, &app, "a"); err != nil {
		t.Fatal(err)
	}
	c.beats.Confirm("n1", "nobody reaches it")
	c.state("n1", vortex.LivenessStateDown)
}

func TestNodeThatNobodyHeardIsSuspectThenDown(t *testing.T) {
	c := run(t, 100*time.Millisecond, 300*time.Millisecond)
	rec := vortex.NodeRecord{ID: "n1", Name: "n1", Address: "127.0.0.1", CPUMillis: 1, MemoryBytes: 1, Drivers: []string{"sim"}}
	if _, err := kind.Put(t.Context(), c.store, vortex.Nodes, &rec, "n1"); err != nil {
		t.Fatal(err)
	}
	c.state("n1", vortex.LivenessStateDown)
	c.beats.Beat("n1")
	c.state("n1", vortex.LivenessStateReady)
}

// TestNextLeaderGoesOn has a second monitor over the same memory: it knows at once what the first one knew.
func TestNextLeaderGoesOn(t *testing.T) {
	c := run(t, time.Hour, 2*time.Hour, "n1", "n2", "n3")
	c.stop()
	c.beats.Silent("n1", "its heartbeats stopped")
	c.start()
	c.state("n1", vortex.LivenessStateSuspect)
	c.state("n2", vortex.LivenessStateReady)
}

func TestMoreThanHalfAtOnceIsTheObserversFault(t *testing.T) {
	c := run(t, time.Hour, 2*time.Hour, "n1", "n2", "n3", "n4")
	for _, name := range []string{"n1", "n2", "n3", "n4"} {
		c.beats.End(name)
	}
	// n5 comes while the observer is at fault: its record proves that the monitor looked.
	rec := vortex.NodeRecord{ID: "n5", Name: "n5", Address: "127.0.0.1", CPUMillis: 1, MemoryBytes: 1, Drivers: []string{"sim"}}
	c.beats.Beat("n5")
	if _, err := kind.Put(t.Context(), c.store, vortex.Nodes, &rec, "n5"); err != nil {
		t.Fatal(err)
	}
	c.state("n5", vortex.LivenessStateReady)
	kept := 0
	for _, e := range kind.All(c.store, vortex.Liveness) {
		if e.Value.State == vortex.LivenessStateReady {
			kept++
		}
	}
	if kept < 3 { // at most half may have been believed before the rest failed
		t.Errorf("%d of 5 nodes are still ready", kept)
	}
}

// TestNodesLostOneByOneDoNotStopTheMonitor takes most nodes down in turn, and one back.
func TestNodesLostOneByOneDoNotStopTheMonitor(t *testing.T) {
	names := []string{"n1", "n2", "n3", "n4", "n5"}
	c := run(t, time.Hour, time.Hour, names...)
	for _, name := range names[:3] { // Down, as an earlier monitor saw them
		rec := vortex.LivenessRecord{Node: name, State: vortex.LivenessStateDown, Since: time.Now()}
		if _, err := kind.Put(t.Context(), c.store, vortex.Liveness, &rec, name); err != nil {
			t.Fatal(err)
		}
	}
	c.beats.End("n4")
	c.state("n4", vortex.LivenessStateSuspect)
}
