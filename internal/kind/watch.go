package kind

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"vortex"
	"vortex/internal/kind/ksl"
)

// Event is one key's change. Record is nil when it was deleted, Prev is nil when it was created.
type Event struct {
	Key      string
	Revision int64
	Deleted  bool
	Record   *Record
	Prev     *Record

	memo *Memo
}

// Memo keeps what was made of an event, such as its encoding, for all watchers that get it.
type Memo struct{ made atomic.Value }

// Once returns what build made of the event, for whichever watcher came first. All callers have to build the same
// type of value.
func (ev Event) Once(build func(Event) any) any {
	if ev.memo == nil {
		return build(ev)
	}
	if made := ev.memo.made.Load(); made != nil {
		return made
	}
	made := build(ev)
	ev.memo.made.CompareAndSwap(nil, made)
	return made
}

// Batch is what one transaction changed, as far as a watcher asked for it. A batch without events only tells that
// everything up to its revision was seen; it comes only to who asked for progress.
type Batch struct {
	Revision int64
	Time     time.Time // when it happened, up to a tenth of a second earlier; zero where it is not known
	Events   []Event
}

// size is about how much memory the batch holds on to.
func (b Batch) size() (bytes int64) {
	const overhead = 128
	for _, ev := range b.Events {
		bytes += overhead + int64(len(ev.Key))
		if ev.Record != nil {
			bytes += int64(len(ev.Record.Value))
		} else if ev.Prev != nil {
			bytes += int64(len(ev.Prev.Value))
		}
	}
	return bytes
}

// WatchOptions select events. The zero value is everything from now on.
type WatchOptions struct {
	// Prefixes select the keys that start with one of them; none selects all.
	Prefixes []string
	// Filter, when set, selects the changes of records that match it, or matched it before the change: a record
	// that stops matching is seen once more, as the put or delete that it was.
	Filter *Filter
	// From replays every transaction with a revision >= From first; 0 starts after what reads show now.
	From int64
	// Previous asks for Prev in events of the engine's history too, at the price of a read for each.
	Previous bool
	// Progress makes Next return a batch without events when history was replayed, and then when nothing came for so
	// long although the store moved on. 0 asks for none.
	Progress time.Duration
}

// Watch is a subscription to changes. It never delays a writer: what its reader did not take yet is bounded in batches
// and bytes, and a reader that lags further behind finds an error of kind Exhausted.
type Watch struct {
	opts     WatchOptions
	prefixes []string
	shared   *Filter // that the topic applies
	own      *Filter // that the watch itself applies
	store    *Store
	ready    chan struct{} // one slot
	dropped  chan struct{} // closed when the watch fell too far behind
	feed     *Feed         // that the watch is part of; nil when it is read by itself

	// The reader's own.
	history  *history // read from the engine before the rest; nil when there is none
	told     int64    // the revision of the last batch that Next returned
	markDue  bool     // Next has to tell where it is though nothing came
	nextFrom int64    // skip what is older

	mu        sync.Mutex
	topic     *topic
	place     *link              // the last batch taken of the topic
	backlog   []Batch            // of all keys, to be taken before the topic
	queue     []Batch            // what was left when the watch ended
	interrupt context.CancelFunc // makes a reader return that waits for the engine's history
	err       error
}

// Watch subscribes to changes. Resuming from a revision that the engine no longer keeps ends the watch with OutOfRange.
func (s *Store) Watch(opts WatchOptions) *Watch {
	w := s.newWatch(opts, opts.From)
	s.hub.add(w)
	if opts.From == 0 {
		w.nextFrom = s.Revision() + 1 // what reads show already may still be on its way to watchers
	}
	if !s.hub.attach(w, opts.From) {
		w.history = &history{watch: w}
		w.wake()
	}
	if opts.Progress > 0 {
		w.wake()
	}
	return w
}

// newWatch returns a watch that the hub does not know yet.
func (s *Store) newWatch(opts WatchOptions, from int64) *Watch {
	w := &Watch{
		opts: opts, prefixes: narrow(opts.Prefixes), store: s, nextFrom: from,
		ready: make(chan struct{}, 1), dropped: make(chan struct{}), markDue: opts.Progress > 0,
	}
	if indexed, _ := s.indexedFilter(opts); indexed {
		w.shared = opts.Filter
	} else {
		w.own = opts.Filter
	}
	return w
}

// Subscribe is Watch for requests from outside. It refuses a filter on a field that is not indexed in a type the
// prefixes lie in, with Invalid, and a revision that the engine is still far from, with OutOfRange: after the engine
// was replaced, by a backup for instance, waiting for it would miss everything until then.
func (s *Store) Subscribe(ctx context.Context, opts WatchOptions) (*Watch, error) {
	if _, err := s.indexedFilter(opts); err != nil {
		return nil, err
	}
	if opts.From > s.hub.last.Load()+1 {
		newest, err := s.cfg.Engine.ReadIndex(ctx)
		if err != nil {
			return nil, s.noticed(err)
		}
		if opts.From > newest+1 {
			return nil, vortex.Errorf(vortex.OutOfRange,
				"revision %d is of the future, the newest is %d; if the store was restored from a backup, list again and watch from there", opts.From, newest)
		}
	}
	return s.Watch(opts), nil
}

// indexedFilter reports whether the filter is on a field that is indexed in the types of all prefixes. Where some
// prefix lies in a type that does not index the field it is an error of kind Invalid.
func (s *Store) indexedFilter(opts WatchOptions) (bool, error) {
	if opts.Filter == nil {
		return false, nil
	}
	schema, typed := s.Schema(), 0
	for _, p := range opts.Prefixes {
		typ, ok := schema.TypeOf(p)
		if !ok {
			continue
		}
		typed++
		switch names := indexedNames(typ); {
		case slices.Contains(names, opts.Filter.Field):
		case len(names) == 0:
			return false, vortex.Errorf(vortex.Invalid, "%s.%s is not indexed, so a watch cannot filter on it, nor on any other field of %s", typ.Name, opts.Filter.Field, typ.Name)
		default:
			return false, vortex.Errorf(vortex.Invalid, "%s.%s is not indexed, so a watch cannot filter on it; filter on one of %s",
				typ.Name, opts.Filter.Field, strings.Join(names, ", "))
		}
	}
	return typed > 0 && typed == len(opts.Prefixes), nil
}

func indexedNames(typ *ksl.Type) (names []string) {
	for _, f := range typ.Indexed() {
		names = append(names, f.Name)
	}
	return names
}

// Watchers returns how many watches are open.
func (s *Store) Watchers() int { return s.hub.count() }

// follow gives the watch its place in a topic.
func (w *Watch) follow(t *topic, backlog []Batch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.place, w.backlog = t.tail.Load(), backlog
	}
	w.topic = t
}

// leave takes the watch off its topic, which it returns.
func (w *Watch) leave() *topic {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.topic
	w.topic, w.place, w.backlog, w.queue = nil, nil, nil, nil
	return t
}

// notice wakes the reader when it has something to take, or ends the watch when it is further behind than limit.
func (w *Watch) notice(limit lag) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.place != nil {
		w.judge(limit)
	}
	if w.err != nil || len(w.backlog) > 0 || w.place != nil && w.place.next.Load() != nil {
		w.wake()
	}
}

// judge ends the watch if it is too far behind. The caller holds the lock.
func (w *Watch) judge(limit lag) {
	end := w.topic.tail.Load().end
	behind := lag{end.batches - w.place.end.batches, end.bytes - w.place.end.bytes}
	if behind.batches <= limit.batches && (behind.bytes <= limit.bytes || behind.batches <= 1) {
		return
	}
	w.err = vortex.Errorf(vortex.Exhausted,
		"the watcher fell %d transactions (%d KiB) behind and was dropped; list again and watch from there, or resume from the last revision seen", behind.batches, behind.bytes>>10)
	w.place, w.backlog = nil, nil
	close(w.dropped)
	if w.feed != nil {
		w.feed.drop()
	}
}

// fail ends the watch after what is queued.
func (w *Watch) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.queue = w.chained()
		w.end(err)
	}
}

// drop ends the watch and forgets what is queued.
func (w *Watch) drop(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue, w.backlog = nil, nil
	w.end(err)
}

// end notes why the watch ended, and wakes its reader. The caller holds the lock.
func (w *Watch) end(err error) {
	w.err, w.place = err, nil
	if w.interrupt != nil {
		w.interrupt()
	}
	w.wake()
}

func (w *Watch) wake() { signal(w.ready) }

// chained takes everything up to the end of the topic. The caller holds the lock.
func (w *Watch) chained() (taken []Batch) {
	if w.place == nil {
		return nil
	}
	for l := w.place.next.Load(); l != nil; l = l.next.Load() {
		w.place = l
		taken = append(taken, l.batch)
	}
	return taken
}

// chosen returns what the watch asked for of the batches of all keys and of those of its topic, which follow.
func (w *Watch) chosen(all, topical []Batch) []Batch {
	if len(all) == 0 && w.own == nil && (len(topical) == 0 || topical[0].Revision >= w.nextFrom) {
		return topical
	}
	var chosen []Batch
	for _, b := range slices.Concat(all, topical) {
		if b.Revision < w.nextFrom {
			continue
		}
		if b.Events = w.selects(b.Events); len(b.Events) > 0 {
			chosen = append(chosen, b)
		}
	}
	return chosen
}

// selects returns the events the watch asked for.
func (w *Watch) selects(events []Event) []Event {
	unwanted := func(ev Event) bool { return !w.wants(ev.Key) || !w.passes(ev) }
	if !slices.ContainsFunc(events, unwanted) {
		return events
	}
	return slices.DeleteFunc(slices.Clone(events), unwanted)
}

// wants reports whether the watch selects a key.
func (w *Watch) wants(key string) bool {
	return slices.ContainsFunc(w.prefixes, func(p string) bool { return strings.HasPrefix(key, p) })
}

// passes reports whether the filter lets an event through: its record matches, or matched before.
func (w *Watch) passes(ev Event) bool {
	f := w.opts.Filter
	return f == nil ||
		ev.Record != nil && jsonField(ev.Record.Value, f.Field) == f.Value ||
		ev.Prev != nil && jsonField(ev.Prev.Value, f.Field) == f.Value
}

// Told reports whether every watch has, or has pending, all that a read shows now. A moment after a change it is not so.
func (s *Store) Told() bool {
	rev := s.Revision()
	return s.hub.last.Load() >= rev
}

// Pending reports whether Take has something to return. It knows at once, a moment before Ready does.
func (w *Watch) Pending() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err != nil || len(w.queue)+len(w.backlog) > 0 || w.place != nil && w.place.next.Load() != nil
}

// Ready holds a value when Take has something to return.
func (w *Watch) Ready() <-chan struct{} { return w.ready }

// Dropped is closed when the reader fell too far behind, also while it is busy elsewhere. What was queued is lost.
func (w *Watch) Dropped() <-chan struct{} { return w.dropped }

// Take returns everything queued, oldest first, or the error that ended the watch when
// nothing is left. It does not wait, except for history that the engine still has to send.
func (w *Watch) Take() ([]Batch, error) { return w.take(context.Background()) }

func (w *Watch) take(ctx context.Context) ([]Batch, error) {
	if w.history != nil {
		return w.takeHistory(ctx)
	}
	all, topical, err := w.unchosen()
	if err != nil && len(all)+len(topical) > 0 {
		w.wake() // the error comes next
		err = nil
	}
	return w.chosen(all, topical), err
}

// unchosen takes what is queued: the batches of all keys that came before the topic's, and the topic's. After the
// last of them comes the error that ended the watch.
func (w *Watch) unchosen() (all, topical []Batch, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.place != nil {
		w.judge(w.store.hub.limit)
	}
	topical, all = w.queue, w.backlog
	if w.err == nil {
		topical = w.chained()
	}
	w.queue, w.backlog = nil, nil
	return all, topical, w.err
}

// Next waits until something is queued and returns it, or the error that ended the watch or ctx. Once ctx
// has ended, another call with another ctx goes on where this one was.
func (w *Watch) Next(ctx context.Context) ([]Batch, error) {
	var idle <-chan time.Time
	if w.opts.Progress > 0 {
		timer := time.NewTimer(w.opts.Progress)
		defer timer.Stop()
		idle = timer.C
	}
	for {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-idle:
			w.markDue = true
		case <-w.ready:
		}
		reached := w.store.hub.last.Load() // before taking: everything up to it is taken then
		replaying := w.history != nil      // the take that ends it leaves what memory holds to the next
		batches, err := w.take(ctx)
		switch {
		case err != nil:
			return nil, err
		case len(batches) > 0:
			w.told = batches[len(batches)-1].Revision
			return batches, nil
		case w.markDue && !replaying:
			w.markDue = false
			if reached > w.told {
				w.told = reached
				return []Batch{{Revision: reached}}, nil
			}
		}
	}
}

// Close ends the subscription. No other method may be running.
func (w *Watch) Close() {
	if w.history != nil {
		w.history.stop()
		w.history = nil
	}
	w.store.hub.detach(w)
}
