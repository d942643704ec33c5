package kind

import (
	"cmp"
	"context"
	"iter"

	"vortex"
)

// history reads the transactions from the engine that are older than what memory holds. It belongs to
// the watch's reader.
type history struct {
	watch  *Watch
	next   func() (Batch, error, bool)
	finish func()             // ends next
	cancel context.CancelFunc // makes a next that waits return
}

// start makes the engine send from revision from on.
func (h *history) start(from int64) {
	ctx, cancel := context.WithCancel(context.Background())
	h.next, h.finish = iter.Pull2(h.watch.store.replay(ctx, from))
	h.cancel = cancel
	h.watch.mu.Lock()
	defer h.watch.mu.Unlock()
	if h.watch.interrupt = cancel; h.watch.err != nil {
		cancel()
	}
}

// stop lets go of the engine; start may follow.
func (h *history) stop() {
	if h.next == nil {
		return
	}
	h.cancel()
	h.finish()
	h.next, h.finish, h.cancel = nil, nil, nil
}

// takeHistory returns the next transaction of the engine's history. Once memory holds everything that is
// left, the watch follows that.
func (w *Watch) takeHistory(ctx context.Context) ([]Batch, error) {
	w.wake()
	if err := w.ended(); err != nil {
		return nil, err
	}
	h := w.history
	if h.next == nil {
		h.start(w.nextFrom)
	}
	stop := context.AfterFunc(ctx, h.cancel)
	b, err, ok := h.next()
	stop()
	switch {
	case err != nil || !ok: // without an error ctx ended, not the history: the next call goes on
		h.stop()
		return nil, cmp.Or(w.ended(), context.Cause(ctx), err)
	case w.store.hub.attach(w, b.Revision): // memory holds it too
		w.nextFrom = b.Revision
		h.stop()
		w.history = nil
		return nil, nil
	}
	w.nextFrom = b.Revision + 1
	events, err := w.historic(ctx, b)
	if err != nil || len(events) == 0 {
		return nil, err
	}
	return []Batch{{Revision: b.Revision, Time: b.Time, Events: events}}, nil
}

// ended returns the error that ended the watch.
func (w *Watch) ended() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// historic returns the events of a batch of the engine's history that the watch asked for.
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
