package autoscale

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"vortex"
	"vortex/internal/settings"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func app(scaling *vortex.Scaling) *vortex.App {
	a := &vortex.App{Metadata: vortex.Metadata{Name: "web"}, Scaling: scaling}
	a.SetDefaults()
	return a
}

func simulated(rps uint32) demand { return demand{rps: rps, exact: true} }
func measured(rps uint32) demand  { return demand{rps: rps} }

func TestTarget(t *testing.T) {
	for _, c := range []struct {
		name   string
		target float64 // requests per second and instance
		d      demand
		want   uint32
	}{
		{"nothing", 100, simulated(0), 0},
		{"a little", 100, simulated(1), 1},
		{"exactly one", 100, simulated(100), 1},
		{"one more", 100, simulated(101), 2},
		{"a thousand", 100, simulated(1000), 10},
		{"a division that comes out a hair too high", 0.07, simulated(7), 100},
		{"more than can be counted", 1e-9, simulated(math.MaxUint32), math.MaxUint32},
		{"measured within the noise", 100, measured(110), 1},
		{"measured beyond the noise", 100, measured(111), 2},
		{"measured a little", 100, measured(5), 1},
		{"measured nothing", 100, measured(0), 0},
		{"asked for", 100, demand{rps: 5000, explicit: new(uint32(3))}, 3},
		{"asked for none", 100, demand{rps: 5000, explicit: new(uint32(0))}, 0},
	} {
		if got := target(app(&vortex.Scaling{TargetRPSPerReplica: &c.target}), c.d); got != c.want {
			t.Errorf("%s: %d rps at %g each need %d; want %d", c.name, c.d.rps, c.target, got, c.want)
		}
	}
}

func TestTargetIsTheCeilingForWholeTargets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		each := rapid.Uint32Range(1, 100_000).Draw(t, "each")
		rps := rapid.Uint32().Draw(t, "rps")
		per := float64(each)
		want := uint32((uint64(rps) + uint64(each) - 1) / uint64(each))
		if got := target(app(&vortex.Scaling{TargetRPSPerReplica: &per}), simulated(rps)); got != want {
			t.Fatalf("%d rps at %d each need %d; want %d", rps, each, got, want)
		}
	})
}

// player drives one app's scaler over a made-up clock, the way the loop does.
type player struct {
	s       scaler
	own     settings.Settings
	app     *vortex.App
	now     time.Time
	current uint32
}

func play(current uint32, own settings.Settings, scaling *vortex.Scaling) *player {
	return &player{own: own.For(scaling), app: app(scaling), now: start.Add(time.Hour), current: current}
}

// ask decides on a demand now and scales.
func (p *player) ask(d demand) verdict {
	v := p.s.decide(p.now, p.app, p.own, p.current, d)
	if v.target != p.current {
		p.s.moved(p.now, p.current, v.target)
		p.current = v.target
	}
	return v
}

// follow asks again whenever the scaler wants to be asked, for a while, and returns the counts on the way.
func (p *player) follow(d demand, during time.Duration) (counts []uint32) {
	end := p.now.Add(during)
	for {
		before := p.current
		v := p.ask(d)
		if p.current != before {
			counts = append(counts, p.current)
		}
		if v.again == 0 || p.now.Add(v.again).After(end) {
			p.now = end
			return counts
		}
		p.now = p.now.Add(v.again)
	}
}

func TestBoundsHoldEveryTarget(t *testing.T) {
	p := play(2, settings.Default(), &vortex.Scaling{MinReplicas: new(uint32(2)), MaxReplicas: new(uint32(6))})
	if p.ask(simulated(100_000)); p.current != 6 {
		t.Errorf("scaled up to %d; want the most, 6", p.current)
	}
	if p.follow(simulated(0), time.Minute); p.current != 2 {
		t.Errorf("scaled down to %d; want the fewest, 2", p.current)
	}
}

func TestScaleUpsKeepTheGraceBetweenThem(t *testing.T) {
	p := play(1, settings.Default(), nil)
	p.ask(simulated(300))
	p.now = p.now.Add(400 * time.Millisecond)
	if v := p.ask(simulated(900)); p.current != 3 || v.again != 600*time.Millisecond {
		t.Fatalf("0.4 s after a scale-up: %d, again in %s; want 3, again in 0.6 s", p.current, v.again)
	}
	p.now = p.now.Add(600 * time.Millisecond)
	if p.ask(simulated(900)); p.current != 9 {
		t.Fatalf("after the grace: %d; want 9", p.current)
	}
}

func TestStepsGoOnByThemselves(t *testing.T) {
	own := settings.Default()
	own.StepUp, own.StepDown = 5, 1
	p := play(1, own, nil)
	if got := p.follow(simulated(1200), 10*time.Second); len(got) != 3 || got[0] != 6 || got[1] != 11 || got[2] != 12 {
		t.Fatalf("scaled up by way of %v; want 6, 11, 12", got)
	}
	if got := p.follow(simulated(900), time.Minute); len(got) != 3 || got[0] != 11 || got[2] != 9 {
		t.Fatalf("scaled down by way of %v; want 11, 10, 9", got)
	}
}

func TestScaleDownWaitsUntilTheLoadWasLowForTheCooldown(t *testing.T) {
	p := play(1, settings.Default(), nil)
	p.ask(simulated(1000))
	p.now = p.now.Add(time.Minute)
	p.ask(simulated(200))
	if p.current != 10 {
		t.Fatalf("the load fell this moment and %d run; want 10", p.current)
	}
	p.now = p.now.Add(3 * time.Second)
	p.ask(simulated(600)) // and rises again
	p.now = p.now.Add(2 * time.Second)
	p.ask(simulated(200))
	if p.current != 6 {
		t.Fatalf("the most of the last 5 s is 6, and %d run", p.current)
	}
	p.follow(simulated(200), 6*time.Second)
	if p.current != 2 {
		t.Fatalf("5 s after the last peak %d run; want 2", p.current)
	}
}

func TestThresholdsGateScaling(t *testing.T) {
	p := play(4, settings.Default(), &vortex.Scaling{ScaleOutThresholdPct: new(150.0), ScaleInThresholdPct: new(30.0)})
	if p.ask(simulated(500)); p.current != 4 {
		t.Errorf("at 125 %% of use: %d; want 4, for out is from 150 %%", p.current)
	}
	if p.ask(simulated(600)); p.current != 6 {
		t.Errorf("at 150 %% of use: %d; want 6", p.current)
	}
	if p.follow(simulated(200), time.Minute); p.current != 6 {
		t.Errorf("at 33 %% of use: %d; want 6, for in is up to 30 %%", p.current)
	}
	if p.follow(simulated(180), time.Minute); p.current != 2 {
		t.Errorf("at 30 %% of use: %d; want 2", p.current)
	}
}

// TestScalerNeverLeavesItsBounds plays random loads and holds every verdict to bounds, steps and limits over time.
func TestScalerNeverLeavesItsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		own := settings.Default()
		own.MinReplicas, own.MaxReplicas = rapid.Uint32Range(0, 3).Draw(t, "min"), rapid.Uint32Range(4, 40).Draw(t, "max")
		own.StepUp, own.StepDown = rapid.Uint32Range(0, 5).Draw(t, "up"), rapid.Uint32Range(0, 5).Draw(t, "down")
		p := play(own.MinReplicas, own, nil)
		var lastUp time.Time
		rps := uint32(0)
		for range rapid.IntRange(1, 50).Draw(t, "n") {
			rps = rapid.Uint32Range(0, 6000).Draw(t, "rps")
			before := p.current
			p.ask(simulated(rps))
			switch {
			case p.current > before && own.StepUp > 0 && p.current-before > own.StepUp,
				p.current < before && own.StepDown > 0 && before-p.current > own.StepDown:
				t.Fatalf("a step from %d to %d", before, p.current)
			case p.current > before && p.now.Sub(lastUp) < own.UpGrace:
				t.Fatalf("two scale-ups within %s", p.now.Sub(lastUp))
			case p.current < own.MinReplicas || p.current > own.MaxReplicas:
				t.Fatalf("%d is out of %d to %d", p.current, own.MinReplicas, own.MaxReplicas)
			}
			if p.current > before {
				lastUp = p.now
			}
			p.now = p.now.Add(time.Duration(rapid.IntRange(1, 4000).Draw(t, "millis")) * time.Millisecond)
		}
		p.follow(simulated(rps), time.Hour)
		if want := min(max((rps+99)/100, own.MinReplicas), own.MaxReplicas); p.current != want {
			t.Fatalf("a steady load of %d ends at %d instances; want %d", rps, p.current, want)
		}
	})
}
