package deploy

import (
	"fmt"
	"slices"
	"time"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/rollout"
	"vortex/internal/settings"
)

// known is what one pass knows: a view of the store, and what is the same for every app.
type known struct {
	v        kind.View
	settings settings.Settings
	down     map[string]bool          // nodes that are down
	silent   map[string]time.Time     // … since when they have not been heard
	lost     map[string]time.Duration // apps with instances on such nodes -> how long until the first counts as lost
	drained  map[string]bool          // nodes that are being drained
	edges    []*vortex.EdgeRecord
	left     func(app, instance string, router int64) int64 // see Deployer.leave
}

func read(v kind.View, base settings.Settings) *known {
	k := &known{v: v, settings: base, down: map[string]bool{}, silent: map[string]time.Time{}, lost: map[string]time.Duration{}, drained: map[string]bool{}}
	if changed, ok := kind.Lookup(v, vortex.Settings, settings.ID); ok {
		k.settings = base.With(changed.Value)
	}
	for _, e := range kind.List(v, vortex.Liveness) {
		if e.Value.State == vortex.LivenessStateDown {
			k.down[e.ID], k.silent[e.ID] = true, e.Value.SilentSince
		}
	}
	for _, e := range kind.List(v, vortex.Cordons) {
		k.drained[e.ID] = e.Value.Drain != nil && *e.Value.Drain
	}
	for _, e := range kind.List(v, vortex.Edges) {
		if !k.down[e.Value.Node] {
			k.edges = append(k.edges, e.Value)
		}
	}
	return k
}

// input gathers what is known of one app.
func (k *known) input(name string, now time.Time) rollout.Input {
	in := rollout.Input{
		Now: now, Name: name,
		NewID: func(release uint64) string { return newID(name, release) },
	}
	for _, e := range kind.List(k.v, vortex.Releases, name) {
		in.Releases = append(in.Releases, *e.Value)
	}
	slices.SortFunc(in.Releases, func(a, b vortex.ReleaseRecord) int { return int(a.Number) - int(b.Number) })
	if e, ok := kind.Lookup(k.v, vortex.Rollouts, name); ok {
		in.Rollout = e.Value
	}
	if e, ok := kind.Lookup(k.v, vortex.Apps, name); ok {
		in.App = e.Value
		in.Desired = k.desired(e.Value)
		in.Blocked = k.blocked(e.Value, in.Rollout)
	}
	for _, e := range kind.Find(k.v, vortex.Instances, "client_id", name) {
		in.Instances = append(in.Instances, k.instance(*e.Value, in.App, now))
	}
	return in
}

func (k *known) desired(app *vortex.AppRecord) uint32 {
	job, ok := kind.Lookup(k.v, vortex.ScaleJobs, app.Name)
	if !ok {
		return k.settings.Desired(app, nil, 0)
	}
	return k.settings.Desired(app, job.Value, job.ModRevision)
}

func (k *known) instance(rec vortex.InstanceRecord, app *vortex.AppRecord, now time.Time) rollout.Instance {
	in := rollout.Instance{InstanceRecord: rec, Routed: k.routed(&rec)}
	if e, ok := kind.Lookup(k.v, vortex.Containers, rec.ID); ok {
		in.Container = e.Value
		in.Lost = k.gone(e.Value.Node, app, now)
		in.Leaving = k.drained[e.Value.Node]
	}
	if e, ok := kind.Lookup(k.v, vortex.Placements, rec.ID); ok {
		in.Explain = e.Value.Explain
		in.Lost = in.Lost || k.gone(e.Value.Node, app, now)
		in.Leaving = in.Leaving || k.drained[e.Value.Node]
	}
	return in
}

// gone reports whether a node is down and has been silent for as long as an app allows; nobody waits for one whose app is deleted.
func (k *known) gone(node string, app *vortex.AppRecord, now time.Time) bool {
	if !k.down[node] {
		return false
	}
	if app == nil {
		return true
	}
	left := app.Spec.LostAfter() - now.Sub(k.silent[node])
	if left <= 0 {
		return true
	}
	if soonest, ok := k.lost[app.Name]; !ok || left < soonest {
		k.lost[app.Name] = left
	}
	return false
}

// routed reports whether some edge may still send to an instance: its app's router lists it,
// an edge has not taken in that it does no more, or is still finishing requests there.
func (k *known) routed(in *vortex.InstanceRecord) bool {
	var revision int64
	if router, ok := kind.Lookup(k.v, vortex.Routers, in.ClientID); ok {
		if slices.ContainsFunc(router.Value.Backends, func(b vortex.Backend) bool { return b.Instance == in.ID }) {
			return true
		}
		revision = router.ModRevision
	}
	if in.Wanted != vortex.WantedStateDraining || len(k.edges) == 0 {
		return false
	}
	revision = k.left(in.ClientID, in.ID, revision)
	return slices.ContainsFunc(k.edges, func(e *vortex.EdgeRecord) bool {
		return e.Revision < uint64(revision) || slices.Contains(e.Busy, in.ID)
	})
}

// blocked says which dependency keeps an app from its first start, "" when none does.
func (k *known) blocked(app *vortex.AppRecord, status *vortex.RolloutRecord) string {
	if status != nil && status.Good != nil {
		return ""
	}
	for _, dep := range app.Spec.Spec.DependsOn {
		ready := slices.ContainsFunc(kind.Find(k.v, vortex.Containers, "client_id", dep.App), func(e kind.Entry[vortex.ContainerRecord]) bool {
			running := e.Value.Status == vortex.ContainerStatusRunning
			return running && (dep.Condition == vortex.DependencyConditionStarted || e.Value.Health == vortex.HealthHealthy)
		})
		if !ready {
			return fmt.Sprintf("waits for %s to be %s", dep.App, dep.Condition)
		}
	}
	return ""
}

// waits reports whether an app waits for something that events about itself do not tell: an edge,
// a node or a dependency.
func (k *known) waits(name string) bool {
	for _, e := range kind.Find(k.v, vortex.Instances, "client_id", name) {
		if e.Value.Wanted == vortex.WantedStateDraining {
			return true
		}
	}
	app, ok := kind.Lookup(k.v, vortex.Apps, name)
	if !ok {
		return false
	}
	var status *vortex.RolloutRecord
	if e, ok := kind.Lookup(k.v, vortex.Rollouts, name); ok {
		status = e.Value
	}
	return k.blocked(app.Value, status) != ""
}
