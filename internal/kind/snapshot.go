package kind

import (
	"iter"
	"time"

	"github.com/tidwall/btree"
)

// Snapshot is the records at one revision. It stays what it is while the store goes on: the tree is shared, and
// whoever changes it afterwards copies what it changes. Keeping one costs the records that were replaced since.
type Snapshot struct {
	// Revision is the newest transaction in it.
	Revision int64
	// Time is when it was taken, and not before anything in it happened.
	Time time.Time

	records *btree.Map[string, *Record]
}

// Snapshot returns the records as they are now. It takes the same short time for one record and for a million.
func (s *Store) Snapshot() *Snapshot {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	at := time.Now()
	if newest := s.state.clock.time(); newest.After(at) { // another server's clock is ahead
		at = newest
	}
	return &Snapshot{Revision: s.state.rev, Time: at, records: s.state.records.Copy()}
}

// Len returns how many records it holds, those included that had expired.
func (s *Snapshot) Len() int { return s.records.Len() }

// All yields the records in key order, without those that had expired when it was taken.
func (s *Snapshot) All() iter.Seq[*Record] {
	now := s.Time.UnixMilli()
	return func(yield func(*Record) bool) {
		s.records.Scan(func(_ string, rec *Record) bool { return rec.expired(now) || yield(rec) })
	}
}
