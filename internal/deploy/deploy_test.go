package deploy_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"vortex"
	"vortex/internal/deploy"
	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
	"vortex/internal/settings"
)

type nowhere struct{}

func (nowhere) Record(vortex.EventRecord) {}

// cluster is a store with a running rollout loop; the test plays the agents and the edge.
type cluster struct {
	*testing.T

	store *kind.Store
}

func run(t *testing.T) cluster {
	t.Helper()
	c := cluster{t, kindtest.Open(t)}
	d := &deploy.Deployer{Writer: kind.Writer{Store: c.store}, Settings: settings.Default(), Events: nowhere{}, Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("rollout: %v", err)
		}
	})
	return c
}

func put[T any](c cluster, table vortex.Table[T], id string, value T) int64 {
	c.Helper()
	rev, err := kind.Put(c.Context(), c.store, table, &value, id)
	if err != nil {
		c.Fatal(err)
	}
	return rev
}

func (c cluster) app(name, image string, generation uint64, edit func(*vortex.AppRecord)) {
	c.Helper()
	rec := vortex.AppRecord{Name: name, Generation: generation, CreatedAt: time.Now(), UpdatedAt: time.Now()}
	rec.Spec.Metadata.Name, rec.Spec.Spec.Image = name, image
	rec.Spec.SetDefaults()
	if edit != nil {
		edit(&rec)
	}
	put(c, vortex.Apps, name, rec)
}

// instances waits for as many instances of an app in a wanted state.
func (c cluster) instances(app string, wanted vortex.WantedState, n int) (found []*vortex.InstanceRecord) {
	c.Helper()
	kindtest.Eventually(c, string(wanted)+" instances of "+app, func() bool {
		found = nil
		for _, e := range kind.All(c.store, vortex.Instances) {
			if e.Value.ClientID == app && e.Value.Wanted == wanted {
				found = append(found, e.Value)
			}
		}
		return len(found) == n
	})
	return found
}

func (c cluster) container(in *vortex.InstanceRecord, status vortex.ContainerStatus, health vortex.Health) {
	c.Helper()
	rec := vortex.ContainerRecord{
		ID: in.ID, ClientID: in.ClientID, Status: status, Health: health, IPAddress: "10.0.0.1", Port: new(uint16(80)),
		Node: "n1", HealthyAt: time.Now().Add(-time.Hour), FinishedAt: time.Now(), Reason: "played",
	}
	put(c, vortex.Containers, in.ID, rec)
}

func (c cluster) healthy(in *vortex.InstanceRecord) {
	c.Helper()
	c.container(in, vortex.ContainerStatusRunning, vortex.HealthHealthy)
}

func (c cluster) router(app string, backends ...string) int64 {
	c.Helper()
	rec := vortex.RouterRecord{ClientID: app, Backends: []vortex.Backend{}}
	for _, id := range backends {
		rec.Backends = append(rec.Backends, vortex.Backend{Instance: id, Address: "10.0.0.1", Port: 80})
	}
	return put(c, vortex.Routers, app, rec)
}

func (c cluster) edge(revision int64, busy ...string) {
	c.Helper()
	put(c, vortex.Edges, "e1", vortex.EdgeRecord{ID: "e1", Node: "n1", Revision: uint64(revision), Busy: busy})
}

func (c cluster) state(app string, want vortex.RolloutState) *vortex.RolloutRecord {
	c.Helper()
	var rec *vortex.RolloutRecord
	kindtest.Eventually(c, "rollout "+string(want), func() bool {
		e, err := kind.Get(c.store, vortex.Rollouts, app)
		rec = e.Value
		return err == nil && rec.State == want
	})
	return rec
}

// stays makes sure that an instance is still wanted as it was after the loop saw everything up to now.
func (c cluster) stays(id string, wanted vortex.WantedState) {
	c.Helper()
	probe := "probe" + strings.ToLower(time.Now().Format("150405.000000")[7:])
	c.app(probe, "probe:1", 1, nil)
	c.instances(probe, vortex.WantedStateRunning, 1)
	if e, err := kind.Get(c.store, vortex.Instances, id); err != nil || e.Value.Wanted != wanted {
		c.Fatalf("%s is %+v, %v; want it %s", id, e.Value, err, wanted)
	}
}

func TestAppBecomesAReleaseAndInstances(t *testing.T) {
	c := run(t)
	c.app("web", "web:1", 1, nil)
	in := c.instances("web", vortex.WantedStateRunning, 1)[0]
	if _, err := kind.Get(c.store, vortex.Releases, "web", "1"); err != nil || !strings.HasPrefix(in.ID, "web-1-") {
		t.Fatalf("instance %s, release: %v", in.ID, err)
	}
	c.healthy(in)
	c.state("web", vortex.RolloutStateComplete)
	put(c, vortex.ScaleJobs, "web", vortex.ScaleJob{ClientID: "web", Target: 4})
	c.instances("web", vortex.WantedStateRunning, 4)
}

func TestDeadContainerIsReplaced(t *testing.T) {
	c := run(t)
	c.app("web", "web:1", 1, nil)
	in := c.instances("web", vortex.WantedStateRunning, 1)[0]
	c.healthy(in)
	c.state("web", vortex.RolloutStateComplete)
	c.container(in, vortex.ContainerStatusDead, vortex.HealthHealthy)
	c.instances("web", vortex.WantedStateStopped, 1)
	if next := c.instances("web", vortex.WantedStateRunning, 1)[0]; next.ID == in.ID {
		t.Fatal("the dead one is still wanted")
	}
}

func TestNodeThatGoesDownLosesItsInstancesAtOnce(t *testing.T) {
	c := run(t)
	c.app("web", "web:1", 1, nil)
	in := c.instances("web", vortex.WantedStateRunning, 1)[0]
	c.healthy(in)
	c.state("web", vortex.RolloutStateComplete)
	put(c, vortex.Liveness, "n1", vortex.LivenessRecord{Node: "n1", State: vortex.LivenessStateDown, Since: time.Now()})
	kindtest.Eventually(t, "it is replaced and forgotten", func() bool {
		_, err := kind.Get(c.store, vortex.Instances, in.ID)
		return err != nil
	})
	c.instances("web", vortex.WantedStateRunning, 1)
}

// TestEachAppGivesItsNodeItsOwnTime has a node down that has just fallen silent.
func TestEachAppGivesItsNodeItsOwnTime(t *testing.T) {
	c := run(t)
	patience := map[string]float64{"patient": 3600, "impatient": 0.2}
	before := map[string]*vortex.InstanceRecord{}
	for name, seconds := range patience {
		c.app(name, "web:1", 1, func(a *vortex.AppRecord) { a.Spec.Spec.LostAfterSeconds = &seconds })
		before[name] = c.instances(name, vortex.WantedStateRunning, 1)[0]
		c.healthy(before[name])
		c.state(name, vortex.RolloutStateComplete)
	}
	put(c, vortex.Liveness, "n1", vortex.LivenessRecord{Node: "n1", State: vortex.LivenessStateDown, Since: time.Now(), SilentSince: time.Now()})
	kindtest.Eventually(t, "the impatient app's instance is replaced", func() bool {
		_, err := kind.Get(c.store, vortex.Instances, before["impatient"].ID)
		return err != nil
	})
	if now := c.instances("patient", vortex.WantedStateRunning, 1)[0]; now.ID != before["patient"].ID {
		t.Error("the patient app's instance was replaced too")
	}
}

func TestSettingsApplyToEveryApp(t *testing.T) {
	c := run(t)
	c.app("web", "web:1", 1, nil)
	c.instances("web", vortex.WantedStateRunning, 1)
	if _, err := c.store.Put(t.Context(), vortex.Settings.Key(settings.ID), []byte(`{"min_replicas":3}`), 0); err != nil {
		t.Fatal(err)
	}
	c.instances("web", vortex.WantedStateRunning, 3)
}

func TestDependencyIsWaitedFor(t *testing.T) {
	c := run(t)
	c.app("web", "web:1", 1, func(a *vortex.AppRecord) {
		a.Spec.Spec.DependsOn = []vortex.Dependency{{App: "db", Condition: vortex.DependencyConditionHealthy}}
	})
	if rec := c.state("web", vortex.RolloutStateProgressing); rec.Message != "waits for db to be healthy" {
		t.Errorf("message %q", rec.Message)
	}
	c.app("db", "db:1", 1, nil)
	db := c.instances("db", vortex.WantedStateRunning, 1)[0]
	c.instances("web", vortex.WantedStateRunning, 0)
	c.healthy(db)
	c.instances("web", vortex.WantedStateRunning, 1)
}

// draining rolls web from release 1 to 2 up to where the old instance drains, listed by the router no more since the
// returned revision, which the edge has not taken in.
func draining(c cluster) (old, next *vortex.InstanceRecord, since int64) {
	c.Helper()
	c.app("web", "web:1", 1, nil)
	old = c.instances("web", vortex.WantedStateRunning, 1)[0]
	c.healthy(old)
	c.edge(c.router("web", old.ID))
	c.state("web", vortex.RolloutStateComplete)
	c.app("web", "web:2", 2, nil)
	for _, in := range c.instances("web", vortex.WantedStateRunning, 2) {
		if in.ID != old.ID {
			next = in
		}
	}
	c.healthy(next)
	c.instances("web", vortex.WantedStateDraining, 1)
	c.stays(old.ID, vortex.WantedStateDraining) // the router lists it
	since = c.router("web", next.ID)
	c.stays(old.ID, vortex.WantedStateDraining) // the edge does not know
	return old, next, since
}

func (c cluster) stopped(in *vortex.InstanceRecord) {
	c.Helper()
	kindtest.Eventually(c, in.ID+" is stopped", func() bool {
		e, err := kind.Get(c.store, vortex.Instances, in.ID)
		return err != nil || e.Value.Wanted == vortex.WantedStateStopped
	})
}

func TestDrainWaitsForTheEdge(t *testing.T) {
	c := run(t)
	old, _, since := draining(c)
	c.edge(since, old.ID)
	c.stays(old.ID, vortex.WantedStateDraining) // the edge finishes requests there
	c.edge(since)
	c.stopped(old)
}

// TestRouterThatGoesOnChangingDoesNotStallADrain changes the router after the drained instance left it.
func TestRouterThatGoesOnChangingDoesNotStallADrain(t *testing.T) {
	c := run(t)
	old, next, since := draining(c)
	c.router("web", next.ID, "another")
	c.edge(since) // the edge knows that old is out, and not of the change after that
	c.stopped(old)
}

func TestDeletedAppDrainsBeforeItLeavesNothing(t *testing.T) {
	c := run(t)
	c.app("web", "web:1", 1, nil)
	in := c.instances("web", vortex.WantedStateRunning, 1)[0]
	c.healthy(in)
	c.edge(c.router("web", in.ID))
	c.state("web", vortex.RolloutStateComplete)
	if _, err := c.store.Delete(t.Context(), vortex.Apps.Key("web")); err != nil {
		t.Fatal(err)
	}
	c.instances("web", vortex.WantedStateDraining, 1)
	if _, err := c.store.Delete(t.Context(), vortex.Routers.Key("web")); err != nil {
		t.Fatal(err)
	}
	deleted := c.store.Revision()
	c.stays(in.ID, vortex.WantedStateDraining) // the edge has not taken the router's end in
	c.edge(deleted)
	c.stopped(in)
	c.container(in, vortex.ContainerStatusDead, vortex.HealthHealthy)
	kindtest.Eventually(t, "nothing is left of web", func() bool {
		return len(c.store.PrefixScan("vortex:release:web")) == 0 && len(c.store.PrefixScan("vortex:rollout:web")) == 0 &&
			len(c.store.PrefixScan("vortex:instance:web-")) == 0
	})
}
