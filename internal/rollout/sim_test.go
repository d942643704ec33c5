package rollout

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"vortex"
)

// world plays the store, the agents and the edges around one app: it applies plans and lets instances come up,
// fail, die and exit.
type world struct {
	now       time.Time
	app       *vortex.AppRecord
	desired   uint32
	blocked   string
	releases  map[uint64]vortex.ReleaseRecord
	rollout   *vortex.RolloutRecord
	instances map[string]*Instance
	ids       int
	again     time.Duration
	events    []vortex.EventRecord
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// newApp returns an app of one release with a policy, whose template is told apart by its image.
func newApp(surge, unavailable uint32) *vortex.AppRecord {
	spec := vortex.App{Metadata: vortex.Metadata{Name: "web"}}
	spec.Spec.Image = "web:1"
	spec.Rollout = &vortex.RolloutPolicy{MaxSurge: &surge, MaxUnavailable: &unavailable}
	spec.SetDefaults()
	return &vortex.AppRecord{Name: "web", Spec: spec, Generation: 1, CreatedAt: epoch, UpdatedAt: epoch}
}

func newWorld(app *vortex.AppRecord, desired uint32) *world {
	return &world{
		now: epoch, app: app, desired: desired,
		releases: map[uint64]vortex.ReleaseRecord{}, instances: map[string]*Instance{},
	}
}

// change applies a new spec.
func (w *world) change(edit func(*vortex.App)) {
	app := *w.app
	edit(&app.Spec)
	app.Generation++
	w.app = &app
}

func image(name string) func(*vortex.App) {
	return func(a *vortex.App) { a.Spec.Image = name }
}

func (w *world) input() Input {
	in := Input{Now: w.now, Name: "web", App: w.app, Desired: w.desired, Blocked: w.blocked}
	for _, n := range slices.Sorted(maps.Keys(w.releases)) {
		in.Releases = append(in.Releases, w.releases[n])
	}
	if w.rollout != nil {
		in.Rollout = new(*w.rollout)
	}
	for _, id := range slices.Sorted(maps.Keys(w.instances)) {
		copied := *w.instances[id]
		if copied.Container != nil {
			copied.Container = new(*copied.Container)
		}
		in.Instances = append(in.Instances, copied)
	}
	ids := w.ids
	in.NewID = func(release uint64) string { ids++; return fmt.Sprintf("web-%d-%04d", release, ids) }
	return in
}

// step asks for the next plan and applies it.
func (w *world) step() Plan {
	plan := Next(w.input())
	if plan.Release != nil {
		w.releases[plan.Release.Number] = *plan.Release
	}
	if plan.Rollout != nil {
		w.rollout = plan.Rollout
	}
	for _, rec := range plan.Put {
		if known := w.instances[rec.ID]; known != nil {
			known.InstanceRecord = rec
		} else {
			w.ids++
			w.instances[rec.ID] = &Instance{InstanceRecord: rec}
		}
	}
	for _, id := range plan.Drop {
		delete(w.instances, id)
	}
	for _, n := range plan.DropReleases {
		delete(w.releases, n)
	}
	if plan.DropRollout {
		w.rollout = nil
	}
	w.again, w.events = plan.Again, append(w.events, plan.Events...)
	return plan
}

// agents lets every node do what is wanted: instances start, become healthy, stop and exit.
func (w *world) agents() {
	for _, in := range w.instances {
		switch {
		case in.Wanted == vortex.WantedStateRunning && in.Container == nil:
			in.Container = &vortex.ContainerRecord{ID: in.ID, Status: vortex.ContainerStatusRunning, Health: vortex.HealthUnknown, StartedAt: w.now}
		case in.Wanted == vortex.WantedStateRunning && in.Container.Health == vortex.HealthUnknown && !in.dead():
			w.heal(in)
		case in.Wanted == vortex.WantedStateStopped && in.Container != nil && !in.dead():
			w.kill(in, 0)
		}
	}
}

func (w *world) heal(in *Instance) {
	in.Container.Health, in.Container.HealthyAt = vortex.HealthHealthy, w.now
	in.Routed = true
}

func (w *world) kill(in *Instance, code int32) {
	in.Container.Status, in.Container.ExitCode, in.Container.FinishedAt = vortex.ContainerStatusDead, &code, w.now
	in.Container.Reason = fmt.Sprintf("exited with code %d", code)
	in.Routed = false
}

// edges lets every edge take in what the routers say.
func (w *world) edges() {
	for _, in := range w.instances {
		in.Routed = in.healthy()
	}
}

// settle runs until nothing changes any more, jumping over waits.
func (w *world) settle(t interface{ Fatalf(string, ...any) }) {
	for range 500 {
		plan := w.step()
		idle := plan.Release == nil && plan.Rollout == nil && len(plan.Put) == 0 && len(plan.Drop) == 0
		if idle && w.quiet() {
			return
		}
		w.now = w.now.Add(10 * time.Millisecond)
		w.agents()
		w.edges()
		if idle {
			w.now = w.now.Add(w.again)
		}
	}
	t.Fatalf("the rollout did not settle: %+v", w.rollout)
}

// quiet reports whether every instance is as it is wanted.
func (w *world) quiet() bool {
	for _, in := range w.instances {
		if in.Wanted == vortex.WantedStateDraining || in.alive() && !in.healthy() || in.Wanted == vortex.WantedStateStopped && !in.gone() {
			return false
		}
	}
	return len(w.serving()) >= int(w.desired)
}

func (w *world) where(ok func(*Instance) bool) []*Instance {
	var found []*Instance
	for _, id := range slices.Sorted(maps.Keys(w.instances)) {
		if in := w.instances[id]; ok(in) {
			found = append(found, in)
		}
	}
	return found
}

func (w *world) serving() []*Instance { return w.where((*Instance).healthy) }
func (w *world) alive() []*Instance   { return w.where((*Instance).alive) }

func (w *world) told(what string) bool {
	return slices.ContainsFunc(w.events, func(e vortex.EventRecord) bool { return e.Type == what })
}

// TestRollingChangeHoldsItsBounds lets apps change their spec and size while instances come up, die and vanish at
// random, and holds every plan to the promise of the package.
func TestRollingChangeHoldsItsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		surge := rapid.Uint32Range(0, 3).Draw(t, "surge")
		unavailable := rapid.Uint32Range(0, 3).Draw(t, "unavailable")
		w := newWorld(newApp(surge, unavailable), rapid.Uint32Range(0, 6).Draw(t, "desired"))
		if surge == 0 && unavailable == 0 {
			surge = 1
		}
		for range rapid.IntRange(5, 60).Draw(t, "steps") {
			w.disturb(t)
			before := len(w.serving())
			over := len(w.alive())
			w.step()
			if floor := min(before, int(w.desired)-int(unavailable)); len(w.serving()) < floor {
				t.Fatalf("a plan left %d serving, %d before, %d desired, %d may be missing", len(w.serving()), before, w.desired, unavailable)
			}
			if most := max(over, int(w.desired+surge)); len(w.alive()) > most {
				t.Fatalf("a plan made %d alive, %d before; %d desired, %d more are allowed", len(w.alive()), over, w.desired, surge)
			}
		}
		w.settle(t)
		if got := len(w.serving()); got != int(w.desired) {
			t.Fatalf("%d serve in the end; want %d", got, w.desired)
		}
		newest := w.releases[w.rollout.Active].Hash
		for _, in := range w.serving() {
			if w.releases[in.Release].Hash != newest {
				t.Fatalf("%s of release %d still serves beside release %d", in.ID, in.Release, w.rollout.Active)
			}
		}
		if len(w.releases) > keepReleases+keepFailed+2 {
			t.Fatalf("%d releases are kept", len(w.releases))
		}
	})
}

// disturb lets time pass and something happen.
func (w *world) disturb(t *rapid.T) {
	w.now = w.now.Add(time.Duration(rapid.IntRange(1, 20_000).Draw(t, "millis")) * time.Millisecond)
	switch rapid.IntRange(0, 9).Draw(t, "what") {
	case 0:
		w.change(image(rapid.SampledFrom([]string{"web:1", "web:2", "web:3"}).Draw(t, "image")))
	case 1:
		w.desired = rapid.Uint32Range(0, 6).Draw(t, "desired")
	case 2, 3:
		w.one(t, func(in *Instance) {
			if in.Container != nil && !in.dead() {
				w.kill(in, rapid.SampledFrom([]int32{1, 137}).Draw(t, "code"))
			}
		})
	case 4:
		w.one(t, func(in *Instance) { in.Lost = true })
	case 5:
		w.one(t, func(in *Instance) {
			if in.Container != nil && !in.dead() {
				in.Container.Health = vortex.HealthUnhealthy
			}
		})
	case 6:
		w.edges()
	default:
		w.agents()
	}
}

func (w *world) one(t *rapid.T, what func(*Instance)) {
	if len(w.instances) > 0 {
		what(w.instances[rapid.SampledFrom(slices.Sorted(maps.Keys(w.instances))).Draw(t, "instance")])
	}
}

func TestSameInputSamePlan(t *testing.T) {
	w := newWorld(newApp(1, 0), 3)
	w.settle(t)
	w.change(image("web:2"))
	first, second := fmt.Sprintf("%+v", flat(Next(w.input()))), fmt.Sprintf("%+v", flat(Next(w.input())))
	if first != second {
		t.Fatalf("two plans for one input:\n%s\n%s", first, second)
	}
}

// flat resolves the pointers whose addresses would differ.
func flat(p Plan) []any {
	out := []any{p.Release.Number, p.Rollout.State, p.Drop, p.DropReleases, p.Again}
	for _, in := range p.Put {
		out = append(out, in.ID, in.Wanted, in.Reason)
	}
	return out
}
