package client

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"time"

	"vortex"
	kindpb "vortex/proto/kind"
)

// UndoWrite is one write of an undo: what is there now, and what will be. Now or Then is nil where nothing is.
type UndoWrite struct {
	Key       string
	Now, Then *Record
	// Conflict says that the key was changed again after what is undone: the write would undo that as well.
	Conflict bool
}

// UndoPlan is what undoing some transactions takes.
type UndoPlan struct {
	// Writes bring back what was, in key order; a key that is as it was already has none.
	Writes []UndoWrite
	// Derived are the keys left out because the loops of the cluster own them: they follow from the rest.
	Derived []string
	// Expired are the keys whose records would have expired by now, and so do not come back.
	Expired []string
}

// Conflicts returns the writes that would also undo a later change.
func (p UndoPlan) Conflicts() []UndoWrite {
	return slices.DeleteFunc(slices.Clone(p.Writes), func(w UndoWrite) bool { return !w.Conflict })
}

// declared are the prefixes below vortex: that people write through the API. The rest is observed or
// derived by the loops, which make it follow, and a revoked token has to stay revoked.
var declared = []string{"vortex:app:", "vortex:config:", "vortex:schema:", "vortex:role:"}

// Derived reports whether a key belongs to the loops of the cluster, so that an undo leaves it out.
func Derived(key string) bool {
	if !strings.HasPrefix(key, "vortex:") {
		return strings.HasPrefix(key, vortex.Routers.Prefix+":")
	}
	return !slices.ContainsFunc(declared, func(p string) bool { return strings.HasPrefix(key, p) })
}

// span is what some transactions did to one key.
type span struct{ before, after *Record }

// PlanUndo computes what undoes transactions, given oldest first, so that each key holds again what it held before the first of
// them. It is pure: current returns what a key holds at now, nil when nothing. Derived keys are left out unless all is set.
func PlanUndo(txns []Transaction, current func(key string) *Record, now time.Time, all bool) UndoPlan {
	spans := map[string]*span{}
	var keys []string
	for _, txn := range txns {
		for _, c := range txn.Changes {
			s, ok := spans[c.Key]
			if !ok {
				s = &span{before: c.Before}
				spans[c.Key] = s
				keys = append(keys, c.Key)
			}
			s.after = c.After
		}
	}
	slices.Sort(keys)
	var plan UndoPlan
	for _, key := range keys {
		if !all && Derived(key) {
			plan.Derived = append(plan.Derived, key)
			continue
		}
		plan = plan.with(key, *spans[key], current(key), now)
	}
	return plan
}

// with adds the undo of one key.
func (p UndoPlan) with(key string, s span, now *Record, at time.Time) UndoPlan {
	then, gone := alive(s.before, at)
	if gone {
		p.Expired = append(p.Expired, key)
	}
	left, _ := alive(s.after, at)
	if equal(now, then) {
		return p
	}
	p.Writes = append(p.Writes, UndoWrite{Key: key, Now: now, Then: then, Conflict: revisionOf(now) != revisionOf(left)})
	return p
}

// alive returns a record, or nil and true when it has expired.
func alive(rec *Record, at time.Time) (*Record, bool) {
	if rec != nil && !rec.ExpiresAt.IsZero() && !rec.ExpiresAt.After(at) {
		return nil, true
	}
	return rec, false
}

// equal reports whether two records hold the same.
func equal(a, b *Record) bool {
	if a == nil || b == nil {
		return a == b
	}
	return bytes.Equal(a.Value, b.Value) && a.ExpiresAt.Equal(b.ExpiresAt)
}

func revisionOf(rec *Record) uint64 {
	if rec == nil {
		return 0
	}
	return rec.ModRevision
}

// PlanUndo reads the transactions from one state to another, both included, below a prefix, and computes what undoes them.
func (k *Kind) PlanUndo(ctx context.Context, prefix string, from, to At, all bool) (UndoPlan, error) {
	var txns []Transaction
	for txn, err := range k.History(ctx, prefix, from, to) {
		if err != nil {
			return UndoPlan{}, err
		}
		txns = append(txns, txn)
	}
	if len(txns) == 0 {
		return UndoPlan{}, vortex.Errorf(vortex.NotFound, "no transaction in that span changed anything here; `vortex kv history` lists them")
	}
	var failed error
	current := func(key string) *Record {
		rec, err := k.Get(ctx, key)
		switch {
		case vortex.IsKind(err, vortex.NotFound):
			return nil
		case err != nil:
			failed = err
			return nil
		}
		return &rec
	}
	plan := PlanUndo(txns, current, time.Now(), all)
	return plan, failed
}

// Undo carries out a plan in one transaction and returns its revision. When anything has changed since the
// plan was made, nothing is written and the error is of kind Conflict.
func (k *Kind) Undo(ctx context.Context, plan UndoPlan) (uint64, error) {
	req := &kindpb.TxnRequest{}
	for _, w := range plan.Writes {
		req.Compares = append(req.Compares, &kindpb.Compare{Key: w.Key, Target: &kindpb.Compare_ModRevision{ModRevision: revisionOf(w.Now)}})
		req.Operations = append(req.Operations, w.operation(time.Now()))
	}
	resp, err := k.client.Txn(ctx, req)
	if err != nil {
		return 0, k.fail(ctx, err)
	}
	if !resp.GetSuccess() {
		return 0, vortex.Errorf(vortex.Conflict, "something changed while the undo was looked at; nothing was written: undo again")
	}
	return resp.GetRevision(), nil
}

// operation is the write on the wire.
func (w UndoWrite) operation(now time.Time) *kindpb.Operation {
	if w.Then == nil {
		return &kindpb.Operation{Operation: &kindpb.Operation_Delete{Delete: &kindpb.DeleteRequest{Key: w.Key}}}
	}
	put := &kindpb.PutRequest{Key: w.Key, Value: w.Then.Value}
	if at := w.Then.ExpiresAt; !at.IsZero() {
		put.TtlMs = millis(max(at.Sub(now), time.Millisecond)) // what is left
	}
	return &kindpb.Operation{Operation: &kindpb.Operation_Put{Put: put}}
}
