package kind

import (
	"cmp"
	"context"
	"iter"
	"strings"
	"sync"
	"time"

	"vortex"
)

// Event is one key's change. Record is nil when it was deleted, Prev is nil when it was created.
type Event struct {
	Key      string
	Revision int64
	Deleted  bool
	Record   *Record
	Prev     *Record
}

// Batch is what one transaction changed, as far as a watcher asked for it.
type Batch struct {
	Revision int64
	Time     time.Time // when it happened, up to a tenth of a second earlier; zero where it is not known
	Events   []Event
}

// WatchOptions select events. The zero value is everything from now on.
type WatchOptions struct {
	// Prefixes select the keys that start with one of them; none selects all.
	Prefixes []string
	// Filter, when set, selects records that match it, or matched it before the change.
	Filter *Filter
	// From replays every transaction with a revision >= From first; 0 starts now.
	From int64
}

// Watch is a subscription to changes. It buffers a bounded number of batches and never delays a writer:
// when its reader lags too far behind, it ends with an error of kind Exhausted.
type Watch struct {
	opts  WatchOptions
	hub   *hub
	limit int
	ready chan struct{} // one slot

	mu     sync.Mutex
	queue  []Batch
	err    error
	catch  func() (Batch, error, bool) // reads history from the engine until revision start
	stop   func()                      // ends catch
	cancel func()                      // makes a catch that waits return
	abort  func()                      // the same for those who do not own the watch
	start  int64
}

// hub hands each batch to every watcher and keeps the newest for those that resume.
type hub struct {
	buffer int

	mu      sync.Mutex
	watches map[*Watch]struct{}
	recent  []Batch // consecutive transactions, oldest first
	last    int64
	closed  bool
}

// recentBatches is how many transactions are kept in memory for watchers that resume.
const recentBatches = 4096

func newHub(buffer int) *hub { return &hub{buffer: buffer, watches: map[*Watch]struct{}{}} }

// publish hands a batch to every watcher.
func (h *hub) publish(batch Batch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.recent) >= 2*recentBatches {
		h.recent = append(h.recent[:0:0], h.recent[recentBatches:]...)
	}
	h.recent = append(h.recent, batch)
	h.last = batch.Revision
	for w := range h.watches {
		w.offer(batch)
	}
}

// closeAll ends every watch because the store stops.
func (h *hub) closeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for w := range h.watches {
		w.fail(vortex.Errorf(vortex.Unavailable, "the store stops; watch again"))
	}
	clear(h.watches)
}

// restart ends every watch because the changes up to rev are not known one by one. The caller holds the lock.
func (h *hub) restart(rev int64) {
	h.recent, h.last = nil, rev
	for w := range h.watches {
		w.drop(vortex.Errorf(vortex.OutOfRange, "the store was loaded anew from its engine at revision %d, and what changed before is not known one by one; list again and watch from there", rev))
	}
	clear(h.watches)
}

// Watch subscribes to changes. Resuming from a revision that the engine no longer keeps ends the watch with OutOfRange.
func (s *Store) Watch(opts WatchOptions) *Watch {
	w := &Watch{opts: opts, hub: s.hub, limit: s.hub.buffer, ready: make(chan struct{}, 1)}
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if s.hub.closed {
		w.fail(vortex.Errorf(vortex.Unavailable, "the store stops; watch again"))
		return w
	}
	s.hub.watches[w] = struct{}{}
	current := max(s.hub.last, s.loaded)
	if opts.From == 0 || opts.From > current {
		return w
	}
	if recent := s.hub.recent; len(recent) > 0 && recent[0].Revision <= opts.From {
		for _, b := range recent {
			if b.Revision >= opts.From {
				w.offer(b)
			}
		}
		return w
	}
	w.replay(s, current)
	return w
}

// replay makes the watch read the engine's history up to revision current before what it is offered.
func (w *Watch) replay(s *Store, current int64) {
	ctx, cancel := context.WithCancel(context.Background())
	next, stop := iter.Pull2(s.replay(ctx, w.opts.From))
	w.start, w.catch, w.cancel, w.abort, w.stop = current, next, cancel, cancel, stop
	w.wake()
}

// offer queues a batch's matching events; a full queue ends the watch.
func (w *Watch) offer(b Batch) {
	if b.Revision < w.opts.From {
		return
	}
	events := w.selects(b.Events)
	if len(events) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return
	}
	if len(w.queue) >= w.limit {
		w.err = vortex.Errorf(vortex.Exhausted, "the watcher fell %d transactions behind and was dropped; list again and watch from there", w.limit)
		w.queue = nil
	} else {
		w.queue = append(w.queue, Batch{Revision: b.Revision, Time: b.Time, Events: events})
	}
	w.wake()
}

// fail ends the watch after what is queued.
func (w *Watch) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	w.wake()
}

// drop ends the watch and forgets what is queued.
func (w *Watch) drop(err error) {
	w.mu.Lock()
	w.queue = nil
	w.mu.Unlock()
	w.fail(err)
	if w.abort != nil {
		w.abort()
	}
}

// ended is the error that ended the watch, nil while it goes on.
func (w *Watch) ended() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

func (w *Watch) wake() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

// selects returns the events the watch asked for.
func (w *Watch) selects(events []Event) []Event {
	all := w.opts.Filter == nil
	for _, ev := range events {
		all = all && w.wants(ev.Key)
	}
	if all {
		return events
	}
	var selected []Event
	for _, ev := range events {
		if w.wants(ev.Key) && w.passes(ev) {
			selected = append(selected, ev)
		}
	}
	return selected
}

// wants reports whether the watch selects a key.
func (w *Watch) wants(key string) bool {
	for _, p := range w.opts.Prefixes {
		if strings.HasPrefix(key, p) {
			return true
		}
	}
	return len(w.opts.Prefixes) == 0
}

func (w *Watch) passes(ev Event) bool {
	f := w.opts.Filter
	return f == nil ||
		ev.Record != nil && jsonField(ev.Record.Value, f.Field) == f.Value ||
		ev.Prev != nil && jsonField(ev.Prev.Value, f.Field) == f.Value
}

// Ready holds a value when Take has something to return.
func (w *Watch) Ready() <-chan struct{} { return w.ready }

// Take returns everything queued, oldest first, or the error that ended the watch when
// nothing is left. It does not wait, except for history that the engine still has to send.
func (w *Watch) Take() ([]Batch, error) {
	if batch, ok, err := w.takeHistory(); ok || err != nil {
		return batch, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	queue := w.queue
	w.queue = nil
	if len(queue) == 0 && w.err != nil {
		return nil, w.err
	}
	if w.err != nil {
		w.wake()
	}
	return queue, nil
}

// takeHistory returns the next transaction of the engine's history, while the watch still reads it.
func (w *Watch) takeHistory() ([]Batch, bool, error) {
	for w.catch != nil {
		b, err, ok := w.catch()
		if err != nil || !ok {
			w.endHistory()
			return nil, false, cmp.Or(w.ended(), err)
		}
		if b.Revision >= w.start {
			w.endHistory()
		}
		w.wake()
		if b.Revision > w.start {
			return nil, false, nil
		}
		if events := w.selects(b.Events); len(events) > 0 {
			return []Batch{{Revision: b.Revision, Events: events}}, true, nil
		}
	}
	return nil, false, nil
}

func (w *Watch) endHistory() {
	w.cancel()
	w.stop()
	w.catch, w.stop, w.cancel = nil, nil, nil
	w.wake()
}

// Next waits until something is queued and returns it, or the error that ended the watch or ctx.
func (w *Watch) Next(ctx context.Context) ([]Batch, error) {
	if w.cancel != nil {
		defer context.AfterFunc(ctx, w.cancel)()
	}
	for {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-w.ready:
		}
		if batches, err := w.Take(); err != nil || len(batches) > 0 {
			return batches, err
		}
	}
}

// Close ends the subscription. No other method may be running.
func (w *Watch) Close() {
	w.hub.mu.Lock()
	delete(w.hub.watches, w)
	w.hub.mu.Unlock()
	if w.catch != nil {
		w.endHistory()
	}
}
