package agent

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"vortex"
	"vortex/internal/kind"
)

// writer carries records to the store. Whoever puts a record never waits; while one transaction is on its way further
// changes gather, only the newest of each key, and go together in the next.
type writer struct {
	store *kind.Store
	log   *slog.Logger
	dirty chan struct{} // one slot

	mu      sync.Mutex
	pending map[string]kind.Op
}

const (
	maxOps     = 2000 // of one transaction
	firstRetry = 10 * time.Millisecond
	lastRetry  = time.Second
)

func newWriter(store *kind.Store, log *slog.Logger) *writer {
	return &writer{store: store, log: log, dirty: make(chan struct{}, 1), pending: map[string]kind.Op{}}
}

// put queues the write of one record.
func put[T any](w *writer, t vortex.Table[T], value *T, id string) {
	op, err := kind.PutOp(t, value, id)
	if err != nil {
		w.log.Error("Record cannot be encoded", "key", t.Key(id), "err", err)
		return
	}
	w.queue(op)
}

func (w *writer) queue(op kind.Op) {
	w.mu.Lock()
	w.pending[op.Key] = op
	w.mu.Unlock()
	select {
	case w.dirty <- struct{}{}:
	default:
	}
}

// run writes until ctx ends.
func (w *writer) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.dirty:
		}
		w.drain(ctx)
	}
}

// finish writes what is left, within patience.
func (w *writer) finish(ctx context.Context, patience time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	w.drain(ctx)
}

// drain writes until nothing is pending, trying again while the store is away.
func (w *writer) drain(ctx context.Context) {
	retry := firstRetry
	for ctx.Err() == nil {
		batch := w.take()
		if len(batch) == 0 {
			return
		}
		err := w.commit(ctx, batch)
		if err == nil {
			retry = firstRetry
			continue
		}
		w.restore(batch)
		if ctx.Err() == nil && retry == firstRetry {
			w.log.WarnContext(ctx, "Records not written yet", "records", len(batch), "err", err)
		}
		if !pause(ctx, retry) {
			return
		}
		retry = min(2*retry, lastRetry)
	}
}

// take removes the next batch from what is pending.
func (w *writer) take() []kind.Op {
	w.mu.Lock()
	defer w.mu.Unlock()
	var batch []kind.Op
	if len(w.pending) <= maxOps {
		batch = slices.Collect(maps.Values(w.pending))
		clear(w.pending)
		return batch
	}
	for key, op := range w.pending {
		if len(batch) == maxOps {
			break
		}
		batch = append(batch, op)
		delete(w.pending, key)
	}
	return batch
}

// restore puts a batch back that was not written, except where something newer is pending.
func (w *writer) restore(batch []kind.Op) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, op := range batch {
		if _, newer := w.pending[op.Key]; !newer {
			w.pending[op.Key] = op
		}
	}
}

// commit writes a batch in one transaction. A record that the schema or the servers refuse must not hold up the others, so
// then they are written one by one and the refused one is dropped.
func (w *writer) commit(ctx context.Context, batch []kind.Op) error {
	batch = slices.DeleteFunc(batch, w.done)
	if len(batch) == 0 {
		return nil
	}
	_, err := w.store.Commit(ctx, kind.Txn{Ops: batch})
	if !refused(err) {
		return err
	}
	for _, op := range batch {
		_, err := w.store.Commit(ctx, kind.Txn{Ops: []kind.Op{op}})
		if refused(err) {
			w.log.ErrorContext(ctx, "Record refused by the store", "key", op.Key, "err", err)
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// refused reports whether a record will not be taken however often it is written: it is none of its type, or it has become
// another node's.
func refused(err error) bool {
	return vortex.IsKind(err, vortex.Invalid) || vortex.IsKind(err, vortex.Denied)
}

// done reports whether the store holds already what op would write.
func (w *writer) done(op kind.Op) bool {
	rec, err := w.store.Get(op.Key)
	if op.Delete {
		return err != nil
	}
	return err == nil && bytes.Equal(rec.Value, op.Value)
}
