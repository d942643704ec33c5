// Package deploy is the rollout loop: it turns apps into releases and wanted instances.
//
// It watches apps, scale jobs, what became of instances, and what edges still send to. It owns vortex:release,
// vortex:rollout and vortex:instance. Deciding is left to package rollout; this package gathers
// what it needs to know, and commits everything one pass decided in one transaction.
package deploy

import (
	"context"
	"crypto/rand"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/loop"
	"vortex/internal/rollout"
	"vortex/internal/settings"
)

// Events takes what happened; recording never waits.
type Events interface {
	Record(ev vortex.EventRecord)
}

// Deployer is the loop.
type Deployer struct {
	Writer   kind.Writer
	Settings settings.Settings // before what was changed at run time
	Events   Events
	Log      *slog.Logger

	due  map[string]time.Time // apps to look at again at a time though nothing changes
	hot  map[string]bool      // apps that wait for edges, nodes or other apps
	gone map[string]int64     // apps without a router -> the revision at which it was deleted
	left map[string]int64     // draining instances that no router lists -> a revision at which none did
}

// Run rolls apps out until ctx ends.
func (d *Deployer) Run(ctx context.Context) error {
	d.due, d.hot, d.gone, d.left = map[string]time.Time{}, map[string]bool{}, map[string]int64{}, map[string]int64{}
	l := loop.Loop{
		Store: d.Writer.Store,
		Prefixes: []string{
			vortex.Apps.Prefix + ":", vortex.ScaleJobs.Prefix + ":", vortex.Containers.Prefix + ":",
			vortex.Placements.Prefix + ":", vortex.Routers.Prefix + ":", vortex.Edges.Prefix + ":",
			vortex.Liveness.Prefix + ":", vortex.Settings.Prefix + ":", vortex.Cordons.Prefix + ":",
		},
		Log: d.Log,
	}
	return l.Run(ctx, d.tick)
}

// tick looks at every app that something happened to.
func (d *Deployer) tick(ctx context.Context, changes loop.Changes) (time.Duration, error) {
	now := d.Writer.Store.Now().UTC() // what is written is compared by later leaders, whose clocks may differ
	var ops []kind.Op
	var events []vortex.EventRecord
	var err error
	d.Writer.Store.View(func(v kind.View) {
		k := read(v, d.Settings)
		d.followRouters(v, changes)
		k.left = d.leave
		for _, name := range d.affected(v, changes, now) {
			plan := rollout.Next(k.input(name, now))
			d.remember(name, plan, k, now)
			var planned []kind.Op
			if planned, err = writes(name, plan); err != nil {
				return
			}
			ops, events = append(ops, planned...), append(events, plan.Events...)
		}
	})
	if err != nil {
		return 0, err
	}
	if err := d.Writer.Commit(ctx, ops...); err != nil {
		return 0, err
	}
	for _, ev := range events {
		d.Events.Record(ev)
	}
	return d.next(now), nil
}

// affected returns the names of the apps to look at.
func (d *Deployer) affected(v kind.View, changes loop.Changes, now time.Time) []string {
	names := map[string]bool{}
	if changes.Full || slices.ContainsFunc(changes.Events, forAll) {
		for _, e := range kind.List(v, vortex.Apps) {
			names[e.ID] = true
		}
		for _, e := range kind.List(v, vortex.Rollouts) {
			names[e.ID] = true
		}
		for _, e := range kind.List(v, vortex.Instances) {
			names[e.Value.ClientID] = true
		}
	}
	for _, ev := range changes.Events {
		if name := appOf(ev); name != "" {
			names[name] = true
		}
	}
	for name := range d.hot {
		names[name] = true
	}
	for name, at := range d.due {
		if !at.After(now) {
			names[name] = true
		}
	}
	out := make([]string, 0, len(names))
	for name := range names {
		out = append(out, name)
	}
	return out
}

// forAll reports whether an event may change what any app needs: a node that goes down, comes back or is drained, or a setting.
func forAll(ev kind.Event) bool {
	return strings.HasPrefix(ev.Key, vortex.Cordons.Prefix+":") || strings.HasPrefix(ev.Key, vortex.Liveness.Prefix+":") || strings.HasPrefix(ev.Key, vortex.Settings.Prefix+":")
}

// followRouters notes when routers are deleted, and forgets what nobody asks about any more.
func (d *Deployer) followRouters(v kind.View, changes loop.Changes) {
	for _, ev := range changes.Events {
		if app, ok := strings.CutPrefix(ev.Key, vortex.Routers.Prefix+":"); ok {
			if delete(d.gone, app); ev.Deleted {
				d.gone[app] = ev.Revision
			}
		}
	}
	for app := range d.gone {
		if len(kind.Find(v, vortex.Instances, "client_id", app)) == 0 {
			delete(d.gone, app)
		}
	}
	for instance := range d.left {
		if e, ok := kind.Lookup(v, vortex.Instances, instance); !ok || e.Value.Wanted != vortex.WantedStateDraining {
			delete(d.left, instance)
		}
	}
}

// leave returns the revision that edges must have reached to know that an instance is in no router. router is the
// revision of its app's router, which does not list it, 0 when there is none. What was seen first is kept: later changes of
// the router do not make a drain wait anew.
func (d *Deployer) leave(app, instance string, router int64) int64 {
	if rev, ok := d.left[instance]; ok {
		return rev
	}
	rev := max(router, d.gone[app])
	d.left[instance] = rev
	return rev
}

// appOf returns the app that an event is about, "" for one about none.
func appOf(ev kind.Event) string {
	for _, prefix := range []string{vortex.Apps.Prefix, vortex.ScaleJobs.Prefix, vortex.Routers.Prefix} {
		if id, ok := strings.CutPrefix(ev.Key, prefix+":"); ok {
			return id
		}
	}
	rec := ev.Record
	if rec == nil {
		rec = ev.Prev
	}
	if rec == nil {
		return ""
	}
	switch {
	case strings.HasPrefix(ev.Key, vortex.Containers.Prefix+":"):
		if e, err := kind.Decode(vortex.Containers, rec); err == nil {
			return e.Value.ClientID
		}
	case strings.HasPrefix(ev.Key, vortex.Placements.Prefix+":"):
		if e, err := kind.Decode(vortex.Placements, rec); err == nil {
			return e.Value.ClientID
		}
	}
	return ""
}

// remember notes when and why to look at an app again.
func (d *Deployer) remember(name string, plan rollout.Plan, k *known, now time.Time) {
	delete(d.due, name)
	if plan.Again > 0 {
		d.due[name] = now.Add(plan.Again)
	}
	if left, ok := k.lost[name]; ok && (plan.Again == 0 || left < plan.Again) {
		d.due[name] = now.Add(left)
	}
	delete(d.hot, name)
	if k.waits(name) {
		d.hot[name] = true
	}
	for _, in := range plan.Put {
		if in.Wanted == vortex.WantedStateDraining {
			d.hot[name] = true
		}
	}
}

// next returns how long until an app is due.
func (d *Deployer) next(now time.Time) (wait time.Duration) {
	for _, at := range d.due {
		if left := max(at.Sub(now), time.Millisecond); wait == 0 || left < wait {
			wait = left
		}
	}
	return wait
}

// writes translates a plan into the store's terms.
func writes(name string, plan rollout.Plan) (ops []kind.Op, err error) {
	add := func(op kind.Op, e error) {
		ops = append(ops, op)
		if e != nil {
			err = e
		}
	}
	if r := plan.Release; r != nil {
		add(kind.PutOp(vortex.Releases, r, name, strconv.FormatUint(r.Number, 10)))
	}
	if plan.Rollout != nil {
		add(kind.PutOp(vortex.Rollouts, plan.Rollout, name))
	}
	for i := range plan.Put {
		add(kind.PutOp(vortex.Instances, &plan.Put[i], plan.Put[i].ID))
	}
	for _, id := range plan.Drop {
		add(kind.DeleteOp(vortex.Instances, id), nil)
	}
	for _, n := range plan.DropReleases {
		add(kind.DeleteOp(vortex.Releases, name, strconv.FormatUint(n, 10)), nil)
	}
	if plan.DropRollout {
		add(kind.DeleteOp(vortex.Rollouts, name), nil)
	}
	return ops, err
}

// idAlphabet has no letters that look alike, and no vowels that could make words.
const (
	idAlphabet = "bcdfghjklmnpqrstvwxz2456789"
	idRandom   = 5
	idAppPart  = 40 // of an app's name in its instances' ids, which are host names of at most 63 characters
)

// newID returns a fresh instance id such as "web-3-x7k2p".
func newID(app string, release uint64) string {
	var random [idRandom]byte
	_, _ = rand.Read(random[:])
	for i, b := range random {
		random[i] = idAlphabet[int(b)%len(idAlphabet)]
	}
	app = strings.TrimRight(app[:min(len(app), idAppPart)], "-")
	return app + "-" + strconv.FormatUint(release, 10) + "-" + string(random[:])
}
