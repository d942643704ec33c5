// Package nodes is the node monitor: it tells which nodes are alive.
//
// Heartbeats are memory, not log: every server hears them, and only the leader's monitor writes, and only
// transitions, to vortex:liveness. A session that ends, or heartbeats that stop, make a node Suspect at once: edges stop sending there and the scheduler
// stops placing there. It is Down once its death is confirmed, because nobody else reaches it either, and it has been silent for as long as the
// least patient app allows; then its instances are replaced, each app's after its own lostAfterSeconds. When more than half of the nodes would be
// suspect at once the observer itself is at fault, and nothing is changed. A new leader has heard the same beats, and goes on.
// What a node leaves behind that stays down for a minute is deleted: its containers that run elsewhere by now, and its metrics; and once it was put
// out of the cluster its own records.
package nodes

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"vortex"
	"vortex/internal/kind"
)

// Events takes what happened; recording never waits.
type Events interface {
	Record(ev vortex.EventRecord)
}

// Monitor is the loop.
type Monitor struct {
	Writer     kind.Writer
	Heartbeats *Heartbeats
	// SuspectAfter and DownAfter are how long a node that this server never heard is given, since the monitor began; defaults 3 s and 15 s.
	SuspectAfter, DownAfter time.Duration
	// CollectAfter is how long a node is down before the records that it left behind are deleted; default a minute.
	CollectAfter time.Duration
	Events       Events
	Log          *slog.Logger
}

const (
	defaultSuspect = 3 * time.Second
	defaultDown    = 15 * time.Second
	checks         = 4 // looks at silence per SuspectAfter
	retryAfter     = 20 * time.Millisecond
	tellEvery      = 10 * time.Second // that nothing can be written
)

// Run writes transitions until ctx ends.
func (m *Monitor) Run(ctx context.Context) error {
	if m.SuspectAfter == 0 {
		m.SuspectAfter = defaultSuspect
	}
	if m.DownAfter == 0 {
		m.DownAfter = defaultDown
	}
	if m.CollectAfter == 0 {
		m.CollectAfter = defaultCollectAfter
	}
	watch := m.Writer.Store.Watch(kind.WatchOptions{Prefixes: []string{vortex.Nodes.Prefix + ":"}})
	defer func() { watch.Close() }()
	news, stop := m.Heartbeats.Watch()
	defer stop()
	ticker := time.NewTicker(m.SuspectAfter / checks)
	defer ticker.Stop()
	began, told := time.Now(), time.Time{}
	for {
		again, err := m.pass(ctx, began)
		if err != nil && ctx.Err() == nil {
			if time.Since(told) >= tellEvery {
				m.Log.WarnContext(ctx, "Liveness not written", "err", err)
				told = time.Now()
			}
			again = retryAfter
		}
		var due <-chan time.Time
		if again > 0 {
			due = time.After(again)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-due:
		case <-news:
		case <-watch.Ready():
			if _, err := watch.Take(); err != nil {
				watch.Close()
				watch = m.Writer.Store.Watch(kind.WatchOptions{Prefixes: []string{vortex.Nodes.Prefix + ":"}})
			}
		}
	}
}

// pass compares what is known of every node with its record and commits what differs. It returns when to look again
// though nothing is heard, 0 for not at all.
func (m *Monitor) pass(ctx context.Context, began time.Time) (again time.Duration, err error) {
	var known []kind.Entry[vortex.NodeRecord]
	records := map[string]*vortex.LivenessRecord{}
	j := judge{Monitor: m, began: began, now: time.Now(), agreed: m.Writer.Store.Now(), grace: vortex.DefaultLostAfter}
	m.Writer.Store.View(func(v kind.View) {
		known = kind.List(v, vortex.Nodes)
		for _, e := range kind.List(v, vortex.Liveness) {
			records[e.ID] = e.Value
		}
		for _, e := range kind.List(v, vortex.Apps) {
			j.grace = min(j.grace, e.Value.Spec.LostAfter())
		}
	})
	if err := m.write(ctx, j.transitions(known, records)); err != nil {
		return j.again, err
	}
	again, err = m.collect(ctx, j.agreed)
	if again > 0 {
		j.lookAgain(again)
	}
	return j.again, err
}

// judge is one pass.
type judge struct {
	*Monitor

	began, now time.Time
	agreed     time.Time     // now, by the time that all servers share: what is written is compared by later leaders
	grace      time.Duration // the shortest of any app
	again      time.Duration // until when to look again
}

// transitions returns the records that differ from what is true. When more than half of the nodes that are not known
// to be down would fail at once, only good news is believed.
func (j *judge) transitions(known []kind.Entry[vortex.NodeRecord], records map[string]*vortex.LivenessRecord) (changed []vortex.LivenessRecord) {
	failing, up := 0, 0
	for _, n := range known {
		old := records[n.ID]
		next := j.state(n.ID, old)
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
func (j *judge) state(node string, old *vortex.LivenessRecord) vortex.LivenessRecord {
	rec := vortex.LivenessRecord{Node: node, State: vortex.LivenessStateReady, Since: j.agreed.UTC()}
	seen := j.Heartbeats.look(node)
	switch seen.state {
	case alive:
		return rec
	case unknown:
		return j.unheard(rec, old)
	case silent, confirmed:
	}
	rec.State, rec.Reason, rec.SilentSince = vortex.LivenessStateSuspect, seen.reason, j.at(seen.since)
	if seen.state == confirmed {
		if left := j.grace - j.now.Sub(seen.since); left > 0 {
			j.lookAgain(left)
		} else {
			rec.State = vortex.LivenessStateDown
		}
	}
	if old != nil && old.State == vortex.LivenessStateDown {
		rec.State = vortex.LivenessStateDown // what was given up comes back by being heard alone
	}
	return rec
}

// at is a moment of this server's clock by the time that all servers share.
func (j *judge) at(t time.Time) time.Time { return j.agreed.Add(t.Sub(j.now)).UTC() }

// unheard judges a node that this server has not heard yet: it may not have found us.
func (j *judge) unheard(rec vortex.LivenessRecord, old *vortex.LivenessRecord) vortex.LivenessRecord {
	silence := j.now.Sub(j.began)
	rec.SilentSince = j.at(j.began)
	switch {
	case silence >= j.DownAfter:
		rec.State, rec.Reason = vortex.LivenessStateDown, fmt.Sprintf("not heard for %s", j.DownAfter)
	case silence >= j.SuspectAfter:
		rec.State, rec.Reason = vortex.LivenessStateSuspect, fmt.Sprintf("not heard for %s", j.SuspectAfter)
	default:
		rec.SilentSince = time.Time{}
	}
	if old != nil && fails(old.State) && (!fails(rec.State) || old.State == vortex.LivenessStateDown) {
		return *old // the leader before us heard it, and said so
	}
	return rec
}

func (j *judge) lookAgain(after time.Duration) {
	if j.again == 0 || after < j.again {
		j.again = after
	}
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
