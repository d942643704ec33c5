package rollout

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"vortex"
)

// judge finds the instances that died, failed their health check or were lost with their node, and
// gives a release up whose instances do not come up.
func (p *planner) judge() {
	for i := range p.Instances {
		in := &p.Instances[i]
		if in.Wanted != vortex.WantedStateRunning {
			continue
		}
		switch {
		case in.Lost:
			p.fail(in, "its node is down", false)
		case in.dead():
			p.fail(in, in.Container.Reason, failedStart(in.Container))
		case in.Container != nil && in.Container.Health == vortex.HealthUnhealthy:
			p.fail(in, "unhealthy: "+in.Container.HealthDetail, in.Container.HealthyAt.IsZero())
		}
	}
	if p.failures() == 0 {
		return
	}
	if left := calm - p.Now.Sub(p.status.FailedAt); left > 0 {
		p.again(left)
	} else {
		p.status.Failures = nil
	}
}

// failedStart reports whether a dead container counts against its release. One that was killed from outside does not.
func failedStart(c *vortex.ContainerRecord) bool {
	const killed = 137 // 128 + SIGKILL
	oom := c.OOMKilled != nil && *c.OOMKilled
	switch {
	case c.HealthyAt.IsZero():
		return true
	case c.ExitCode != nil && *c.ExitCode == killed && !oom:
		return false
	default:
		return c.FinishedAt.Sub(c.HealthyAt) < shortLife
	}
}

// fail stops an instance that does not serve any more, so that another takes its place.
func (p *planner) fail(in *Instance, reason string, start bool) {
	yes := true
	in.Failed = &yes
	p.want(in, vortex.WantedStateStopped, reason)
	p.event(vortex.SeverityWarning, "InstanceReplaced", in.ID, fmt.Sprintf("%s is replaced: %s", in.ID, reason))
	if !start || !p.current(in) {
		return
	}
	failures := p.failures() + 1
	p.status.Failures, p.status.FailedAt = &failures, p.Now
	p.status.Message, p.status.Instance = reason, in.ID
}

// conclude decides how the rollout stands and writes its record when that changed.
func (p *planner) conclude() {
	p.status.Desired = p.Desired
	c := p.count()
	if p.unproven() && p.Desired > 0 && p.status.State == vortex.RolloutStateComplete && c.healthy < int(p.Desired) {
		p.status.State, p.status.StartedAt = vortex.RolloutStateProgressing, p.Now
	}
	switch {
	case p.status.Active != p.status.Release: // reverted: nothing to decide before the next release
	case c.old == 0 && c.healthy >= int(p.Desired):
		p.complete()
	case p.status.State == vortex.RolloutStateProgressing:
		p.progress()
	}
	if p.Rollout == nil || !reflect.DeepEqual(*p.Rollout, p.status) {
		p.status.UpdatedAt = p.Now
		p.plan.Rollout = &p.status
	}
}

// unproven reports whether the newest release never served: while an app is stopped or scaled to zero a release is
// complete without that, but it is none to go back to.
func (p *planner) unproven() bool { return p.status.Good == nil || *p.status.Good != p.status.Release }

func (p *planner) complete() {
	number := p.status.Release
	if p.Desired > 0 {
		p.status.Good = &number
	}
	if p.failures() == 0 {
		p.status.Message, p.status.Instance = "", ""
	}
	if p.status.State == vortex.RolloutStateComplete {
		return
	}
	p.status.State, p.status.Message, p.status.Instance = vortex.RolloutStateComplete, "", ""
	p.event(vortex.SeverityInfo, "RolloutComplete", "",
		fmt.Sprintf("release %d of %s is complete with %d instances", number, p.Name, p.Desired))
}

// progress gives the release up when its starts fail, or when nothing has become healthy for long.
func (p *planner) progress() {
	p.status.Message = p.waiting()
	deadline := ProgressDeadline
	if probe, ok := p.active.Spec.Probe(); ok && probe.InitialDelaySeconds != nil {
		deadline += time.Duration(*probe.InitialDelaySeconds * float64(time.Second))
	}
	since := p.Now.Sub(p.lastProgress())
	switch {
	case p.failures() >= failedStarts:
		p.giveUp(p.lastFailure())
	case p.Blocked != "":
	case since >= deadline:
		p.giveUp(fmt.Sprintf("nothing became healthy for %s; %s", deadline, p.status.Message))
	default:
		p.again(deadline - since)
	}
}

// lastProgress is when an instance of the active release last became healthy, or the first of those that are left
// was made, or the release began. Before its first instance nothing has been tried: that is now.
func (p *planner) lastProgress() time.Time {
	var first, healthy time.Time
	for i := range p.Instances {
		in := &p.Instances[i]
		if !p.current(in) {
			continue
		}
		if first.IsZero() || in.CreatedAt.Before(first) {
			first = in.CreatedAt
		}
		if in.healthy() && in.Container.HealthyAt.After(healthy) {
			healthy = in.Container.HealthyAt
		}
	}
	if first.IsZero() {
		return p.Now
	}
	return lastOf(p.status.StartedAt, first, healthy)
}

func lastOf(times ...time.Time) time.Time { return slices.MaxFunc(times, time.Time.Compare) }

// waiting says what a rollout waits for, for people.
func (p *planner) waiting() string {
	if p.Blocked != "" {
		return p.Blocked
	}
	for i := range p.Instances {
		in := &p.Instances[i]
		switch {
		case !in.alive() || !p.current(in) || in.healthy():
		case in.Explain != "":
			return in.Explain
		case in.Container != nil && in.Container.HealthDetail != "":
			return in.ID + ": " + in.Container.HealthDetail
		case in.Container != nil && in.Container.Reason != "":
			return in.ID + ": " + in.Container.Reason
		}
	}
	return p.lastFailure()
}

// lastFailure says why the newest failed instance of the active release failed.
func (p *planner) lastFailure() string {
	var newest *Instance
	for i := range p.Instances {
		in := &p.Instances[i]
		if in.Failed != nil && p.current(in) && (newest == nil || in.CreatedAt.After(newest.CreatedAt)) {
			newest = in
		}
	}
	if newest == nil {
		return ""
	}
	p.status.Instance = newest.ID
	return strings.TrimSpace(newest.ID + ": " + newest.Reason)
}

// giveUp ends a rollout that fails: back to the last good release when there is one and the app allows it.
func (p *planner) giveUp(reason string) {
	p.status.Message = reason
	good := p.status.Good
	if good == nil || *good == p.status.Release || p.release(*good) == nil || !p.active.Spec.AutoRevert() {
		p.status.State = vortex.RolloutStateFailed
		p.event(vortex.SeverityError, "RolloutFailed", p.status.Instance,
			fmt.Sprintf("release %d of %s failed: %s", p.status.Release, p.Name, reason))
		return
	}
	p.status.State, p.status.Active, p.status.Failures = vortex.RolloutStateReverted, *good, nil
	p.event(vortex.SeverityError, "RolloutReverted", p.status.Instance,
		fmt.Sprintf("release %d of %s failed and release %d runs again: %s", p.status.Release, p.Name, *good, reason))
	p.again(1)
}
