package etcd

import (
	"context"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"vortex/internal/kind/engine"
)

// Commit implements engine.Engine.
func (e *Engine) Commit(ctx context.Context, txn engine.Txn) (engine.Result, error) {
	if err := ctx.Err(); err != nil {
		return engine.Result{}, classify(ctx, "commit", err)
	}
	return e.groups.commit(ctx, txn)
}

// send commits transactions that have no key in common, in one transaction of etcd.
func (e *Engine) send(ctx context.Context, txns []engine.Txn) ([]engine.Result, error) {
	if e.room != nil {
		if err := e.room(size(txns)); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errSilent)
	defer cancel()
	ctx, end := e.impatient(ctx)
	defer end()
	member, ctx, release := e.route.bind(ctx)
	defer release()
	if len(txns) == 1 {
		result, err := e.sendOne(ctx, member, txns[0])
		return []engine.Result{result}, err
	}
	return e.sendMany(ctx, member, txns)
}

// afterwards is how long what was on its way when the leader, or the member in use, changed may still arrive.
const afterwards = 100 * time.Millisecond

// impatient returns a context that ends soon after the members have another leader: what was on its way to the old one may be lost, and
// nobody would ever tell.
func (e *Engine) impatient(ctx context.Context) (context.Context, func()) {
	if e.changed == nil {
		return ctx, func() {}
	}
	changed := e.changed()
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
		select {
		case <-ctx.Done():
		case <-time.After(afterwards):
			cancel(errSilent)
		}
	}()
	return ctx, func() { cancel(nil) }
}

// size is about what transactions take on disk: once in the log, once in the database.
func size(txns []engine.Txn) (bytes int) {
	for _, txn := range txns {
		for _, w := range txn.Writes {
			bytes += 2 * (len(w.Key) + len(w.Value) + writeCost)
		}
	}
	return bytes
}

// writeCost is about what a write takes besides its key and value.
const writeCost = 64

func (e *Engine) sendOne(ctx context.Context, member *clientv3.Client, txn engine.Txn) (engine.Result, error) {
	if len(txn.Compares) == 0 && len(txn.Writes) == 1 && !txn.Writes[0].Delete { // by far the most frequent, and cheaper so
		w := txn.Writes[0]
		resp, err := member.Put(ctx, e.prefix+w.Key, string(w.Value))
		if err != nil {
			return engine.Result{}, classify(ctx, "commit", err)
		}
		e.ours.to(resp.Header.Revision)
		return engine.Result{Committed: true, Revision: resp.Header.Revision}, nil
	}
	resp, err := member.Txn(ctx).If(e.compares(txn)...).Then(e.operations(txn)...).Commit()
	if err != nil {
		return engine.Result{}, classify(ctx, "commit", err)
	}
	if resp.Succeeded && len(txn.Writes) > 0 {
		e.ours.to(resp.Header.Revision)
	}
	return engine.Result{Committed: resp.Succeeded, Revision: resp.Header.Revision}, nil
}

// sendMany sends unconditional transactions as plain operations and the others as transactions inside the
// one of etcd, which judges all their compares before it writes anything.
func (e *Engine) sendMany(ctx context.Context, member *clientv3.Client, txns []engine.Txn) ([]engine.Result, error) {
	ops := make([]clientv3.Op, 0, len(txns))
	nested := make([]int, len(txns)) // the place of each transaction's answer, where it has one
	for i, txn := range txns {
		if len(txn.Compares) == 0 {
			ops = append(ops, e.operations(txn)...)
			continue
		}
		nested[i] = len(ops)
		ops = append(ops, clientv3.OpTxn(e.compares(txn), e.operations(txn), nil))
	}
	resp, err := member.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		return nil, classify(ctx, "commit", err)
	}
	results := make([]engine.Result, len(txns))
	ours := false
	for i, txn := range txns {
		results[i] = engine.Result{Committed: true, Revision: resp.Header.Revision}
		if len(txn.Compares) > 0 {
			results[i].Committed = resp.Responses[nested[i]].GetResponseTxn().GetSucceeded()
		}
		ours = ours || results[i].Committed && len(txn.Writes) > 0
	}
	if ours {
		e.ours.to(resp.Header.Revision)
	}
	return results, nil
}

func (e *Engine) compares(txn engine.Txn) []clientv3.Cmp {
	cmps := make([]clientv3.Cmp, len(txn.Compares))
	for i, c := range txn.Compares {
		cmps[i] = clientv3.Compare(clientv3.ModRevision(e.prefix+c.Key), "=", c.ModRevision)
	}
	return cmps
}

func (e *Engine) operations(txn engine.Txn) []clientv3.Op {
	ops := make([]clientv3.Op, len(txn.Writes))
	for i, w := range txn.Writes {
		if w.Delete {
			ops[i] = clientv3.OpDelete(e.prefix + w.Key)
		} else {
			ops[i] = clientv3.OpPut(e.prefix+w.Key, string(w.Value))
		}
	}
	return ops
}
