package client_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vortex/client"
)

// past is a store in memory with its history, for plans.
type past struct {
	revision uint64
	records  map[string]*client.Record
	txns     []client.Transaction
}

// write changes keys in one transaction: key, value, key, value …; an empty value deletes.
func (p *past) write(pairs ...string) {
	p.revision++
	txn := client.Transaction{Revision: p.revision}
	for i := 0; i < len(pairs); i += 2 {
		var after *client.Record
		if pairs[i+1] != "" {
			after = &client.Record{Key: pairs[i], Value: []byte(pairs[i+1]), ModRevision: p.revision}
		}
		p.set(&txn, pairs[i], after)
	}
	p.txns = append(p.txns, txn)
}

func (p *past) set(txn *client.Transaction, key string, after *client.Record) {
	if p.records == nil {
		p.records = map[string]*client.Record{}
	}
	txn.Changes = append(txn.Changes, client.RecordChange{Key: key, Before: p.records[key], After: after})
	p.records[key] = after
}

// expiring writes a record that expires.
func (p *past) expiring(key, value string, at time.Time) {
	p.revision++
	txn := client.Transaction{Revision: p.revision}
	p.set(&txn, key, &client.Record{Key: key, Value: []byte(value), ExpiresAt: at, ModRevision: p.revision})
	p.txns = append(p.txns, txn)
}

// plan undoes the transactions from to to, both included.
func (p *past) plan(from, to int, now time.Time, all bool) client.UndoPlan {
	current := func(key string) *client.Record {
		if rec := p.records[key]; rec != nil && (rec.ExpiresAt.IsZero() || rec.ExpiresAt.After(now)) {
			return rec
		}
		return nil
	}
	return client.PlanUndo(p.txns[from-1:to], current, now, all)
}

func text(rec *client.Record) string {
	if rec == nil {
		return "-"
	}
	return string(rec.Value)
}

func writes(plan client.UndoPlan) (out []string) {
	for _, w := range plan.Writes {
		line := fmt.Sprintf("%s: %s -> %s", w.Key, text(w.Now), text(w.Then))
		if w.Conflict {
			line += " conflict"
		}
		out = append(out, line)
	}
	return out
}

func want(t *testing.T, what string, got, want []string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestUndoBringsBackWhatWas(t *testing.T) {
	now := time.Now()
	var p past
	p.write("a", "1", "b", "1")           // 1
	p.write("a", "2", "c", "1")           // 2
	p.write("a", "3", "b", "")            // 3
	p.write("same", "x", "fleeting", "1") // 4
	p.write("same", "", "fleeting", "")   // 5
	p.write("c", "9")                     // 6
	want(t, "of changed, made and deleted ones", writes(p.plan(2, 3, now, false)), []string{"a: 3 -> 1", "b: - -> 1", "c: 9 -> - conflict"})
	want(t, "of the newest", writes(p.plan(6, 6, now, false)), []string{"c: 9 -> 1"})
	want(t, "of what undid itself", writes(p.plan(4, 5, now, false)), nil)
	want(t, "of one that was changed again", writes(p.plan(2, 2, now, false)), []string{"a: 3 -> 1 conflict", "c: 9 -> - conflict"})
	want(t, "of a creation that was undone", writes(p.plan(4, 4, now, false)), nil)
	want(t, "of everything", writes(p.plan(1, 6, now, false)), []string{"a: 3 -> -", "c: 9 -> -"})
	if n := len(p.plan(2, 3, now, false).Conflicts()); n != 1 {
		t.Errorf("%d conflicts; want 1", n)
	}
}

func TestUndoOfAnUndo(t *testing.T) {
	now := time.Now()
	var p past
	p.write("a", "1")
	p.write("a", "2", "b", "1")
	for range 2 { // an undo, and its undo
		plan := p.plan(int(p.revision), int(p.revision), now, false)
		var pairs []string
		for _, w := range plan.Writes {
			value := ""
			if w.Then != nil {
				value = string(w.Then.Value)
			}
			pairs = append(pairs, w.Key, value)
		}
		p.write(pairs...)
	}
	if text(p.records["a"]) != "2" || text(p.records["b"]) != "1" {
		t.Errorf("a is %s, b is %s; want 2 and 1 again", text(p.records["a"]), text(p.records["b"]))
	}
}

func TestUndoLetsExpiredRecordsBe(t *testing.T) {
	now := time.Now()
	var p past
	p.expiring("gone", "1", now.Add(-time.Minute)) // 1
	p.expiring("alive", "1", now.Add(time.Minute)) // 2
	p.write("gone", "", "alive", "")               // 3
	plan := p.plan(3, 3, now, false)
	want(t, "of the deletions", writes(plan), []string{"alive: - -> 1"})
	want(t, "expired", plan.Expired, []string{"gone"})
	if !plan.Writes[0].Then.ExpiresAt.Equal(now.Add(time.Minute)) {
		t.Errorf("it expires at %v", plan.Writes[0].Then.ExpiresAt)
	}
	var q past
	q.write("k", "forever")                     // 1
	q.expiring("k", "for a while", now.Add(-1)) // 2, expired and not swept
	want(t, "of one that has expired", writes(q.plan(2, 2, now, false)), []string{"k: - -> forever"})
}

func TestUndoLeavesDerivedKeysOut(t *testing.T) {
	now := time.Now()
	var p past
	p.write("vortex:app:web", "1", "vortex:config:cluster", "1", "vortex:schema:x", "1", "vortex:release:web:1", "1",
		"vortex:token:t", "1", "router:web", "1", "routers", "1", "mine", "1")
	plan := p.plan(1, 1, now, false)
	want(t, "derived", plan.Derived, []string{"router:web", "vortex:release:web:1", "vortex:token:t"})
	want(t, "written", writes(plan), []string{
		"mine: 1 -> -", "routers: 1 -> -", "vortex:app:web: 1 -> -", "vortex:config:cluster: 1 -> -", "vortex:schema:x: 1 -> -",
	})
	if all := p.plan(1, 1, now, true); len(all.Writes) != 8 || len(all.Derived) != 0 {
		t.Errorf("all: %v, without %v", writes(all), all.Derived)
	}
}
