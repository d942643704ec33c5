// Package nodes is the node monitor: it tells which nodes are alive.
//
// Heartbeats are memory, not log: every server hears them, and only the leader's monitor writes, and only
// transitions, to vortex:liveness. A session that ends tells at once that its agent's process died; silence first makes a
// node Suspect and, when it lasts, Down. When more than half of the nodes would be suspect at once the observer itself
// is at fault, and nothing is changed.
package nodes

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"vortex"
	"vortex/internal/kind"
)

// Heartbeats remembers when each node was last heard. The zero value is ready; it outlives leads.
type Heartbeats struct {
	mu    sync.Mutex
	last  map[string]time.Time
	ended map[string]bool
	wake  chan struct{}
}

// Beat notes that a node was heard now.
func (h *Heartbeats) Beat(node string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.init()
	fresh := h.last[node].IsZero() || h.ended[node]
	h.last[node] = time.Now()
	delete(h.ended, node)
	if fresh {
		h.signal()
	}
}

// End notes that a node's session broke.
func (h *Heartbeats) End(node string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.init()
	h.ended[node] = true
	h.signal()
}

func (h *Heartbeats) init() {
	if h.last == nil {
		h.last, h.ended, h.wake = map[string]time.Time{}, map[string]bool{}, make(chan struct{}, 1)
	}
}

func (h *Heartbeats) signal() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// changed returns a channel that holds a value when a session began or ended.
func (h *Heartbeats) changed() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.init()
	return h.wake
}

// silence returns for how long a node was not heard, counted from since at the longest, and whether its session ended.
func (h *Heartbeats) silence(node string, since, now time.Time) (time.Duration, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	last := h.last[node]
	if last.Before(since) {
		last = since
	}
	return now.Sub(last), h.ended[node]
}

// Events takes what happened; recording never waits.
type Events interface {
	Record(ev vortex.EventRecord)
}

// Monitor is the loop.
type Monitor struct {
	Writer     kind.Writer
	Heartbeats *Heartbeats
	// SuspectAfter and DownAfter are how long a node is silent before it is Suspect and Down; defaults 3 s and 15 s.
	SuspectAfter, DownAfter time.Duration
	Events                  Events
	Log                     *slog.Logger
}

const (
	defaultSuspect = 3 * time.Second
	defaultDown    = 15 * time.Second
	checks         = 4 // looks at silence per SuspectAfter
)

// Run writes transitions until ctx ends.
func (m *Monitor) Run(ctx context.Context) error {
	if m.SuspectAfter == 0 {
		m.SuspectAfter = defaultSuspect
	}
	if m.DownAfter == 0 {
		m.DownAfter = defaultDown
	}
	watch := m.Writer.Store.Watch(kind.WatchOptions{Prefixes: []string{vortex.Nodes.Prefix + ":"}})
	defer func() { watch.Close() }()
	ticker := time.NewTicker(m.SuspectAfter / checks)
	defer ticker.Stop()
	began := time.Now()
	for {
		if err := m.pass(ctx, began); err != nil && ctx.Err() == nil {
			m.Log.WarnContext(ctx, "Liveness not written", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-m.Heartbeats.changed():
		case <-watch.Ready():
			if _, err := watch.Take(); err != nil {
				watch.Close()
				watch = m.Writer.Store.Watch(kind.WatchOptions{Prefixes: []string{vortex.Nodes.Prefix + ":"}})
			}
		}
	}
}

// pass compares every node's silence with its record and commits what differs.
func (m *Monitor) pass(ctx context.Context, began time.Time) error {
	var known []kind.Entry[vortex.NodeRecord]
	records := map[string]*vortex.LivenessRecord{}
	m.Writer.Store.View(func(v kind.View) {
		known = kind.List(v, vortex.Nodes)
		for _, e := range kind.List(v, vortex.Liveness) {
			records[e.ID] = e.Value
		}
	})
	return m.write(ctx, m.transitions(known, records, began, time.Now()))
}

// transitions returns the records that differ from what is true. When more than half of the nodes that are not known
// to be down would fail at once, only good news is believed.
func (m *Monitor) transitions(known []kind.Entry[vortex.NodeRecord], records map[string]*vortex.LivenessRecord, began, now time.Time) (changed []vortex.LivenessRecord) {
	failing, up := 0, 0
	for _, n := range known {
		old := records[n.ID]
		next := m.state(n.ID, old, began, now)
		if old == nil || old.State != vortex.LivenessStateDown {
			up++
			if fails(next.State) {
				failing++
			}
		}
		if old == nil || old.State != next.State {
			changed = append(changed, next)
		}
	}
	if up > 2 && 2*failing > up {
		changed = slices.DeleteFunc(changed, func(r vortex.LivenessRecord) bool { return fails(r.State) })
	}
	return changed
}

func fails(s vortex.LivenessState) bool {
	return s == vortex.LivenessStateSuspect || s == vortex.LivenessStateDown
}

// state returns what a node's record should say.
func (m *Monitor) state(node string, old *vortex.LivenessRecord, began, now time.Time) vortex.LivenessRecord {
	silence, ended := m.Heartbeats.silence(node, began, now)
	rec := vortex.LivenessRecord{Node: node, State: vortex.LivenessStateReady, Since: now.UTC()}
	switch {
	case silence >= m.DownAfter:
		rec.State, rec.Reason = vortex.LivenessStateDown, fmt.Sprintf("silent for %s", m.DownAfter)
	case ended:
		rec.State, rec.Reason = vortex.LivenessStateSuspect, "its agent's session broke"
	case silence >= m.SuspectAfter:
		rec.State, rec.Reason = vortex.LivenessStateSuspect, fmt.Sprintf("silent for %s", m.SuspectAfter)
	case old != nil && old.State == vortex.LivenessStateDown && silence >= now.Sub(began):
		rec = *old // a new leader has not heard it: it stays down
	}
	return rec
}

func (m *Monitor) write(ctx context.Context, changed []vortex.LivenessRecord) error {
	ops := make([]kind.Op, len(changed))
	for i := range changed {
		op, err := kind.PutOp(vortex.Liveness, &changed[i], changed[i].Node)
		if err != nil {
			return err
		}
		ops[i] = op
	}
	if err := m.Writer.Commit(ctx, ops...); err != nil {
		return err
	}
	for _, rec := range changed {
		severity := vortex.SeverityInfo
		if rec.State != vortex.LivenessStateReady {
			severity = vortex.SeverityWarning
		}
		m.Events.Record(vortex.EventRecord{
			Component: "nodes", Type: "Node" + string(rec.State), Severity: severity, Node: rec.Node,
			Message: fmt.Sprintf("node %s is %s %s", rec.Node, rec.State, rec.Reason),
		})
	}
	return nil
}
