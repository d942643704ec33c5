package agent_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
	"vortex/internal/runtime"
)

func TestPlacedInstanceRunsAndIsHealthy(t *testing.T) {
	b := newBed(t, newSim(t))
	b.place(worker("job"), 1)
	rec := b.until("job-0", "is healthy", isHealthy)
	if rec.IPAddress == "" || rec.Node != node || rec.Driver != "sim" || *rec.Release != 1 || *rec.Epoch != 1 {
		t.Errorf("record lacks what others need: %+v", rec)
	}
	if rec.StartedAt.IsZero() || rec.HealthyAt.IsZero() || rec.CreatedAt.IsZero() {
		t.Errorf("record lacks times: %+v", rec)
	}
	for _, typ := range []string{"InstanceStarted", "InstanceHealthy"} {
		if !b.events.has(typ, "job-0") {
			t.Errorf("no event %s", typ)
		}
	}
	if n, err := kind.Get(b.store, vortex.Nodes, node); err != nil || len(n.Value.Drivers) != 1 || n.Value.StartedAt.IsZero() {
		t.Errorf("node record: %+v, %v", n.Value, err)
	}
}

func TestExitIsRecordedAtOnce(t *testing.T) {
	d := newSim(t)
	b := newBed(t, d)
	b.place(worker("job"), 1)
	b.until("job-0", "is healthy", isHealthy)
	if err := d.Exit("job-0", 3); err != nil {
		t.Fatal(err)
	}
	rec := b.until("job-0", "is dead", isDead)
	if rec.ExitCode == nil || *rec.ExitCode != 3 || rec.FinishedAt.IsZero() || rec.Health == vortex.HealthHealthy {
		t.Errorf("dead record: %+v", rec)
	}
	if !strings.Contains(rec.Reason, "3") {
		t.Errorf("reason %q does not name the exit code", rec.Reason)
	}
	if !b.events.has("InstanceDied", "job-0") {
		t.Error("no event InstanceDied")
	}
	// A dead instance is not started again, whatever else changes.
	b.want("job-0", vortex.WantedStateRunning, "again")
	b.place(worker("other"), 1)
	b.until("other-0", "is healthy", isHealthy)
	if !isDead(b.record("job-0")) {
		t.Error("a dead instance was started again")
	}
}

func TestDeadInstancePlacedAnewStartsAgain(t *testing.T) {
	d := newSim(t)
	b := newBed(t, d)
	b.place(worker("job"), 1)
	b.until("job-0", "is healthy", isHealthy)
	if err := d.Kill("job-0"); err != nil {
		t.Fatal(err)
	}
	b.until("job-0", "is dead", isDead)
	b.place(worker("job"), 1, func(p *vortex.PlacementRecord) { p.Epoch = 2 })
	rec := b.until("job-0", "is healthy again", isHealthy)
	if *rec.Epoch != 2 || rec.ExitCode != nil || !rec.FinishedAt.IsZero() {
		t.Errorf("record of the second life holds the first: %+v", rec)
	}
}

func TestDrainingRunsOnAndStoppedKeepsRecordAndLogs(t *testing.T) {
	b := newBed(t, newProcess(t, t.TempDir()))
	b.place(program("web", vortex.AppTypeWorker, "print", "2"), 1)
	b.until("web-0", "is healthy", isHealthy)
	b.want("web-0", vortex.WantedStateDraining, "scaled in")
	b.place(program("other", vortex.AppTypeWorker, "sleep"), 1)
	b.until("other-0", "is healthy", isHealthy)
	if !isHealthy(b.record("web-0")) {
		t.Fatalf("a draining instance must stay healthy: %+v", b.record("web-0"))
	}
	b.want("web-0", vortex.WantedStateStopped, "scaled in")
	rec := b.until("web-0", "is dead", isDead)
	if rec.ExitCode == nil || !strings.Contains(rec.Reason, "scaled in") {
		t.Errorf("stopped record: %+v", rec)
	}
	if b.events.has("InstanceDied", "web-0") || !b.events.has("InstanceStopped", "web-0") {
		t.Error("a wanted stop was recorded as a death")
	}
	entries, err := b.agent.Logs(t.Context(), "web-0", runtime.LogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for e, err := range entries {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, e.Line)
	}
	if len(lines) == 0 {
		t.Error("the logs of a stopped instance are gone")
	}
	b.unplace("web-0")
	b.until("web-0", "is gone", isGone)
	if _, err := b.agent.Logs(t.Context(), "web-0", runtime.LogOptions{}); !vortex.IsKind(err, vortex.NotFound) {
		t.Errorf("logs of a removed instance: %v; want NotFound", err)
	}
}

func TestInstanceNoLongerPlacedIsRemoved(t *testing.T) {
	d := newSim(t)
	b := newBed(t, d)
	b.place(worker("job"), 2)
	b.until("job-0", "is healthy", isHealthy)
	b.until("job-1", "is healthy", isHealthy)
	b.unplace("job-0")
	b.until("job-0", "is gone", isGone)
	b.commit(kind.DeleteOp(vortex.Instances, "job-1"))
	b.until("job-1", "is gone", isGone)
	if all, _ := d.List(t.Context()); len(all) != 0 {
		t.Errorf("the driver still has %v", all)
	}
}

func TestPlacementOnAnotherNodeIsNotOurs(t *testing.T) {
	d := newSim(t)
	b := newBed(t, d)
	b.place(worker("theirs"), 1, func(p *vortex.PlacementRecord) { p.Node = "n2" })
	b.place(worker("ours"), 1)
	b.until("ours-0", "is healthy", isHealthy)
	if all, _ := d.List(t.Context()); len(all) != 1 {
		t.Errorf("the driver has %d instances; want 1", len(all))
	}
	// When it moves away after we ran it, the new node's record is not deleted with ours.
	moved := b.record("ours-0")
	moved.Node = "n2"
	b.place(worker("ours"), 1, func(p *vortex.PlacementRecord) { p.Node = "n2" })
	b.commit(must[kind.Op](t)(kind.PutOp(vortex.Containers, &moved, "ours-0")))
	kindtest.Eventually(t, "driver is empty", func() bool { all, _ := d.List(t.Context()); return len(all) == 0 })
}

func TestInstanceWaitsForItsRelease(t *testing.T) {
	b := newBed(t, newSim(t))
	op := must[kind.Op](t)
	b.commit(
		op(kind.PutOp(vortex.Instances, &vortex.InstanceRecord{ID: "late-0", ClientID: "late", Release: 7, Wanted: vortex.WantedStateRunning}, "late-0")),
		op(kind.PutOp(vortex.Placements, &vortex.PlacementRecord{Instance: "late-0", ClientID: "late", Node: node, Release: 7, Epoch: 1}, "late-0")))
	b.place(worker("other"), 1)
	b.until("other-0", "is healthy", isHealthy)
	b.commit(op(kind.PutOp(vortex.Releases, &vortex.ReleaseRecord{ClientID: "late", Number: 7, Hash: "h", Spec: worker("late")}, "late", "7")))
	b.until("late-0", "is healthy", isHealthy)
}

// puller is an image store whose answer the test chooses.
type puller struct {
	err  error
	hold chan struct{} // Ensure waits for it when not nil
}

func (p puller) Ensure(ctx context.Context, ref string, progress func(string)) error {
	progress("1 of 2 layers")
	if p.hold != nil {
		select {
		case <-p.hold:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return p.err
}

// imaged is a driver that uses images.
type imaged struct{ runtime.Driver }

func (imaged) Name() string { return "oci" }

func TestImageThatCannotBeHadIsTheReason(t *testing.T) {
	b := newBed(t, imaged{newSim(t)})
	b.stop()
	b.cfg.Images = puller{err: vortex.Errorf(vortex.NotFound, "no image img in the registry; check its name")}
	b.start()
	b.place(worker("job"), 1)
	rec := b.until("job-0", "is dead", isDead)
	if !strings.Contains(rec.Reason, "no image img in the registry; check its name") || rec.ExitCode != nil {
		t.Errorf("record: %+v", rec)
	}
	if !b.events.has("StartFailed", "job-0") {
		t.Error("no event StartFailed")
	}
}

func TestFaultsOfOursAreNotShown(t *testing.T) {
	b := newBed(t, imaged{newSim(t)})
	b.stop()
	b.cfg.Images = puller{err: errors.New("open /secret/path: boom")}
	b.start()
	b.place(worker("job"), 1)
	rec := b.until("job-0", "is dead", isDead)
	if strings.Contains(rec.Reason, "secret") || !strings.Contains(rec.Reason, "internal error") {
		t.Errorf("reason %q", rec.Reason)
	}
}

func TestPullShowsItsProgressAndCanBeCalledOff(t *testing.T) {
	d := newSim(t)
	b := newBed(t, imaged{d})
	b.stop()
	hold := make(chan struct{})
	b.cfg.Images = puller{hold: hold}
	b.start()
	app := worker("job")
	app.Metadata.Name, app.Spec.Type = "job", vortex.AppTypeWorker
	b.place(app, 2)
	b.until("job-0", "shows its progress", func(c vortex.ContainerRecord) bool {
		return c.Status == vortex.ContainerStatusProvisioning && strings.Contains(c.Reason, "pulling image img: 1 of 2 layers")
	})
	b.want("job-0", vortex.WantedStateStopped, "never mind")
	rec := b.until("job-0", "is dead", isDead)
	if !strings.Contains(rec.Reason, "before it ran") {
		t.Errorf("reason %q", rec.Reason)
	}
	b.unplace("job-0")
	b.until("job-0", "is gone", isGone)
	close(hold)
	b.until("job-1", "is running", isRunning)
	if !b.events.has("ImagePulled", "job-1") {
		t.Error("no event ImagePulled")
	}
}

func TestRuntimeThatTheNodeLacks(t *testing.T) {
	b := newBed(t, newSim(t))
	app := worker("job")
	app.Spec.Runtime = vortex.RuntimeNameDocker
	b.place(app, 1)
	rec := b.until("job-0", "is dead", isDead)
	if !strings.Contains(rec.Reason, `no runtime "docker"`) || !strings.Contains(rec.Reason, "sim") {
		t.Errorf("reason %q does not say what the node has", rec.Reason)
	}
}

func TestSweepFindsALoss(t *testing.T) {
	d := newSim(t)
	b := newBed(t, d)
	b.stop()
	b.cfg.Sweep = 20 * time.Millisecond
	b.start()
	b.place(worker("job"), 1)
	b.until("job-0", "is healthy", isHealthy)
	if err := d.Remove(t.Context(), "job-0"); err != nil { // behind the agent's back
		t.Fatal(err)
	}
	b.until("job-0", "is dead", isDead)
}

func TestSweepWritesLostRecordsAgainAndRemovesStrays(t *testing.T) {
	d := newSim(t)
	b := newBed(t, d)
	b.stop()
	b.cfg.Sweep = 20 * time.Millisecond
	b.start()
	b.place(worker("job"), 1)
	b.until("job-0", "is healthy", isHealthy)
	ghost := vortex.ContainerRecord{ID: "ghost", ClientID: "job", Status: vortex.ContainerStatusRunning, Node: node}
	b.commit(kind.DeleteOp(vortex.Containers, "job-0"), must[kind.Op](t)(kind.PutOp(vortex.Containers, &ghost, "ghost")))
	if _, err := d.Start(t.Context(), runtime.InstanceSpec{ID: "stray", App: "job"}); err != nil {
		t.Fatal(err)
	}
	b.until("job-0", "has its record again", isHealthy)
	b.until("ghost", "is gone", isGone)
	kindtest.Eventually(t, "stray is removed", func() bool { all, _ := d.List(t.Context()); return len(all) == 1 })
}

func TestHundredInstancesAtOnce(t *testing.T) {
	d := newSim(t)
	b := newBed(t, d)
	before := b.store.Revision()
	b.place(worker("many"), 100)
	for k := range 100 {
		b.until(fmt.Sprintf("many-%d", k), "is healthy", isHealthy)
	}
	t.Logf("%d transactions for 100 starts", b.store.Revision()-before-1)
	for k := range 100 {
		b.unplace(fmt.Sprintf("many-%d", k))
	}
	for k := range 100 {
		b.until(fmt.Sprintf("many-%d", k), "is gone", isGone)
	}
}

func TestStopOnExitLeavesNothing(t *testing.T) {
	d := newSim(t)
	b := newBed(t, d)
	b.stop()
	b.cfg.StopOnExit = true
	b.start()
	b.place(worker("job"), 5)
	for k := range 5 {
		b.until(fmt.Sprintf("job-%d", k), "is healthy", isHealthy)
	}
	b.stop()
	if all, _ := d.List(t.Context()); len(all) != 0 {
		t.Errorf("the driver still has %v", all)
	}
	if !isGone(b.record("job-0")) {
		t.Errorf("a record is left: %+v", b.record("job-0"))
	}
}
