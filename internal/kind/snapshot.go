package kind

import (
	"iter"
	"strings"
	"time"

	"github.com/tidwall/btree"
)

// Snapshot is the records at one revision. It stays what it is while the store goes on: the tree is shared, and
// whoever changes it afterwards copies what it changes. Keeping one costs the records that were replaced since.
type Snapshot struct {
	// Revision is the newest transaction in it.
	Revision int64
	// Time is when that happened, as the store knows it, and Taken when the snapshot was taken.
	Time, Taken time.Time

	records *btree.Map[string, *Record]
}

// Snapshot returns the records as they are now. It takes the same short time for one record and for a million.
func (s *Store) Snapshot() *Snapshot {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	snap := &Snapshot{Revision: s.state.rev, Time: s.state.clock.time(), Taken: s.Now(), records: s.state.records.Copy()}
	if snap.Time.IsZero() {
		snap.Time = snap.Taken
	}
	return snap
}

// Len returns how many records it holds, those included that had expired.
func (s *Snapshot) Len() int { return s.records.Len() }

// All yields the records in key order, without those that had expired when it was taken.
func (s *Snapshot) All() iter.Seq[*Record] { return s.Below("") }

// Below yields, as All does, the records whose key starts with prefix.
func (s *Snapshot) Below(prefix string) iter.Seq[*Record] {
	now := s.Taken.UnixMilli()
	return func(yield func(*Record) bool) {
		s.records.Ascend(prefix, func(key string, rec *Record) bool {
			return strings.HasPrefix(key, prefix) && (rec.expired(now) || yield(rec))
		})
	}
}
