package kind

import (
	"context"
	"fmt"
	"iter"

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
