package kind

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"vortex"
)

// askPatience is how long an engine is asked for what the store can do without.
const askPatience = 500 * time.Millisecond

// Feed is the changes of several selections in one order: each transaction once, with all of it that is selected. Watchers
// of the same selection share what they read, whatever else each of them follows.
type Feed struct {
	store *Store
	every time.Duration // between marks while nothing comes
	parts []*Watch
	ready chan struct{} // one slot; every part wakes it
	ahead [][]Batch     // taken of each part, and newer than what every part has told
	told  int64         // everything up to it was returned
	via   []*following  // the selections whose records others name

	reach   atomic.Int64 // a mark is wanted as soon as everything up to it was returned
	once    sync.Once
	dropped chan struct{}
}

// Feed subscribes to the changes of selections from a revision on, which must not be 0, with a mark now and then: a batch
// without events. What memory no longer holds is OutOfRange: selecting anew costs less than the history. A record that stops being selected comes as the put it was.
func (s *Store) Feed(ctx context.Context, selections []Selection, from int64, every time.Duration) (*Feed, error) {
	if err := s.CheckSelections(selections); err != nil {
		return nil, err
	}
	if err := s.resumable(ctx, from); err != nil {
		return nil, err
	}
	f := &Feed{
		store: s, every: every, told: from - 1, ready: make(chan struct{}, 1), dropped: make(chan struct{}),
		ahead: make([][]Batch, len(selections)),
	}
	for _, sel := range selections {
		w := s.newWatch(sel.watch(), from)
		w.feed, w.ready = f, f.ready
		f.parts = append(f.parts, w)
		s.hub.add(w)
		if !s.hub.attach(w, from) {
			f.Close()
			return nil, vortex.Errorf(vortex.OutOfRange, "revision %d is not in memory any more; select anew and follow from there", from)
		}
	}
	f.via = s.followings(selections)
	signal(f.ready)
	return f, nil
}

// resumable refuses a revision that is compacted, or that the engine is still far from: after the engine was replaced, by a
// backup for instance, waiting for it would miss everything until then.
func (s *Store) resumable(ctx context.Context, from int64) error {
	last := s.hub.last.Load()
	if from <= last {
		soon, cancel := context.WithTimeout(ctx, askPatience)
		defer cancel()
		oldest, err := s.Oldest(soon)
		if err == nil && from < oldest {
			return vortex.Errorf(vortex.OutOfRange, "revision %d is compacted; the oldest kept is %d", from, oldest)
		}
		return nil // or the engine does not answer: memory is as good
	}
	if from == last+1 {
		return nil
	}
	newest, err := s.cfg.Engine.ReadIndex(ctx)
	if err != nil {
		return s.noticed(err)
	}
	if from > newest+1 {
		return vortex.Errorf(vortex.OutOfRange, "revision %d is of the future, the newest is %d; select anew", from, newest)
	}
	return nil
}

// drop notes that a part fell too far behind.
func (f *Feed) drop() { f.once.Do(func() { close(f.dropped) }) }

// Dropped is closed when the reader fell too far behind, also while it is busy elsewhere.
func (f *Feed) Dropped() <-chan struct{} { return f.dropped }

// Reach makes Next return a mark as soon as everything up to rev was returned. Any goroutine may call it.
func (f *Feed) Reach(ctx context.Context, rev int64) error {
	if err := f.store.WaitFor(ctx, rev); err != nil {
		return err
	}
	for have := f.reach.Load(); have < rev && !f.reach.CompareAndSwap(have, rev); have = f.reach.Load() {
	}
	signal(f.ready)
	return nil
}

// Next waits for the next transactions, or the error that ended the feed or ctx.
func (f *Feed) Next(ctx context.Context) ([]Batch, error) {
	idle := time.NewTimer(f.every)
	defer idle.Stop()
	due := false
	for {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-idle.C:
			due = true
		case <-f.ready:
		}
		reached := f.store.hub.last.Load() // before taking: every part has everything up to it then
		if err := f.take(); err != nil {
			return nil, err
		}
		batches := f.merge(reached)
		if len(batches) > 0 {
			f.told = batches[len(batches)-1].Revision
		}
		wanted := f.reach.Load() > f.told
		if wanted && f.reach.Load() > reached {
			runtime.Gosched() // the moment between memory and its watchers
			signal(f.ready)
		}
		if (due || wanted && f.reach.Load() <= reached) && reached > f.told {
			f.told = reached
			batches = append(batches, Batch{Revision: reached})
		}
		if len(batches) > 0 {
			return batches, nil
		}
	}
}

// take takes what every part has.
func (f *Feed) take() error {
	for i, w := range f.parts {
		batches, err := w.Take()
		if err != nil {
			return err
		}
		f.ahead[i] = append(f.ahead[i], batches...)
	}
	return nil
}

// merge removes from what was taken everything up to a revision, and returns it in order, each revision once.
func (f *Feed) merge(reached int64) (merged []Batch) {
	for {
		next := reached + 1
		for _, ahead := range f.ahead {
			if len(ahead) > 0 {
				next = min(next, ahead[0].Revision)
			}
		}
		if next > reached {
			break
		}
		var batch Batch
		for i, ahead := range f.ahead {
			if len(ahead) == 0 || ahead[0].Revision != next {
				continue
			}
			if batch.Events == nil {
				batch = ahead[0]
				batch.Events = slices.Clip(batch.Events) // others share them
			} else {
				batch.Events = append(batch.Events, ahead[0].Events...)
			}
			f.ahead[i] = ahead[1:]
		}
		if len(f.via) > 0 {
			batch = f.resolve(batch)
		}
		if len(batch.Events) > 0 {
			merged = append(merged, batch)
		}
	}
	for _, ahead := range f.ahead {
		if len(ahead) > 0 {
			signal(f.ready) // published while we took: it is complete in a moment
			break
		}
	}
	return merged
}

// Close ends the subscription. Next must not be running.
func (f *Feed) Close() {
	for _, w := range f.parts {
		w.Close()
	}
}
