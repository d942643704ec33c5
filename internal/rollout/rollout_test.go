package rollout

import (
	"strings"
	"testing"
	"time"

	"vortex"
)

func TestCrashIsReplacedInTheSamePlan(t *testing.T) {
	w := newWorld(newApp(1, 0), 2)
	w.settle(t)
	w.now = w.now.Add(time.Minute)
	w.kill(w.serving()[0], 137)
	plan := w.step()
	if len(w.alive()) != 2 || !w.told("InstanceReplaced") {
		t.Fatalf("after a kill %d are alive: %+v", len(w.alive()), plan)
	}
	if w.rollout.Failures != nil {
		t.Fatalf("a kill from outside counts as a failed start: %d", *w.rollout.Failures)
	}
}

func TestScaleDownTakesTheOnesThatDoNotServeFirstThenTheYoungest(t *testing.T) {
	w := newWorld(newApp(1, 0), 2)
	w.settle(t)
	oldest := []string{w.serving()[0].ID, w.serving()[1].ID}
	w.now, w.desired = w.now.Add(time.Second), 4
	w.step()
	w.agents()
	w.agents()
	w.desired = 5
	w.step()
	w.desired = 2
	w.step()
	for _, in := range w.alive() {
		if in.ID != oldest[0] && in.ID != oldest[1] {
			t.Errorf("%s stays; want the oldest two, %v", in.ID, oldest)
		}
	}
	if n := len(w.alive()); n != 2 {
		t.Fatalf("%d are alive; want 2", n)
	}
}

func TestFailedStartsAreBackedOffAndGivenUp(t *testing.T) {
	for name, c := range map[string]struct {
		good, revert bool
		want         vortex.RolloutState
	}{
		"first release":              {want: vortex.RolloutStateFailed, revert: true},
		"a good one before":          {want: vortex.RolloutStateReverted, good: true, revert: true},
		"a good one and no reverts":  {want: vortex.RolloutStateFailed, good: true},
		"nothing good and no revert": {want: vortex.RolloutStateFailed},
	} {
		t.Run(name, func(t *testing.T) {
			app := newApp(1, 0)
			app.Spec.Rollout.AutoRevert = &c.revert
			w := newWorld(app, 2)
			if c.good {
				w.settle(t)
				w.change(image("web:broken"))
			}
			for w.rollout == nil || w.rollout.State != c.want {
				plan := w.step()
				for _, in := range w.alive() {
					if in.Container == nil {
						in.Container = &vortex.ContainerRecord{ID: in.ID, StartedAt: w.now}
						w.kill(in, 1)
					}
				}
				w.now = w.now.Add(max(plan.Again, time.Millisecond))
				if w.now.Sub(epoch) > time.Hour {
					t.Fatalf("no end: %+v", w.rollout)
				}
			}
			if !strings.Contains(w.rollout.Message, "exited with code 1") || w.rollout.Instance == "" {
				t.Errorf("the record does not say why: %q, instance %q", w.rollout.Message, w.rollout.Instance)
			}
			if c.good && len(w.serving()) != 2 {
				t.Errorf("%d of the good release serve; want 2", len(w.serving()))
			}
			if c.want == vortex.RolloutStateReverted {
				w.settle(t)
				if w.rollout.Active != 1 || len(w.alive()) != 2 || !w.told("RolloutReverted") {
					t.Errorf("after the revert release %d runs %d instances", w.rollout.Active, len(w.alive()))
				}
			}
		})
	}
}

// A node that is drained loses its instances one after the other, each after another one is healthy, also where releases are recreated.
func TestInstancesLeaveADrainedNodeAfterOthersServe(t *testing.T) {
	for _, strategy := range []vortex.RolloutStrategy{vortex.RolloutStrategyRolling, vortex.RolloutStrategyRecreate} {
		app := newApp(0, 1)
		app.Spec.Rollout.Strategy = strategy
		w := newWorld(app, 3)
		w.settle(t)
		leaving := w.serving()[:2]
		for _, in := range leaving {
			in.Leaving = true
		}
		for range 100 {
			w.step()
			if n := len(w.serving()); n < 3 {
				t.Fatalf("%s: %d serve while instances move; want 3 at least", strategy, n)
			}
			if n := len(w.alive()); n > 4 {
				t.Fatalf("%s: %d are alive while instances move; want one more than 3 at most", strategy, n)
			}
			w.now = w.now.Add(10 * time.Millisecond)
			w.agents()
			w.edges()
		}
		w.settle(t)
		for _, in := range leaving {
			if w.instances[in.ID] != nil {
				t.Errorf("%s: %s is still on the drained node", strategy, in.ID)
			}
		}
		if w.rollout.Release != 1 || !w.told("InstanceMoved") {
			t.Errorf("%s: a drain made release %d; told: %t", strategy, w.rollout.Release, w.told("InstanceMoved"))
		}
	}
}

func TestBackoffGrowsToHalfAMinute(t *testing.T) {
	for failures, want := range map[uint32]time.Duration{0: 0, 1: 0, 2: time.Second, 3: 2 * time.Second, 6: 16 * time.Second, 7: 30 * time.Second, 4_000_000_000: 30 * time.Second} {
		p := &planner{Input: Input{Now: epoch}, status: vortex.RolloutRecord{Failures: &failures, FailedAt: epoch}}
		if got := p.backoff(); got != want {
			t.Errorf("after %d failures it waits %s; want %s", failures, got, want)
		}
	}
}

func TestFailuresAreForgottenAfterAMinuteOfCalm(t *testing.T) {
	w := newWorld(newApp(1, 0), 1)
	w.settle(t)
	w.heal(w.serving()[0])
	w.kill(w.serving()[0], 1) // within shortLife: counts
	w.step()
	if w.rollout.Failures == nil || w.again == 0 || w.again > calm {
		t.Fatalf("failures %v, again in %s; want one, and a look when calm is over", w.rollout.Failures, w.again)
	}
	w.now = w.now.Add(10 * time.Millisecond)
	w.agents()
	w.agents()
	w.now = w.now.Add(calm + time.Second)
	w.step()
	if w.rollout.Failures != nil || w.rollout.Message != "" {
		t.Fatalf("after a calm minute: %d failures, message %q", *w.rollout.Failures, w.rollout.Message)
	}
}

func TestNothingHealthyForTheDeadlineFails(t *testing.T) {
	w := newWorld(newApp(1, 0), 1)
	w.step()
	w.agents() // it runs and never becomes healthy
	for _, in := range w.instances {
		in.Container.HealthDetail = "connection refused"
	}
	w.now = w.now.Add(ProgressDeadline - time.Millisecond)
	w.step()
	if w.rollout.State != vortex.RolloutStateProgressing || w.again > time.Millisecond {
		t.Fatalf("before the deadline: %s, again in %s", w.rollout.State, w.again)
	}
	w.now = w.now.Add(time.Millisecond)
	w.step()
	if w.rollout.State != vortex.RolloutStateFailed || !strings.Contains(w.rollout.Message, "connection refused") {
		t.Fatalf("after the deadline: %s, %q", w.rollout.State, w.rollout.Message)
	}
	w.agents()
	w.settle(t)
	if w.rollout.State != vortex.RolloutStateComplete {
		t.Fatalf("it came up late and is %s; want Complete", w.rollout.State)
	}
}

func TestDeadlineBeginsWithTheFirstInstance(t *testing.T) {
	w := newWorld(newApp(1, 0), 1)
	w.blocked = "waits for db to be healthy"
	w.step()
	if len(w.instances) != 0 || w.rollout.Message != w.blocked {
		t.Fatalf("a blocked app has %d instances and says %q", len(w.instances), w.rollout.Message)
	}
	w.now, w.blocked = w.now.Add(10*ProgressDeadline), ""
	w.step()
	if w.rollout.State != vortex.RolloutStateProgressing || len(w.alive()) != 1 {
		t.Fatalf("when its dependency came late: %s with %d instances", w.rollout.State, len(w.alive()))
	}
}

func TestDrainWaitsForEdgesOrTheTimeout(t *testing.T) {
	for name, free := range map[string]func(w *world, in *Instance){
		"edges let go": func(w *world, in *Instance) { in.Routed = false; w.now = w.now.Add(time.Millisecond) },
		"timeout":      func(w *world, _ *Instance) { w.now = w.now.Add(DrainTimeout) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(newApp(1, 0), 1)
			w.settle(t)
			in := w.serving()[0]
			w.desired = 0
			w.step()
			w.now = w.now.Add(DrainTimeout / 2)
			w.step()
			if in.Wanted != vortex.WantedStateDraining || w.again != DrainTimeout/2 {
				t.Fatalf("it is wanted %s, again in %s; want Draining for the rest of the time", in.Wanted, w.again)
			}
			free(w, in)
			w.step()
			if in.Wanted != vortex.WantedStateStopped {
				t.Fatalf("it is wanted %s; want Stopped", in.Wanted)
			}
			w.agents()
			w.step()
			if len(w.instances) != 0 {
				t.Fatalf("%d instances are left", len(w.instances))
			}
		})
	}
}

func TestDrainIsNeverOverInThePlanThatBeginsIt(t *testing.T) {
	w := newWorld(newApp(1, 0), 1)
	w.settle(t)
	in := w.serving()[0]
	in.Routed, w.desired = false, 0 // healthy, and no router that we know of lists it yet
	w.step()
	if in.Wanted != vortex.WantedStateDraining || w.again == 0 {
		t.Fatalf("it is wanted %s, again in %s; a router may be about to list it", in.Wanted, w.again)
	}
}

func TestRecreateAndHostPortsWaitForTheOldToBeGone(t *testing.T) {
	for name, edit := range map[string]func(*vortex.App){
		"recreate":   func(a *vortex.App) { a.Rollout.Strategy = vortex.RolloutStrategyRecreate },
		"host ports": func(a *vortex.App) { a.Spec.Ports = []vortex.Port{{ContainerPort: 80, HostPort: new(uint16(8080))}} },
	} {
		t.Run(name, func(t *testing.T) {
			app := newApp(1, 0)
			edit(&app.Spec)
			w := newWorld(app, 2)
			w.settle(t)
			w.change(image("web:2"))
			for w.rollout.State != vortex.RolloutStateComplete || w.rollout.Release != 2 {
				w.step()
				running := map[uint64]bool{}
				for _, in := range w.where(func(i *Instance) bool { return !i.gone() || i.alive() }) {
					running[in.Release] = true
				}
				if len(running) > 1 {
					t.Fatal("two releases exist side by side")
				}
				w.now = w.now.Add(10 * time.Millisecond)
				w.agents()
				w.edges()
			}
		})
	}
}

func TestStopAndStart(t *testing.T) {
	w := newWorld(newApp(1, 0), 2)
	w.settle(t)
	stopped := *w.app
	stopped.Stopped = new(true)
	w.app, w.desired = &stopped, 0
	w.step()
	for _, in := range w.instances {
		if in.Reason != "the app was stopped" {
			t.Errorf("reason %q", in.Reason)
		}
	}
	w.settle(t)
	if len(w.instances) != 0 || w.rollout.State != vortex.RolloutStateComplete {
		t.Fatalf("stopped: %d instances, %s", len(w.instances), w.rollout.State)
	}
	w.desired = 2
	w.settle(t)
	if len(w.serving()) != 2 || w.rollout.Release != 1 {
		t.Fatalf("started again: %d serve of release %d", len(w.serving()), w.rollout.Release)
	}
}

func TestReleaseThatNeverServedIsNoneToGoBackTo(t *testing.T) {
	w := newWorld(newApp(1, 0), 1)
	w.settle(t)
	w.desired = 0
	w.settle(t)
	w.change(image("web:broken"))
	w.settle(t)
	if w.rollout.State != vortex.RolloutStateComplete || *w.rollout.Good != 1 {
		t.Fatalf("scaled to zero: %s, good is %d; want Complete and 1", w.rollout.State, *w.rollout.Good)
	}
	w.desired = 1
	for range 20 {
		w.step()
		for _, in := range w.alive() {
			if in.Container == nil && in.Release == 2 {
				in.Container = &vortex.ContainerRecord{ID: in.ID}
				w.kill(in, 1)
			}
		}
		w.now = w.now.Add(time.Second)
	}
	if w.rollout.State != vortex.RolloutStateReverted || w.rollout.Active != 1 {
		t.Fatalf("when it was tried: %s, release %d", w.rollout.State, w.rollout.Active)
	}
}

func TestDeletedAppLeavesNothing(t *testing.T) {
	w := newWorld(newApp(1, 0), 2)
	w.settle(t)
	w.change(image("web:2"))
	w.step()
	w.app, w.desired = nil, 0
	for range 20 {
		w.step()
		w.now = w.now.Add(10 * time.Millisecond)
		w.agents()
		w.edges()
	}
	if len(w.instances) != 0 || len(w.releases) != 0 || w.rollout != nil {
		t.Fatalf("left: %d instances, %d releases, rollout %v", len(w.instances), len(w.releases), w.rollout)
	}
}

func TestAppDeletedAndMadeAgainIsNewFromTheStart(t *testing.T) {
	for name, generations := range map[string]int{"same generation": 0, "older generation": 3} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(newApp(1, 0), 1)
			w.settle(t)
			for range generations {
				w.change(func(a *vortex.App) { a.Metadata.Labels = map[string]string{"x": w.now.String()} })
				w.settle(t)
			}
			last := w.rollout.Release
			w.app = newApp(1, 0)
			w.app.Spec.Spec.Image = "other:1"
			w.step()
			if w.rollout.Release != last+1 || w.rollout.Good != nil {
				t.Fatalf("the new app runs release %d and may go back to %v; want %d and nothing", w.rollout.Release, w.rollout.Good, last+1)
			}
			w.settle(t)
			if got := w.releases[w.serving()[0].Release].Spec.Spec.Image; got != "other:1" {
				t.Fatalf("%s serves; want other:1", got)
			}
		})
	}
}

func TestSpecChangeWithoutNewTemplateKeepsInstances(t *testing.T) {
	w := newWorld(newApp(1, 0), 2)
	w.settle(t)
	before := w.serving()[0].ID
	w.change(func(a *vortex.App) { a.Metadata.Labels = map[string]string{"tier": "front"} })
	w.settle(t)
	if w.serving()[0].ID != before || w.rollout.Release != 2 || w.rollout.Generation != 2 {
		t.Fatalf("a label changed: %s serves, was %s; release %d", w.serving()[0].ID, before, w.rollout.Release)
	}
}

func TestOldReleasesAndFailedInstancesArePruned(t *testing.T) {
	w := newWorld(newApp(1, 0), 1)
	for n := range 3 * keepReleases {
		w.change(image("web:" + string(rune('a'+n))))
		w.settle(t)
	}
	if len(w.releases) > keepReleases+1 {
		t.Errorf("%d releases are kept; want about %d", len(w.releases), keepReleases)
	}
	for range 3 * keepFailed {
		w.now = w.now.Add(time.Hour)
		w.kill(w.serving()[0], 1)
		w.settle(t)
	}
	if failed := w.where(func(i *Instance) bool { return i.Failed != nil }); len(failed) != keepFailed {
		t.Errorf("%d failed instances are kept for their logs; want %d", len(failed), keepFailed)
	}
}

func TestLostNodeIsReplacedAndForgotten(t *testing.T) {
	w := newWorld(newApp(1, 0), 2)
	w.settle(t)
	w.serving()[0].Lost = true
	w.step()
	if len(w.alive()) != 2 || len(w.instances) != 2 {
		t.Fatalf("%d alive of %d; want the lost one replaced and dropped", len(w.alive()), len(w.instances))
	}
}
