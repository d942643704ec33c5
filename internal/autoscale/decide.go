package autoscale

import (
	"fmt"
	"math"
	"time"

	"vortex"
	"vortex/internal/settings"
)

// noise is the part of one instance's target by which a rate that edges measured may exceed a
// whole number of instances without asking for one more: a steady load is never measured exactly.
const noise = 0.1

// rounding keeps a division that comes out a hair above a whole number from asking for one more instance.
const rounding = 1e-9

// demand is what the metrics of an app ask for.
type demand struct {
	rps      uint32
	explicit *uint32 // a count that a metric asks for by itself
	exact    bool    // not measured: somebody says so
	revision int64   // of the newest metric
}

// target returns how many instances a demand needs: ceil(RPS / target per instance), or the count it
// asks for by itself.
func target(app *vortex.App, d demand) uint32 {
	if d.explicit != nil {
		return *d.explicit
	}
	if d.rps == 0 {
		return 0
	}
	load := float64(d.rps)/app.TargetRPS() - rounding
	if !d.exact {
		load -= noise
	}
	return uint32(min(max(1, math.Ceil(load)), math.MaxUint32))
}

// scaler remembers, for one app, what the limits over time need.
type scaler struct {
	lastUp   time.Time
	lastMove time.Time
	seen     []sample // the targets of late, newest last
}

// sample is the target that was asked for from a time on.
type sample struct {
	at     time.Time
	target uint32
}

// verdict is what an app should be scaled to now.
type verdict struct {
	target uint32
	reason string
	again  time.Duration // a change is due after this long; 0: nothing is held back
}

// decide holds a target to the app's limits: bounds, steps, the grace between scale-ups and the
// cool-down before a scale-down.
func (s *scaler) decide(now time.Time, app *vortex.App, own settings.Settings, current uint32, d demand) verdict {
	want := min(max(target(app, d), own.MinReplicas), own.MaxReplicas)
	s.observe(now, want, own.DownCooldown)
	band := app.Scaling
	switch {
	case want > current:
		return s.up(now, own, current, want, d, band)
	case want < current:
		return s.down(now, own, current, d, band)
	default:
		return verdict{target: current}
	}
}

// observe remembers a target for as long as it may hold a scale-down back.
func (s *scaler) observe(now time.Time, want uint32, window time.Duration) {
	if n := len(s.seen); n == 0 || s.seen[n-1].target != want {
		s.seen = append(s.seen, sample{now, want})
	}
	// A sample counts until the next one has been in force for the whole window.
	for len(s.seen) > 1 && now.Sub(s.seen[1].at) >= window {
		s.seen = s.seen[1:]
	}
}

func (s *scaler) up(now time.Time, own settings.Settings, current, want uint32, d demand, band *vortex.Scaling) verdict {
	if band != nil && band.ScaleOutThresholdPct != nil && current > 0 && d.explicit == nil {
		if used := utilisation(d, current, band); used < *band.ScaleOutThresholdPct {
			return verdict{target: current}
		}
	}
	if wait := own.UpGrace - now.Sub(s.lastUp); wait > 0 {
		return verdict{target: current, again: wait}
	}
	v := verdict{target: want, reason: reason(d, current, want)}
	if own.StepUp > 0 && want-current > own.StepUp {
		v.target, v.again = current+own.StepUp, soon(own.UpGrace) // the rest follows after the grace
	}
	return v
}

func (s *scaler) down(now time.Time, own settings.Settings, current uint32, d demand, band *vortex.Scaling) verdict {
	if band != nil && band.ScaleInThresholdPct != nil && d.explicit == nil {
		if used := utilisation(d, current, band); used > *band.ScaleInThresholdPct {
			return verdict{target: current}
		}
	}
	// The window below already holds every removal back until the load was lower for the whole cool-down. After
	// a scale-up, and between two steps, the cool-down counts from the move itself.
	since := s.lastUp
	if own.StepDown > 0 {
		since = s.lastMove
	}
	if wait := own.DownCooldown - now.Sub(since); wait > 0 {
		return verdict{target: current, again: wait}
	}
	highest, until := s.highest(now, own.DownCooldown)
	if highest >= current {
		return verdict{target: current, again: until}
	}
	v := verdict{target: highest, reason: reason(d, current, highest), again: until}
	if own.StepDown > 0 && current-highest > own.StepDown {
		v.target, v.again = current-own.StepDown, soon(own.DownCooldown) // the rest follows after the cool-down
	}
	return v
}

// soon is when to look again after a limit of d: never at once, which would mean not at all.
func soon(d time.Duration) time.Duration { return max(d, time.Millisecond) }

// highest returns the highest target of the cool-down window, and how long until the window has moved past it.
func (s *scaler) highest(now time.Time, window time.Duration) (target uint32, until time.Duration) {
	for i, sample := range s.seen {
		target = max(target, sample.target)
		if i+1 < len(s.seen) && until == 0 {
			until = max(window-now.Sub(s.seen[i+1].at), time.Millisecond)
		}
	}
	return target, until
}

// moved remembers that the app was scaled.
func (s *scaler) moved(now time.Time, from, to uint32) {
	s.lastMove = now
	if to > from {
		s.lastUp = now
	}
}

// utilisation is the load of current instances in percent of what they are meant for.
func utilisation(d demand, current uint32, band *vortex.Scaling) float64 {
	app := vortex.App{Scaling: band}
	return 100 * float64(d.rps) / (app.TargetRPS() * float64(max(current, 1)))
}

func reason(d demand, from, needed uint32) string {
	if d.explicit != nil {
		return fmt.Sprintf("a metric asks for %d instances", *d.explicit)
	}
	return fmt.Sprintf("%d requests/s on %d instances; %d are needed", d.rps, from, needed)
}
