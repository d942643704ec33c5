package kind

import (
	"cmp"
	"context"
	"iter"
	"time"

	"vortex"
)

// history reads the transactions from the engine that are older than what memory holds. It belongs to
// the watch's reader.
type history struct {
	watch  *Watch
	ctx    context.Context //nolint:containedctx // the engine's iterator lives as long as it
	cancel context.CancelFunc
	next   func() (Batch, error, bool)
	finish func()      // ends next
	rest   *time.Timer // lets go of the engine while the reader is away, for an engine buffers without bound
}

// historyRest is how long a reader may be away before the engine stops sending to it.
const historyRest = time.Second

// read returns the engine's next batch. ok is false when ctx, the watch or a rest ended the reading, which the next
// call takes up.
func (h *history) read(ctx context.Context) (b Batch, ok bool, err error) {
	if h.next == nil {
		h.start()
	}
	h.rest.Stop()
	stop := context.AfterFunc(ctx, h.cancel)
	b, err, ok = h.next()
	stop()
	if err != nil || !ok {
		if h.ctx.Err() != nil {
			err = nil
		}
		h.stop()
		return b, false, err
	}
	h.rest.Reset(historyRest)
	return b, true, nil
}

// start makes the engine send what the watch wants next.
func (h *history) start() {
	w := h.watch
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.next, h.finish = iter.Pull2(w.store.replay(h.ctx, w.nextFrom))
	h.rest = time.AfterFunc(historyRest, h.cancel)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.interrupt = h.cancel; w.err != nil {
		h.cancel()
	}
}

// stop lets go of the engine; start may follow.
func (h *history) stop() {
	if h.next == nil {
		return
	}
	h.rest.Stop()
	h.cancel()
	h.finish()
	h.next, h.finish = nil, nil
}

// takeHistory returns the next transaction of the engine's history. Once memory holds everything that is
// left, the watch follows that.
func (w *Watch) takeHistory(ctx context.Context) ([]Batch, error) {
	w.wake()
	if err := w.ended(); err != nil {
		return nil, err
	}
	b, ok, err := w.history.read(ctx)
	if err != nil || !ok {
		return nil, cmp.Or(w.ended(), context.Cause(ctx), err)
	}
	if w.store.hub.attach(w, b.Revision) { // memory holds it too
		w.nextFrom = b.Revision
		w.history.stop()
		w.history = nil
		return nil, nil
	}
	if b.Events, err = w.historic(ctx, b); err != nil {
		w.history.stop() // the next call reads the batch again
		return nil, err
	}
	w.nextFrom = b.Revision + 1
	if len(b.Events) == 0 {
		return nil, nil
	}
	return []Batch{b}, nil
}

// ended returns the error that ended the watch.
func (w *Watch) ended() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// historic returns the events of an old batch that the watch asked for, with what stood there before where it needs that.
func (w *Watch) historic(ctx context.Context, b Batch) ([]Event, error) {
	var events []Event
	for _, ev := range b.Events {
		if !w.wants(ev.Key) {
			continue
		}
		created := !ev.Deleted && ev.Record.CreateRevision == ev.Record.ModRevision
		if !created && (w.opts.Previous || w.opts.Filter != nil) {
			prev, known, err := w.store.before(ctx, ev.Key, b.Revision)
			if err != nil {
				return nil, err
			}
			if ev.Prev = prev; !known && w.opts.Filter != nil {
				events = append(events, ev) // it may have matched before
				continue
			}
		}
		if w.passes(ev) {
			events = append(events, ev)
		}
	}
	return events, nil
}

// before reads what stood at key before a revision, nil when nothing did. It is not known when the engine compacted it.
func (s *Store) before(ctx context.Context, key string, revision int64) (rec *Record, known bool, err error) {
	rev := revision - 1
	if rev <= 0 {
		return nil, true, nil
	}
	for kv, err := range s.cfg.Engine.Range(ctx, key, key+"\x00", &rev) {
		if vortex.IsKind(err, vortex.OutOfRange) {
			return nil, false, nil
		}
		if err != nil {
			return nil, false, err
		}
		if rec, err = unsealed(kv); err != nil {
			return nil, false, err
		}
	}
	return rec, true, nil
}
