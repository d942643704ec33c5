package kind

import (
	"context"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"vortex"
)

// hub takes each batch from the apply path once and lets every watcher read it at its own pace.
//
// Publishing does not depend on the number of watchers: watchers of the same keys share a topic, a batch
// is linked to the topics it concerns, and one goroutine wakes their watchers afterwards.
type hub struct {
	limit lag           // how far behind a watcher may fall
	rouse chan struct{} // one slot: some topic is dirty
	last  atomic.Int64  // the newest revision published

	mu      sync.Mutex
	topics  topicIndex
	dirty   []*topic // with batches their watchers were not woken for
	watches map[*Watch]struct{}
	recent  recent
	closed  bool
}

// lag is a distance between two places of a topic.
type lag struct{ batches, bytes int64 }

const (
	crowd    = 32                    // so many watchers are woken in a moment
	wakeCost = 10 * time.Microsecond // pause for each watcher woken in a larger round: waking takes a few per cent of a core at most
	maxPause = 20 * time.Millisecond
)

func newHub(limit lag) *hub {
	return &hub{
		limit: limit, rouse: make(chan struct{}, 1), watches: map[*Watch]struct{}{},
		topics: topicIndex{nodes: map[string]*prefixNode{}, byKey: map[string]*topic{}, lengths: map[int]int{}},
	}
}

// publish hands a batch to the topics it concerns. Only the goroutine that applies batches calls it.
func (h *hub) publish(batch Batch) {
	h.mu.Lock()
	h.topics.gather(batch.Events)
	for _, t := range h.topics.touched {
		t.extend(batch)
		if !t.dirty {
			t.dirty = true
			h.dirty = append(h.dirty, t)
		}
	}
	wake := len(h.dirty) > 0
	h.recent.add(batch)
	h.last.Store(batch.Revision) // after the topics: who reads it and then its topic has everything up to it
	h.mu.Unlock()
	if wake {
		signal(h.rouse)
	}
}

// signal fills a one-slot channel.
func signal(slot chan struct{}) {
	select {
	case slot <- struct{}{}:
	default:
	}
}

// run wakes the watchers of what was published, until ctx ends. A crowd is woken with pauses in between, so that a
// thousand watchers of a busy prefix get several batches at once instead of the processor's time that writers need. Nobody
// else waits for a crowd.
func (h *hub) run(ctx context.Context) {
	var late []*topic           // crowds that wait for the pause to end
	var rested <-chan time.Time // ends the pause; nil when there is none
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.rouse:
		case <-rested:
			rested = nil
		}
		woken, waiting := 0, late
		late = nil
		for _, t := range h.takeDirty() {
			if !t.late {
				t.late = true
				waiting = append(waiting, t)
			}
		}
		for _, t := range waiting {
			if rested != nil && t.crowded() {
				late = append(late, t)
				continue
			}
			t.late = false
			if n := t.wake(h.limit); n > crowd {
				woken += n
			}
		}
		if woken > 0 {
			rested = time.After(min(time.Duration(woken)*wakeCost, maxPause))
		}
	}
}

func (h *hub) takeDirty() []*topic {
	h.mu.Lock()
	defer h.mu.Unlock()
	dirty := h.dirty
	h.dirty = nil
	for _, t := range dirty {
		t.dirty = false
	}
	return dirty
}

// closeAll ends every watch because the store stops.
func (h *hub) closeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for w := range h.watches {
		w.fail(errStopped())
	}
	clear(h.watches)
}

func errStopped() error { return vortex.Errorf(vortex.Unavailable, "the store stops; watch again") }

// reset ends every watch, because memory was loaded at revision rev and nobody can tell what happened before, or whether
// what is queued still holds. Whoever watched has to list again.
func (h *hub) reset(rev int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watches {
		w.drop(vortex.Errorf(vortex.OutOfRange, "the store was loaded anew from its engine at revision %d, and what changed before is not known one by one; list again and watch from there", rev))
	}
	clear(h.watches)
	h.recent.restart(rev)
	h.last.Store(rev)
}

// bridge publishes what is different after a gap. Nobody can resume from a revision inside of it.
func (h *hub) bridge(batch Batch) {
	h.publish(batch)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.recent.restart(batch.Revision)
}

// count returns how many watches there are.
func (h *hub) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.watches)
}

// add registers a watch; it fails at once when the store has stopped.
func (h *hub) add(w *Watch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		w.fail(errStopped())
		return
	}
	h.watches[w] = struct{}{}
}

// attach lets a watch follow its topic from revision from on, 0 being now, if memory still holds everything since
// then. What was published before comes from the recent batches.
func (h *hub) attach(w *Watch, from int64) bool {
	h.mu.Lock()
	if from != 0 && from <= h.recent.floor {
		h.mu.Unlock()
		return false
	}
	if h.closed {
		h.mu.Unlock()
		return true
	}
	t := h.topics.join(w.prefixes, w.shared)
	var backlog []Batch
	if from != 0 {
		backlog = h.recent.since(from)
	}
	w.follow(t, backlog)
	h.mu.Unlock()
	t.admit(w, h.limit)
	return true
}

// detach undoes add and attach.
func (h *hub) detach(w *Watch) {
	t := w.leave()
	if t != nil {
		t.dismiss(w)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.watches, w)
	if t != nil {
		h.topics.part(t)
	}
}

// recent holds the newest batches for watches that resume.
type recent struct {
	floor   int64   // every batch after this revision is in batches
	batches []Batch // consecutive transactions, oldest first
	bytes   int64
}

const (
	recentBatches = 8192     // kept at most
	recentBytes   = 32 << 20 // values of kept batches at most; the newest batch is kept whatever its size
)

// add appends a batch, and forgets the older half when there are too many. Slices handed out before stay as they are.
func (r *recent) add(b Batch) {
	size := b.size()
	r.bytes += size
	if len(r.batches) >= recentBatches || r.bytes > recentBytes {
		keep := len(r.batches)
		for keep > 0 && (len(r.batches)-keep < recentBatches/2 && size+r.batches[keep-1].size() <= recentBytes/2) {
			keep--
			size += r.batches[keep].size()
		}
		if keep > 0 {
			r.floor = r.batches[keep-1].Revision
		}
		r.batches = append(make([]Batch, 0, 2*(len(r.batches)-keep)+1), r.batches[keep:]...)
		r.bytes = size
	}
	r.batches = append(r.batches, b)
}

// since returns the batches with a revision >= from.
func (r *recent) since(from int64) []Batch {
	at := sort.Search(len(r.batches), func(i int) bool { return r.batches[i].Revision >= from })
	return slices.Clip(r.batches[at:])
}

func (r *recent) restart(rev int64) { *r = recent{floor: rev} }
