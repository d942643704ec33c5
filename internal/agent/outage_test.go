package agent_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"vortex"
	"vortex/internal/agent"
	"vortex/internal/kind"
	"vortex/internal/kind/engine"
	"vortex/internal/kind/engine/etcd"
	"vortex/internal/kind/kindtest"
	"vortex/internal/kind/ksl"
	"vortex/internal/runtime"
)

// flaky is a real engine that can be taken away.
type flaky struct {
	engine.Engine

	away atomic.Bool
}

var errAway = vortex.Errorf(vortex.Unavailable, "the store is away")

func (f *flaky) Commit(ctx context.Context, txn engine.Txn) (engine.Result, error) {
	if f.away.Load() {
		return engine.Result{}, errAway
	}
	return f.Engine.Commit(ctx, txn)
}

func (f *flaky) ReadIndex(ctx context.Context) (int64, error) {
	if f.away.Load() {
		return 0, errAway
	}
	return f.Engine.ReadIndex(ctx)
}

// openFlaky returns a running store and the engine beneath it.
func openFlaky(t *testing.T) (*kind.Store, *flaky) {
	t.Helper()
	member, err := etcd.Embedded{Dir: t.TempDir()}.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	eng := &flaky{Engine: member}
	schema, err := ksl.Parse("vortex.ksl", vortex.Schema())
	if err != nil {
		t.Fatal(err)
	}
	store, err := kind.Open(t.Context(), kind.Config{Engine: eng, Schema: schema})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = store.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		if err := member.Close(); err != nil {
			t.Error(err)
		}
	})
	return store, eng
}

func TestOutageOfTheStoreLosesNoRecordAndStopsNothing(t *testing.T) {
	store, eng := openFlaky(t)
	d := newSim(t)
	b := &bed{t: t, store: store, events: &recorder{}}
	b.cfg = agent.Config{Node: vortex.NodeRecord{ID: node, Name: node}, Store: store, Events: b.events}
	b.use(d)
	b.start()
	b.place(worker("job"), 10)
	for k := range 10 {
		b.until(fmt.Sprintf("job-%d", k), "is healthy", isHealthy)
	}
	eng.away.Store(true)
	for k := range 5 {
		if err := d.Exit(fmt.Sprintf("job-%d", k), k+1); err != nil {
			t.Fatal(err)
		}
	}
	kindtest.Eventually(t, "the agent saw the exits", func() bool { return b.events.has("InstanceDied", "job-4") })
	b.stop() // and started again while the store is away: what ran goes on
	b.start()
	kindtest.Eventually(t, "instances are found again", func() bool {
		_, err := b.agent.Logs(t.Context(), "job-9", runtime.LogOptions{})
		return err == nil
	})
	if isDead(b.record("job-0")) {
		t.Fatal("a record was written while the store was away")
	}
	eng.away.Store(false)
	for k := range 5 {
		rec := b.until(fmt.Sprintf("job-%d", k), "is dead", isDead)
		if rec.ExitCode == nil || int(*rec.ExitCode) != k+1 {
			t.Errorf("job-%d: %+v", k, rec)
		}
	}
	for k := 5; k < 10; k++ {
		if rec := b.record(fmt.Sprintf("job-%d", k)); !isHealthy(rec) {
			t.Errorf("job-%d was touched by the outage: %+v", k, rec)
		}
	}
	if all, _ := d.List(t.Context()); len(all) != 10 {
		t.Errorf("the driver has %d instances; want 10", len(all))
	}
}

func TestStartThatTheAgentsEndCutShortIsMadeAgain(t *testing.T) {
	d := newSim(t)
	b := newBed(t, imaged{d})
	b.stop()
	hold := make(chan struct{})
	b.cfg.Images = puller{hold: hold}
	b.start()
	b.place(worker("job"), 1)
	b.until("job-0", "is being started", func(c vortex.ContainerRecord) bool { return c.Status == vortex.ContainerStatusProvisioning })
	b.stop()
	if rec := b.record("job-0"); rec.Status != vortex.ContainerStatusProvisioning {
		t.Errorf("the agent's end was recorded as the instance's: %+v", rec)
	}
	close(hold)
	b.start()
	b.until("job-0", "is healthy", isHealthy)
}

func TestAgentThatCannotWorkIsRefusedWithEveryReason(t *testing.T) {
	_, err := agent.New(agent.Config{Default: "oci"})
	for _, want := range []string{"id of its node", "needs a store", `runtime "oci"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v lacks %q", err, want)
		}
	}
}
