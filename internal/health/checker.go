package health

import (
	"context"
	"time"

	"vortex"
)

// State is what a Checker thinks of its target: its health and the detail of the probe that says so.
type State struct {
	Health vortex.Health
	Detail string
}

// Checker probes a target until it is told to stop. The zero Initial is a target that just started; with
// Initial.Health set to Healthy or Unhealthy it goes on where an earlier Checker left off.
type Checker struct {
	Probe    func(ctx context.Context) Result
	Schedule Schedule
	Initial  State
}

// Until the first success a probe follows the last one after firstGap, and each
// gap is longer than the one before, up to the period.
const (
	firstGap  = 20 * time.Millisecond
	gapGrowth = 1.5
)

// Run probes until ctx ends. It calls report, from its own goroutine, when the health changes, and when the target is
// not healthy and the detail changes; never for a probe that changed nothing.
func (c *Checker) Run(ctx context.Context, report func(State)) {
	t := newTally(c.Schedule, c.Initial)
	timer := time.NewTimer(c.Schedule.InitialDelay)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		began := time.Now()
		result := c.Probe(ctx)
		if ctx.Err() != nil {
			return
		}
		if t.take(began, result) {
			report(t.state)
		}
		timer.Reset(max(time.Until(t.next(began)), t.pause()))
	}
}

// tally is the part of a Checker that decides. It reads no clock.
type tally struct {
	schedule  Schedule
	state     State
	starting  bool          // no success yet
	gap       time.Duration // to the next probe while starting
	window    time.Time     // start of the period in which the next failure counts, while starting
	failures  int           // in a row
	successes int           // in a row
}

func newTally(s Schedule, initial State) tally {
	if initial.Health == "" {
		initial.Health = vortex.HealthUnknown
	}
	s.Period = max(s.Period, shortest)
	return tally{schedule: s, state: initial, starting: initial.Health == vortex.HealthUnknown, gap: min(firstGap, s.Period)}
}

// take counts the result of a probe made at the given time and reports whether there is something to tell.
func (t *tally) take(at time.Time, r Result) bool {
	health := t.count(at, r.Healthy)
	news := !r.Healthy && health != vortex.HealthHealthy && r.Detail != t.state.Detail
	changed := news || health != t.state.Health
	if changed {
		t.state = State{Health: health, Detail: r.Detail}
	}
	return changed
}

// count counts a result and returns the health that follows from it.
func (t *tally) count(at time.Time, healthy bool) vortex.Health {
	if healthy {
		t.starting = false
		t.failures = 0
		t.successes++
		if t.successes >= t.schedule.SuccessThreshold {
			return vortex.HealthHealthy
		}
		return t.state.Health
	}
	t.successes = 0
	if t.starting && !t.periodOver(at) {
		return t.state.Health
	}
	t.failures++
	if t.failures >= t.schedule.FailureThreshold {
		t.starting = false
		return vortex.HealthUnhealthy
	}
	return t.state.Health
}

// periodOver reports whether a whole period without a success has passed since the first
// probe or the last failure that counted.
func (t *tally) periodOver(at time.Time) bool {
	if t.window.IsZero() {
		t.window = at
	}
	if at.Sub(t.window) < t.schedule.Period {
		return false
	}
	t.window = at
	return true
}

// next returns when to probe again after the probe made at the given time.
func (t *tally) next(at time.Time) time.Time {
	if !t.starting {
		return at.Add(t.schedule.Period)
	}
	gap := t.gap
	t.gap = min(time.Duration(float64(t.gap)*gapGrowth), t.schedule.Period)
	if end := t.window.Add(t.schedule.Period); at.Add(gap).After(end) && end.After(at) {
		return end
	}
	return at.Add(gap)
}

// pause is the least time between the end of a probe and the start of the next.
func (t *tally) pause() time.Duration { return min(firstGap, t.schedule.Period) }
