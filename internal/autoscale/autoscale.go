// Package autoscale is the autoscaler: it turns the traffic that edges see into scale jobs.
//
// It watches vortex:metrics and owns vortex:queue:scale. An app's load is the sum over its edges' records
// (vortex:metrics:<app>:<edge>); a record at vortex:metrics:<app> speaks for the whole app and outweighs them, which is
// how load is simulated. A count that a user set by hand stands until the load changes.
//
// It acts on the watch, not on a clock; the only timers are those of limits that hold a decision back.
package autoscale

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/loop"
	"vortex/internal/settings"
)

// Events takes what happened; recording never waits.
type Events interface {
	Record(ev vortex.EventRecord)
}

// Autoscaler is the loop.
type Autoscaler struct {
	Writer   kind.Writer
	Settings settings.Settings // before what was changed at run time
	Events   Events
	Log      *slog.Logger

	apps map[string]*scaler
	due  map[string]time.Time
}

// Run scales apps until ctx ends.
func (a *Autoscaler) Run(ctx context.Context) error {
	a.apps, a.due = map[string]*scaler{}, map[string]time.Time{}
	l := loop.Loop{
		Store:    a.Writer.Store,
		Prefixes: []string{vortex.Metrics.Prefix + ":", vortex.Apps.Prefix + ":", vortex.Settings.Prefix + ":", vortex.Liveness.Prefix + ":"},
		Log:      a.Log,
	}
	return l.Run(ctx, a.tick)
}

// tick decides on every app whose load or limits changed, and on those whose time has come.
func (a *Autoscaler) tick(ctx context.Context, changes loop.Changes) (time.Duration, error) {
	now := time.Now().UTC()
	pass := outcome{writer: a.Writer}
	var err error
	a.Writer.Store.View(func(v kind.View) {
		limits := a.Settings
		if changed, ok := kind.Lookup(v, vortex.Settings, settings.ID); ok {
			limits = limits.With(changed.Value)
		}
		for name := range a.affected(v, changes, now) {
			if err = a.scale(v, name, limits, now, &pass); err != nil {
				return
			}
		}
		for name := range deleted(changes) {
			if _, again := kind.Lookup(v, vortex.Apps, name); !again {
				pass.forget(v, name)
			}
		}
	})
	if err != nil {
		return 0, err
	}
	if err := pass.writer.Commit(ctx, slices.Collect(maps.Values(pass.ops))...); err != nil {
		return 0, err
	}
	for _, job := range pass.jobs {
		a.committed(job, now)
	}
	return a.next(now), nil
}

// outcome is what one pass writes.
type outcome struct {
	writer kind.Writer // with the conditions under which the decisions are right
	ops    map[string]kind.Op
	jobs   []*vortex.ScaleJob
}

func (o *outcome) add(op kind.Op) {
	if o.ops == nil {
		o.ops = map[string]kind.Op{}
	}
	o.ops[op.Key] = op
}

// forget removes what is left of a deleted app: what was measured or simulated for it must not scale a later one of its name.
func (o *outcome) forget(v kind.View, name string) {
	if _, ok := kind.Lookup(v, vortex.ScaleJobs, name); ok {
		o.add(kind.DeleteOp(vortex.ScaleJobs, name))
	}
	if _, ok := kind.Lookup(v, vortex.Metrics, name); ok {
		o.add(kind.DeleteOp(vortex.Metrics, name))
	}
	for _, e := range kind.List(v, vortex.Metrics, name) {
		o.add(kind.DeleteOp(vortex.Metrics, e.ID))
	}
}

// deleted returns the names of the apps that were deleted since the last pass. Metrics of an app that never existed stay:
// a simulation may begin before its app does.
func deleted(changes loop.Changes) map[string]bool {
	names := map[string]bool{}
	for _, ev := range changes.Events {
		if ev.Deleted && strings.HasPrefix(ev.Key, vortex.Apps.Prefix+":") {
			names[vortex.Apps.ID(ev.Key)] = true
		}
	}
	return names
}

// affected returns the names of the apps to look at.
func (a *Autoscaler) affected(v kind.View, changes loop.Changes, now time.Time) map[string]bool {
	names := map[string]bool{}
	full := changes.Full
	for _, ev := range changes.Events {
		switch {
		case strings.HasPrefix(ev.Key, vortex.Metrics.Prefix+":"):
			name, _, _ := strings.Cut(vortex.Metrics.ID(ev.Key), ":")
			names[name] = true
		case strings.HasPrefix(ev.Key, vortex.Apps.Prefix+":"):
			names[vortex.Apps.ID(ev.Key)] = true
		default:
			full = true
		}
	}
	if full {
		for _, e := range kind.List(v, vortex.Apps) {
			names[e.ID] = true
		}
		for _, e := range kind.List(v, vortex.ScaleJobs) {
			names[e.ID] = true
		}
	}
	for name, at := range a.due {
		if !at.After(now) {
			names[name] = true
		}
	}
	return names
}

// scale decides on one app and adds what to write to pass. A decision holds only as long as the app stays as
// it was: a count that a user sets meanwhile wins.
func (a *Autoscaler) scale(v kind.View, name string, limits settings.Settings, now time.Time, pass *outcome) error {
	delete(a.due, name)
	app, ok := kind.Lookup(v, vortex.Apps, name)
	last, hasJob := kind.Lookup(v, vortex.ScaleJobs, name)
	if !ok {
		delete(a.apps, name)
		if hasJob {
			pass.forget(v, name)
		}
		return nil
	}
	d, measured := load(v, name)
	if !measured || !governs(app.Value, d) {
		return nil
	}
	current := limits.Desired(app.Value, last.Value, last.ModRevision)
	verdict := a.of(name, last.Value, current, now).decide(now, &app.Value.Spec, limits.For(app.Value.Spec.Scaling), current, d)
	if verdict.again > 0 {
		a.due[name] = now.Add(verdict.again)
	}
	if verdict.target == current && (hasJob || d.rps == 0) {
		return nil
	}
	job := &vortex.ScaleJob{
		ClientID: name, Target: verdict.target, Reason: verdict.reason, From: &current, CurrentRPS: &d.rps, CreatedAt: now,
	}
	op, err := kind.PutOp(vortex.ScaleJobs, job, name)
	if err != nil {
		return err
	}
	pass.add(op)
	pass.jobs = append(pass.jobs, job)
	pass.writer.If = append(slices.Clip(pass.writer.If), kind.IfRevision(vortex.Apps.Key(name), app.ModRevision))
	return nil
}

// governs reports whether the autoscaler has a say: the app is in auto mode, runs, and
// its load changed after a user last set a count by hand.
func governs(app *vortex.AppRecord, d demand) bool {
	stopped := app.Stopped != nil && *app.Stopped
	if stopped || app.Spec.ScalingMode() == vortex.ScalingModeManual {
		return false
	}
	return app.ReplicasRevision == nil || d.revision > int64(*app.ReplicasRevision)
}

// of returns what is remembered of an app. After a change of leader the last job tells when it was last scaled, and the
// current count stands for the load of which nothing is known.
func (a *Autoscaler) of(name string, last *vortex.ScaleJob, current uint32, now time.Time) *scaler {
	s := a.apps[name]
	if s == nil {
		s = &scaler{seen: []sample{{now, current}}}
		if last != nil && last.From != nil {
			s.moved(last.CreatedAt, *last.From, last.Target)
		}
		a.apps[name] = s
	}
	return s
}

// load sums up the metrics of an app; false when there are none.
func load(v kind.View, name string) (d demand, measured bool) {
	if whole, ok := kind.Lookup(v, vortex.Metrics, name); ok {
		return demand{
			rps: whole.Value.CurrentRPS, explicit: whole.Value.DesiredReplicas, exact: true, revision: whole.ModRevision,
		}, true
	}
	for _, e := range kind.List(v, vortex.Metrics, name) {
		if isGone(v, e.Value.Edge) {
			continue
		}
		d.rps = uint32(min(uint64(d.rps)+uint64(e.Value.CurrentRPS), math.MaxUint32))
		d.revision = max(d.revision, e.ModRevision)
		if e.Value.DesiredReplicas != nil {
			d.explicit = e.Value.DesiredReplicas
		}
		measured = true
	}
	return d, measured
}

// isGone reports whether an edge's node is down: what it saw last is no load any more.
func isGone(v kind.View, edge string) bool {
	e, ok := kind.Lookup(v, vortex.Edges, edge)
	if !ok || edge == "" {
		return false
	}
	node, ok := kind.Lookup(v, vortex.Liveness, e.Value.Node)
	return ok && node.Value.State == vortex.LivenessStateDown
}

// committed remembers and tells that a job was written.
func (a *Autoscaler) committed(job *vortex.ScaleJob, now time.Time) {
	if *job.From == job.Target {
		return
	}
	if s := a.apps[job.ClientID]; s != nil {
		s.moved(now, *job.From, job.Target)
	}
	what := "ScaledUp"
	if job.Target < *job.From {
		what = "ScaledDown"
	}
	a.Events.Record(vortex.EventRecord{
		Component: "autoscaler", Type: what, ClientID: job.ClientID, Cause: vortex.Metrics.Key(job.ClientID),
		Message: fmt.Sprintf("%s: %d → %d, %s", job.ClientID, *job.From, job.Target, job.Reason),
	})
}

// next returns how long until a decision that was held back is due.
func (a *Autoscaler) next(now time.Time) (wait time.Duration) {
	for _, at := range a.due {
		if left := max(at.Sub(now), time.Millisecond); wait == 0 || left < wait {
			wait = left
		}
	}
	return wait
}
