package agent

import (
	"context"
	"strconv"
	"strings"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/loop"
)

// goal is what an instance should come to on this node.
type goal uint8

const (
	goalUnknown goal = iota // nobody looked yet: leave it as it is
	goalRun
	goalStop // exited, with its record and logs kept
	goalGone // nothing left of it
)

// desire is an instance's goal and the records it follows from. They are shared and never changed.
type desire struct {
	goal      goal
	placement *vortex.PlacementRecord
	release   *vortex.ReleaseRecord // nil while it is not known
	reason    string                // why the goal is what it is
}

// tick gives every instance that the changes may concern the goal that follows from the store now.
func (a *Agent) tick(life context.Context, changes loop.Changes) {
	ids := map[string]struct{}{}
	for _, ev := range changes.Events {
		a.concerned(ev.Key, ids)
	}
	if changes.Full {
		for _, i := range a.all() {
			ids[i.id] = struct{}{}
		}
	}
	goals := map[string]desire{}
	a.cfg.Store.View(func(v kind.View) {
		if changes.Full {
			for _, p := range kind.Find(v, vortex.Placements, "node", a.cfg.Node.ID) {
				ids[p.Value.Instance] = struct{}{}
			}
		}
		for id := range ids {
			goals[id] = a.desired(v, id)
		}
	})
	for id, d := range goals {
		a.aim(life, id, d)
	}
}

// concerned adds the instances that a change of key may concern.
func (a *Agent) concerned(key string, ids map[string]struct{}) {
	for _, prefix := range []string{vortex.Placements.Prefix, vortex.Instances.Prefix} {
		if id, ok := strings.CutPrefix(key, prefix+":"); ok {
			ids[id] = struct{}{}
			return
		}
	}
	if vortex.Releases.ID(key) == "" {
		return
	}
	for _, i := range a.all() {
		if i.waitsForRelease() {
			ids[i.id] = struct{}{}
		}
	}
}

// desired returns what the store says of an instance.
func (a *Agent) desired(v kind.View, id string) desire {
	placement, ok := kind.Lookup(v, vortex.Placements, id)
	if !ok || placement.Value.Node != a.cfg.Node.ID {
		return desire{goal: goalGone, reason: "it is not placed here any more"}
	}
	wanted, ok := kind.Lookup(v, vortex.Instances, id)
	if !ok {
		return desire{goal: goalGone, reason: "it is not wanted any more"}
	}
	d := desire{goal: goalRun, placement: placement.Value, reason: wanted.Value.Reason}
	if wanted.Value.Wanted == vortex.WantedStateStopped {
		d.goal = goalStop
	}
	number := strconv.FormatUint(wanted.Value.Release, 10)
	if release, ok := kind.Lookup(v, vortex.Releases, wanted.Value.ClientID, number); ok {
		d.release = release.Value
	}
	return d
}

// aim gives an instance its goal. One that is not here and should not be is left alone.
func (a *Agent) aim(life context.Context, id string, d desire) {
	for {
		i, known := a.find(id)
		if !known && d.goal == goalGone {
			return
		}
		if !known {
			i = a.instance(life, id)
		}
		if i.aim(d) {
			return
		}
	}
}

// releaseOf returns the release that a container's record names, or nil.
func (a *Agent) releaseOf(rec *vortex.ContainerRecord) *vortex.ReleaseRecord {
	if rec.Release == nil {
		return nil
	}
	release, err := kind.Get(a.cfg.Store, vortex.Releases, rec.ClientID, strconv.FormatUint(*rec.Release, 10))
	if err != nil {
		return nil
	}
	return release.Value
}
