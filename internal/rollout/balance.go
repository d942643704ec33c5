package rollout

import (
	"fmt"
	"slices"
	"time"

	"vortex"
)

// current reports whether an instance may stay: it is of the release that is to run, or of one that differs in
// nothing that needs new instances, and its node is not being drained.
func (p *planner) current(i *Instance) bool { return !i.Leaving && !p.outdated(i) }

// outdated reports whether an instance is of a release that differs from the one that is to run.
func (p *planner) outdated(i *Instance) bool {
	hash, ok := p.hashes[i.Release]
	return !ok || hash != p.active.Hash
}

// counts is how many instances of which sort there are.
type counts struct{ current, old, healthy int }

func (p *planner) count() (c counts) {
	for i := range p.Instances {
		in := &p.Instances[i]
		if !in.alive() {
			continue
		}
		if p.current(in) {
			c.current++
		} else {
			c.old++
		}
		if in.healthy() {
			c.healthy++
		}
	}
	return c
}

// balance starts and drains instances until the active release has as many as are desired.
func (p *planner) balance() {
	policy := &p.active.Spec
	surge, unavailable := int(policy.MaxSurge()), int(policy.MaxUnavailable())
	if surge == 0 && unavailable == 0 {
		surge = 1
	}
	if !p.oldRemain() { // instances only move: another one is up before one goes
		surge, unavailable = max(surge, 1), 0
	}
	c := p.count()
	desired := int(p.Desired)
	if p.recreates() {
		p.drainOld(c.old)
		if p.oldRemain() {
			return
		}
	} else {
		p.drainOld(max(0, c.healthy-(desired-unavailable)))
	}
	p.drainExtra(c.current - desired)
	missing := desired - c.current
	if c.old > 0 && !p.recreates() {
		missing = min(missing, desired+surge-c.current-c.old)
	}
	p.start(missing)
}

// recreates reports whether old instances must be gone before new ones start: because the app asks for it, or because
// two instances cannot hold one host port.
func (p *planner) recreates() bool {
	spec := &p.active.Spec
	if !p.oldRemain() {
		return false
	}
	if spec.Rollout != nil && spec.Rollout.Strategy == vortex.RolloutStrategyRecreate {
		return true
	}
	return len(spec.HostPorts()) > 0
}

// oldRemain reports whether anything of an older release still runs.
func (p *planner) oldRemain() bool {
	return slices.ContainsFunc(p.Instances, func(i Instance) bool {
		return p.outdated(&i) && (!i.gone() || i.alive())
	})
}

// drainOld drains instances of older releases and those whose nodes are drained: all that do not serve, and at most healthy of those that do.
func (p *planner) drainOld(healthy int) {
	for i := range p.Instances {
		in := &p.Instances[i]
		if !in.alive() || p.current(in) {
			continue
		}
		if in.healthy() {
			if healthy <= 0 {
				continue
			}
			healthy--
		}
		if p.outdated(in) {
			p.want(in, vortex.WantedStateDraining, fmt.Sprintf("replaced by release %d", p.active.Number))
			continue
		}
		p.want(in, vortex.WantedStateDraining, "its node is drained")
		p.event(vortex.SeverityInfo, "InstanceMoved", in.ID, in.ID+" ends, another one has taken its place: its node is drained")
	}
}

// drainExtra drains n instances of the active release: first those that do not serve, then the youngest.
func (p *planner) drainExtra(n int) {
	if n <= 0 {
		return
	}
	var victims []*Instance
	for i := range p.Instances {
		if in := &p.Instances[i]; in.alive() && p.current(in) {
			victims = append(victims, in)
		}
	}
	slices.SortStableFunc(victims, func(a, b *Instance) int {
		if a.healthy() != b.healthy() {
			if b.healthy() {
				return -1
			}
			return 1
		}
		return b.CreatedAt.Compare(a.CreatedAt)
	})
	reason := fmt.Sprintf("scaled to %d", p.Desired)
	if p.Desired == 0 && p.App.Stopped != nil && *p.App.Stopped {
		reason = "the app was stopped"
	}
	for _, in := range victims[:min(n, len(victims))] {
		p.want(in, vortex.WantedStateDraining, reason)
	}
}

// start creates n instances of the active release, unless something tells to wait.
func (p *planner) start(n int) {
	if n <= 0 || p.Blocked != "" {
		return
	}
	if wait := p.backoff(); wait > 0 {
		p.again(wait)
		return
	}
	spec := &p.active.Spec
	cpu, memory := spec.Requests()
	for range n {
		p.plan.Put = append(p.plan.Put, vortex.InstanceRecord{
			ID: p.NewID(p.active.Number), ClientID: p.Name, Release: p.active.Number,
			Wanted: vortex.WantedStateRunning, CPUMillis: &cpu, MemoryBytes: &memory,
			HostPorts: spec.HostPorts(), CreatedAt: p.Now,
		})
	}
}

// backoff returns how long to wait before the next start: nothing after the first failure, then a
// second, doubled with every further failure up to half a minute.
func (p *planner) backoff() time.Duration {
	failures := p.failures()
	if failures < 2 {
		return 0
	}
	delay := min(firstBackoff<<min(failures-2, 10), lastBackoff)
	return delay - p.Now.Sub(p.status.FailedAt)
}

func (p *planner) failures() uint32 {
	if p.status.Failures == nil {
		return 0
	}
	return *p.status.Failures
}

// finishDrains stops the instances to which no edge sends any more, or whose time to drain is over.
func (p *planner) finishDrains() {
	for i := range p.Instances {
		in := &p.Instances[i]
		if in.Wanted != vortex.WantedStateDraining {
			continue
		}
		left := DrainTimeout - p.Now.Sub(in.DrainSince)
		switch {
		case in.gone():
		case in.Routed && left > 0:
			p.again(left)
			continue
		case in.DrainSince.Equal(p.Now) && p.changed[in.ID]:
			// A router that was made before anybody knew of this drain may be about to list it: look once more.
			p.again(settling)
			continue
		}
		p.want(in, vortex.WantedStateStopped, in.Reason)
	}
}

// forget drops what has stopped, keeping the last few failed instances of an app for their logs, and writes the rest.
func (p *planner) forget() {
	var failed []*Instance
	for i := range p.Instances {
		in := &p.Instances[i]
		switch {
		case in.Wanted != vortex.WantedStateStopped || !in.gone():
		case p.App != nil && in.Failed != nil && *in.Failed && !in.Lost:
			failed = append(failed, in)
			continue
		default:
			p.plan.Drop = append(p.plan.Drop, in.ID)
			continue
		}
		if p.changed[in.ID] {
			p.plan.Put = append(p.plan.Put, in.InstanceRecord)
		}
	}
	slices.SortFunc(failed, func(a, b *Instance) int { return b.CreatedAt.Compare(a.CreatedAt) })
	for n, in := range failed {
		switch {
		case n >= keepFailed:
			p.plan.Drop = append(p.plan.Drop, in.ID)
		case p.changed[in.ID]:
			p.plan.Put = append(p.plan.Put, in.InstanceRecord)
		}
	}
}

// remove takes down everything of a deleted app, and its releases once nothing runs.
func (p *planner) remove() {
	remaining := false
	for i := range p.Instances {
		in := &p.Instances[i]
		if in.Wanted == vortex.WantedStateRunning {
			p.want(in, vortex.WantedStateDraining, "the app was deleted")
		}
		remaining = remaining || !in.gone()
	}
	if remaining {
		return
	}
	for _, r := range p.Releases {
		p.plan.DropReleases = append(p.plan.DropReleases, r.Number)
	}
	p.plan.DropRollout = p.Rollout != nil
}
