// Package placement is the scheduler's loop: it gives every wanted instance a node, or a reason why it has none.
//
// It watches instances, nodes and their liveness, and owns vortex:placement. Deciding is left to package
// scheduler; everything that changed since the last pass is committed in one transaction.
package placement

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/loop"
	"vortex/internal/scheduler"
)

// Events takes what happened; recording never waits.
type Events interface {
	Record(ev vortex.EventRecord)
}

// Placer is the loop.
type Placer struct {
	Writer kind.Writer
	Events Events
	Log    *slog.Logger
}

// Run places instances until ctx ends.
func (p *Placer) Run(ctx context.Context) error {
	l := loop.Loop{
		Store: p.Writer.Store,
		Prefixes: []string{
			vortex.Instances.Prefix + ":", vortex.Nodes.Prefix + ":", vortex.Liveness.Prefix + ":", vortex.Containers.Prefix + ":",
			vortex.Cordons.Prefix + ":",
		},
		Log: p.Log,
	}
	return l.Run(ctx, p.tick)
}

// snapshot is what one pass decides on.
type snapshot struct {
	instances  []kind.Entry[vortex.InstanceRecord]
	placements map[string]*vortex.PlacementRecord
	plan       *scheduler.Plan
	request    func(in *vortex.InstanceRecord) scheduler.Request
	epoch      uint64
}

// tick places what has no place and removes the placements of instances that are gone.
func (p *Placer) tick(ctx context.Context, changes loop.Changes) (time.Duration, error) {
	if !changes.Full && !slices.ContainsFunc(changes.Events, matters) {
		return 0, nil
	}
	var ops []kind.Op
	var events []vortex.EventRecord
	var err error
	p.Writer.Store.View(func(v kind.View) {
		now := time.Now().UTC()
		ops, events, err = decide(take(v, now), now)
	})
	if err != nil {
		return 0, err
	}
	if err := p.Writer.Commit(ctx, ops...); err != nil {
		return 0, err
	}
	for _, ev := range events {
		p.Events.Record(ev)
	}
	return 0, nil
}

// matters reports whether an event can change a decision. Of containers only the end does: it frees a place.
func matters(ev kind.Event) bool {
	if ev.Deleted || !strings.HasPrefix(ev.Key, vortex.Containers.Prefix+":") {
		return true
	}
	e, err := kind.Decode(vortex.Containers, ev.Record)
	return err != nil || e.Value.Status == vortex.ContainerStatusDead
}

// over reports whether an instance is wanted no more and nothing of it runs: it is kept for its logs, and takes no place.
func over(v kind.View, in *vortex.InstanceRecord) bool {
	if in.Wanted != vortex.WantedStateStopped {
		return false
	}
	c, ok := kind.Lookup(v, vortex.Containers, in.ID)
	return !ok || c.Value.Status == vortex.ContainerStatusDead
}

// avoidFor is how long a node on which an instance could not be started is the last choice for its app's next ones: its disk may be full, or
// it may not get the image.
const avoidFor = 5 * time.Minute

// failedStart reports whether an instance never served, and was created lately.
func failedStart(v kind.View, in *vortex.InstanceRecord, now time.Time) bool {
	if in.Failed == nil || !*in.Failed || now.Sub(in.CreatedAt) > avoidFor {
		return false
	}
	c, ok := kind.Lookup(v, vortex.Containers, in.ID)
	return ok && c.Value.HealthyAt.IsZero()
}

// take reads the snapshot; v must stay valid while it is used.
func take(v kind.View, now time.Time) snapshot {
	s := snapshot{instances: kind.List(v, vortex.Instances), placements: map[string]*vortex.PlacementRecord{}}
	s.request = func(in *vortex.InstanceRecord) scheduler.Request { return request(v, in) }
	var nodes []*scheduler.Node
	for _, n := range kind.List(v, vortex.Nodes) {
		nodes = append(nodes, node(v, n.Value))
	}
	s.plan = scheduler.New(nodes)
	for _, e := range kind.List(v, vortex.Placements) {
		s.placements[e.ID] = e.Value
	}
	for _, in := range s.instances {
		at := s.placements[in.ID]
		if at == nil || at.Node == "" {
			continue
		}
		if failedStart(v, in.Value, now) {
			s.plan.Failed(at.Node, in.Value.ClientID)
		}
		if !over(v, in.Value) {
			s.plan.Occupy(at.Node, s.request(in.Value))
		}
	}
	if lock, ok := kind.Lookup(v, vortex.LeaderLocks, "leader"); ok {
		s.epoch = lock.Value.Epoch
	}
	return s
}

// node translates a node's record; one that is not known to be ready takes nothing new.
func node(v kind.View, n *vortex.NodeRecord) *scheduler.Node {
	live, ok := kind.Lookup(v, vortex.Liveness, n.ID)
	_, cordoned := kind.Lookup(v, vortex.Cordons, n.ID)
	out := &scheduler.Node{
		ID:          n.ID,
		CPUMillis:   n.CPUMillis,
		MemoryBytes: n.MemoryBytes,
		Ready:       ok && !cordoned && live.Value.State == vortex.LivenessStateReady && (n.Unschedulable == nil || !*n.Unschedulable),
		Record:      n,
	}
	if n.MaxInstances != nil {
		out.Max = uint64(*n.MaxInstances)
	}
	return out
}

// request translates an instance's record. Constraints come from its release; one that cannot
// be read any more constrains nothing.
func request(v kind.View, in *vortex.InstanceRecord) scheduler.Request {
	req := scheduler.Request{Instance: in.ID, App: in.ClientID, HostPorts: in.HostPorts}
	if in.CPUMillis != nil {
		req.CPUMillis = *in.CPUMillis
	}
	if in.MemoryBytes != nil {
		req.MemoryBytes = *in.MemoryBytes
	}
	release, ok := kind.Lookup(v, vortex.Releases, in.ClientID, strconv.FormatUint(in.Release, 10))
	if !ok {
		return req
	}
	for _, text := range release.Value.Spec.Spec.Constraints {
		if c, err := vortex.ParseConstraint(text); err == nil {
			req.Constraints = append(req.Constraints, c)
		}
	}
	return req
}

// decide returns the writes of one pass and what to tell about them.
func decide(s snapshot, now time.Time) (ops []kind.Op, events []vortex.EventRecord, err error) {
	known := make(map[string]bool, len(s.instances))
	for _, in := range s.instances {
		known[in.ID] = true
		had := s.placements[in.ID]
		if had != nil && had.Node != "" || in.Value.Wanted != vortex.WantedStateRunning {
			continue
		}
		placed, ev := place(s, in.Value, had, now)
		if placed == nil {
			continue
		}
		op, err := kind.PutOp(vortex.Placements, placed, in.ID)
		if err != nil {
			return nil, nil, err
		}
		ops, events = append(ops, op), append(events, ev...)
	}
	for id := range s.placements {
		if !known[id] {
			ops = append(ops, kind.DeleteOp(vortex.Placements, id))
		}
	}
	return ops, events, nil
}

// place decides one instance. It returns nil when nothing fits for the same reason as before.
func place(s snapshot, in *vortex.InstanceRecord, had *vortex.PlacementRecord, now time.Time) (*vortex.PlacementRecord, []vortex.EventRecord) {
	req := s.request(in)
	out := &vortex.PlacementRecord{
		Instance: in.ID, ClientID: in.ClientID, Release: in.Release,
		CPUMillis: in.CPUMillis, MemoryBytes: in.MemoryBytes, HostPorts: in.HostPorts,
		Epoch: s.epoch, CreatedAt: now,
	}
	node, err := s.plan.Place(req)
	if err == nil {
		out.Node = node
		return out, nil
	}
	out.Explain = err.Error()
	if had != nil && had.Explain == out.Explain {
		return nil, nil
	}
	return out, []vortex.EventRecord{{
		Component: "scheduler", Type: "Unplaceable", Severity: vortex.SeverityWarning,
		ClientID: in.ClientID, Instance: in.ID, Message: out.Explain,
	}}
}
