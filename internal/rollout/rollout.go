// Package rollout decides what an app needs next: a release for a changed spec, instances to start,
// instances to drain, stop and forget. It is pure: what is known goes in, a Plan comes out, and the same input gives
// the same plan, so that a loop may be killed between any two of them.
//
// It guarantees that a rolling change never has fewer healthy instances than wanted less maxUnavailable, nor more than
// wanted plus maxSurge; that an instance is stopped only after no edge sends to it any more or the drain time is over;
// and that a release which cannot start is given up for the last good one when the app asks for that.
package rollout

import (
	"time"

	"vortex"
)

// Input is what is known of one app.
type Input struct {
	Now       time.Time
	Name      string
	App       *vortex.AppRecord // nil when the app was deleted
	Releases  []vortex.ReleaseRecord
	Rollout   *vortex.RolloutRecord // nil before the first release
	Instances []Instance
	Desired   uint32
	Blocked   string // why nothing may start yet, "" when it may: a dependency that is not healthy
	// NewID returns a fresh instance id for a release's number.
	NewID func(release uint64) string
}

// Instance is a wanted instance with what was observed of it.
type Instance struct {
	vortex.InstanceRecord

	Container *vortex.ContainerRecord // nil before its agent has written one
	Explain   string                  // why it has no node, when it has none
	Lost      bool                    // its node is down
	Leaving   bool                    // its node is being drained
	Routed    bool                    // some edge may still send to it
}

// Plan is what to write. Nil and empty fields change nothing.
type Plan struct {
	Release      *vortex.ReleaseRecord
	Rollout      *vortex.RolloutRecord
	Put          []vortex.InstanceRecord // created or changed
	Drop         []string                // ids of instances to forget
	DropReleases []uint64
	DropRollout  bool
	Events       []vortex.EventRecord
	Again        time.Duration // call again after this long though nothing changes; 0: no need
}

// How long things may take, and how much is kept.
const (
	DrainTimeout     = 30 * time.Second
	ProgressDeadline = 60 * time.Second // without an instance becoming healthy
	failedStarts     = 3                // in a row, after which a release is given up
	keepFailed       = 3                // dead instances kept for their logs
	keepReleases     = 10
	firstBackoff     = time.Second
	lastBackoff      = 30 * time.Second
	calm             = 60 * time.Second // without a failure, after which failures are forgotten
	shortLife        = 30 * time.Second // dying sooner after being healthy counts as a failed start
	settling         = 5 * time.Millisecond
)

// Next returns the next step for an app.
func Next(in Input) Plan {
	p := &planner{Input: in}
	p.settle()
	if in.App == nil {
		p.remove()
	} else {
		p.chooseRelease()
		p.judge()
		p.balance()
		p.conclude()
	}
	p.finishDrains()
	p.forget()
	return p.plan
}

// planner works out one Plan. Its instances are changed in place; changed marks those to write.
type planner struct {
	Input

	plan    Plan
	status  vortex.RolloutRecord
	hashes  map[uint64]string // release number -> hash
	active  *vortex.ReleaseRecord
	changed map[string]bool
}

// alive reports whether the instance serves or may come to serve.
func (i *Instance) alive() bool {
	return i.Wanted == vortex.WantedStateRunning && !i.Lost && !i.dead()
}

func (i *Instance) dead() bool {
	return i.Container != nil && i.Container.Status == vortex.ContainerStatusDead
}

// gone reports whether nothing of the instance runs any more.
func (i *Instance) gone() bool { return i.Container == nil || i.dead() || i.Lost }

// healthy reports whether the instance serves.
func (i *Instance) healthy() bool {
	return i.alive() && i.Container != nil &&
		i.Container.Status == vortex.ContainerStatusRunning && i.Container.Health == vortex.HealthHealthy
}

// want changes what is wanted of an instance.
func (p *planner) want(i *Instance, state vortex.WantedState, reason string) {
	i.Wanted, i.Reason = state, reason
	if state == vortex.WantedStateDraining {
		i.DrainSince = p.Now
	}
	p.mark(i)
}

func (p *planner) mark(i *Instance) {
	if p.changed == nil {
		p.changed = map[string]bool{}
	}
	p.changed[i.ID] = true
}

// again asks to be called after d, if nothing asked for less.
func (p *planner) again(d time.Duration) {
	d = max(d, time.Millisecond)
	if p.plan.Again == 0 || d < p.plan.Again {
		p.plan.Again = d
	}
}

// settle takes the rollout's record and prepares what the other steps look up.
func (p *planner) settle() {
	if p.Rollout != nil {
		p.status = *p.Rollout
	}
	p.hashes = make(map[uint64]string, len(p.Releases)+1)
	for _, r := range p.Releases {
		p.hashes[r.Number] = r.Hash
	}
}

// release returns the release with a number, nil when it is not kept.
func (p *planner) release(number uint64) *vortex.ReleaseRecord {
	for i := range p.Releases {
		if p.Releases[i].Number == number {
			return &p.Releases[i]
		}
	}
	return nil
}

// chooseRelease makes a release of a changed spec and decides which release is to run.
func (p *planner) chooseRelease() {
	var latest *vortex.ReleaseRecord
	if n := len(p.Releases); n > 0 {
		latest = &p.Releases[n-1]
	}
	switch {
	case latest == nil, latest.Generation < p.App.Generation:
		latest = p.newRelease(latest)
	case p.recreated(latest):
		p.status.Good = nil // what was good belongs to the app that was deleted
		latest = p.newRelease(latest)
	}
	p.active = p.release(p.status.Active)
	if p.active == nil {
		p.active, p.status.Active = latest, latest.Number
	}
}

// recreated reports whether latest was left by an app of the same name that was deleted: generations begin anew then. The
// hash in latest is not asked, for an older version may have computed it otherwise.
func (p *planner) recreated(latest *vortex.ReleaseRecord) bool {
	if latest.Generation != p.App.Generation {
		return true
	}
	was := latest.Spec.TemplateHash(latest.Image, p.App.RestartedAt)
	return was != p.App.Spec.TemplateHash(p.App.Image, p.App.RestartedAt)
}

// newRelease makes the next release and points the rollout at it.
func (p *planner) newRelease(previous *vortex.ReleaseRecord) *vortex.ReleaseRecord {
	release := vortex.ReleaseRecord{
		ClientID: p.Name, Number: 1, Generation: p.App.Generation,
		Hash: p.App.Spec.TemplateHash(p.App.Image, p.App.RestartedAt),
		Spec: p.App.Spec, Image: p.App.Image, Cause: p.App.Cause, CreatedAt: p.Now,
	}
	if previous != nil {
		release.Number = previous.Number + 1
	}
	p.plan.Release = &release
	p.Releases = append(p.Releases, release)
	p.hashes[release.Number] = release.Hash
	p.status = vortex.RolloutRecord{
		ClientID: p.Name, Release: release.Number, Active: release.Number, Good: p.status.Good,
		Generation: release.Generation, State: vortex.RolloutStateProgressing,
		StartedAt: p.Now, UpdatedAt: p.Now,
	}
	if len(p.Releases) > keepReleases {
		p.dropOldReleases()
	}
	return &p.Releases[len(p.Releases)-1]
}

// dropOldReleases forgets the oldest releases that nothing uses.
func (p *planner) dropOldReleases() {
	used := map[uint64]bool{p.status.Active: true}
	if p.status.Good != nil {
		used[*p.status.Good] = true
	}
	for _, i := range p.Instances {
		used[i.Release] = true
	}
	for _, r := range p.Releases[:len(p.Releases)-keepReleases] {
		if !used[r.Number] {
			p.plan.DropReleases = append(p.plan.DropReleases, r.Number)
		}
	}
}

// event tells what happened.
func (p *planner) event(severity vortex.Severity, what, instance, message string) {
	p.plan.Events = append(p.plan.Events, vortex.EventRecord{
		At: p.Now, Severity: severity, Component: "rollout", Type: what, Message: message, ClientID: p.Name, Instance: instance,
	})
}
