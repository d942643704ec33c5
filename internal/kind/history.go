package kind

import (
	"context"
	"fmt"
	"iter"
	"strings"

	"vortex"
	"vortex/internal/kind/engine"
)

// checkRevision refuses a revision that has not happened.
func (s *Store) checkRevision(ctx context.Context, rev int64) error {
	if rev < 1 {
		return vortex.Errorf(vortex.Invalid, "revisions count from 1, got %d", rev)
	}
	if rev <= s.Revision() {
		return nil
	}
	if err := s.Sync(ctx); err != nil {
		return err
	}
	if newest := s.Revision(); rev > newest {
		return vortex.Errorf(vortex.Invalid, "revision %d has not happened yet; the newest is %d", rev, newest)
	}
	return nil
}

// pastError is the error of a read of the past at rev that failed: of one that is not kept, it tells what is.
func (s *Store) pastError(ctx context.Context, rev int64, err error) error {
	if !vortex.IsKind(err, vortex.OutOfRange) {
		return s.noticed(err)
	}
	oldest, oldErr := s.Oldest(ctx)
	if oldErr != nil {
		return err
	}
	return vortex.Errorf(vortex.OutOfRange, "revision %d is compacted; the oldest kept is %d: read that or a newer one, "+
		"and set store.history_age or store.history_count to keep more", rev, oldest)
}

// Oldest returns the oldest revision whose state can still be read. The transactions after it are all kept.
func (s *Store) Oldest(ctx context.Context) (int64, error) {
	low := max(s.oldest.Load(), 1)
	if ok, err := s.kept(ctx, low); ok || err != nil {
		return low, err
	}
	high := s.Revision() // kept, unless it is compacted this very moment
	for low+1 < high {
		mid := low + (high-low)/2
		ok, err := s.kept(ctx, mid)
		if err != nil {
			return 0, err
		}
		if ok {
			high = mid
		} else {
			low = mid
		}
	}
	s.oldest.Store(high)
	return high, nil
}

// kept reports whether the engine still has the state at a revision.
func (s *Store) kept(ctx context.Context, rev int64) (bool, error) {
	_, err := s.markAt(ctx, rev)
	if vortex.IsKind(err, vortex.OutOfRange) {
		return false, nil
	}
	return err == nil, s.noticed(err)
}

// replay yields every transaction with revision >= from as the engine has it, until ctx ends or the engine fails; the last
// pair then holds the error. Its events do not know what stood there before.
func (s *Store) replay(ctx context.Context, from int64) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		var mark int64
		known := false
		for b, err := range s.cfg.Engine.Watch(ctx, from) {
			if err == nil && !known {
				mark, err = s.markAt(ctx, b.Revision)
				known = true
			}
			if err != nil {
				yield(Batch{}, err)
				return
			}
			batch, newer, err := historic(b, mark)
			mark = newer
			if !yield(batch, err) || err != nil {
				return
			}
		}
	}
}

// historic turns an engine's batch into one of the store's, given the newest mark before it, and returns the newest mark after.
func historic(b engine.Batch, mark int64) (Batch, int64, error) {
	events := make([]Event, 0, len(b.Changes))
	for _, ch := range b.Changes {
		if ch.Key == clockKey {
			mark = markTime(ch.Value)
		}
		if Hidden(ch.Key) {
			continue
		}
		ev := Event{Key: ch.Key, Revision: b.Revision, Deleted: ch.Delete}
		if !ch.Delete {
			rec, err := unsealed(ch.KV)
			if err != nil {
				return Batch{}, mark, err
			}
			ev.Record = rec
		}
		events = append(events, ev)
	}
	return Batch{Revision: b.Revision, Time: moment(mark), Events: events}, mark, nil
}

// unsealed makes a Record of what the engine holds.
func unsealed(kv engine.KV) (*Record, error) {
	value, expires, err := unseal(kv.Value)
	if err != nil {
		return nil, fmt.Errorf("record %s: %w", kv.Key, err)
	}
	return &Record{Key: kv.Key, Value: value, ExpiresAt: expires, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision}, nil
}

// History yields the transactions from one revision to another, both included, oldest first, with what stood there
// before each change. From 0 is the oldest kept, to 0 the newest. The last pair may hold an error: OutOfRange when from
// is compacted, Invalid when to has not happened.
func (s *Store) History(ctx context.Context, prefix string, from, to int64) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		from, to, err := s.bounds(ctx, from, to)
		if err != nil {
			yield(Batch{}, err)
			return
		}
		if from > to {
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		past := earlier{s: s}
		for b, err := range s.replay(ctx, from) {
			if err == nil && b.Revision > to {
				return
			}
			if err == nil {
				b, err = past.complete(ctx, b, prefix)
			}
			if err != nil {
				yield(Batch{}, s.pastError(ctx, from, err))
				return
			}
			if len(b.Events) > 0 && !yield(b, nil) || b.Revision == to {
				return
			}
		}
	}
}

// bounds resolves and checks the ends of a history.
func (s *Store) bounds(ctx context.Context, from, to int64) (first, last int64, err error) {
	if err := s.Sync(ctx); err != nil {
		return 0, 0, err
	}
	if to == 0 {
		to = s.Revision()
	}
	if err := s.checkRevision(ctx, to); err != nil {
		return 0, 0, err
	}
	oldest, err := s.Oldest(ctx)
	if err != nil {
		return 0, 0, err
	}
	switch {
	case from == 0:
		from = oldest + 1
	case from <= oldest && oldest > 1:
		return 0, 0, vortex.Errorf(vortex.OutOfRange, "the history kept begins after revision %d, so %d is not in it; name a newer one", oldest, from)
	}
	return max(from, 1), to, nil
}

// earlier tells what stood at a key before a transaction, in a history that is read forward.
type earlier struct {
	s     *Store
	known map[string]*Record // as the transactions read so far left them; nil where they deleted it
}

// mostKnown bounds what is remembered; what is forgotten is read again from the engine.
const mostKnown = 4096

// complete keeps the events below prefix and adds what stood there before.
func (e *earlier) complete(ctx context.Context, b Batch, prefix string) (Batch, error) {
	if e.known == nil || len(e.known) > mostKnown {
		e.known = map[string]*Record{}
	}
	events := b.Events[:0]
	for _, ev := range b.Events {
		if !strings.HasPrefix(ev.Key, prefix) {
			continue
		}
		prev, err := e.before(ctx, ev)
		if err != nil {
			return Batch{}, err
		}
		if !ev.Deleted && prev != nil && prev.expired(b.Time.UnixMilli()) {
			prev = nil // it was not there for anybody
		}
		ev.Prev, e.known[ev.Key] = prev, ev.Record
		events = append(events, ev)
	}
	b.Events = events
	return b, nil
}

// before returns what stood at a key before an event, nil when nothing did.
func (e *earlier) before(ctx context.Context, ev Event) (*Record, error) {
	if rec, ok := e.known[ev.Key]; ok {
		return rec, nil
	}
	if ev.Revision <= 1 || !ev.Deleted && ev.Record.CreateRevision == ev.Revision {
		return nil, nil //nolint:nilnil // no record is the answer
	}
	rev := ev.Revision - 1
	for kv, err := range e.s.cfg.Engine.Range(ctx, ev.Key, ev.Key+"\x00", &rev) {
		if err != nil {
			return nil, err
		}
		return unsealed(kv)
	}
	return nil, nil //nolint:nilnil // no record is the answer
}
