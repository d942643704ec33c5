package kind

import (
	"container/heap"
	"strings"
	"sync"

	"github.com/tidwall/btree"

	"vortex/internal/kind/engine"
	"vortex/internal/kind/ksl"
)

// state is the current records in memory with their indexes. One goroutine applies the engine's
// batches; readers see each batch whole or not at all.
type state struct {
	mu      sync.RWMutex
	rev     int64
	builtin *ksl.Schema // what the program was built with
	schema  *ksl.Schema // with what was loaded at run time
	ignored []error     // stored texts that are not in force, and why
	records btree.Map[string, *Record]
	indexes indexes
	guards  map[string]int64 // key of a @unique guard -> its revision
	expiry  expiryHeap
	clock   clock
	bytes   int64         // about what the records take
	sooner  chan struct{} // one slot: a record expires before all others did
	unbuilt chan struct{} // one slot: an index has to be built
}

func newState(schema *ksl.Schema) *state {
	return &state{
		builtin: schema, schema: schema, indexes: newIndexes(schema), guards: map[string]int64{},
		sooner: make(chan struct{}, 1), unbuilt: make(chan struct{}, 1),
	}
}

// apply takes in one batch and returns what it changed.
func (s *state) apply(batch engine.Batch) ([]Event, error) {
	events := make([]Event, 0, len(batch.Changes))
	schemas := false
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ch := range batch.Changes {
		if s.takeHidden(ch.KV) {
			continue
		}
		ev := Event{Key: ch.Key, Revision: batch.Revision, Deleted: ch.Delete}
		if !ch.Delete {
			rec, err := s.record(ch.KV)
			if err != nil {
				return nil, err
			}
			ev.Record = rec
		}
		ev.Prev = s.replace(ch.Key, ev.Record)
		events = append(events, ev)
		schemas = schemas || strings.HasPrefix(ch.Key, SchemaPrefix)
	}
	if schemas {
		s.takeSchemas()
	}
	s.rev = batch.Revision
	return events, nil
}

// record makes a Record of what the engine holds. The caller holds the lock.
func (s *state) record(kv engine.KV) (*Record, error) {
	return unsealed(kv)
}

// replace puts rec, or nothing when it is nil, in the place of key, and returns what stood there.
func (s *state) replace(key string, rec *Record) *Record {
	var prev *Record
	if rec == nil {
		prev, _ = s.records.Delete(key)
	} else {
		prev, _ = s.records.Set(key, rec)
		if rec.ExpiresAt != 0 {
			s.watchExpiry(rec)
		}
	}
	s.bytes += rec.size() - prev.size()
	s.reindex(key, prev, rec)
	return prev
}

// watchExpiry remembers when rec expires and wakes the sweep when that is before all others.
func (s *state) watchExpiry(rec *Record) {
	heap.Push(&s.expiry, rec)
	if s.expiry[0] != rec {
		return
	}
	select {
	case s.sooner <- struct{}{}:
	default:
	}
}

// due removes and returns the records that expired by now, and when the next one will, 0 when none.
// A record that was meanwhile replaced is skipped.
func (s *state) due(now int64) (expired []*Record, next int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.expiry) > 0 {
		rec := s.expiry[0]
		current, _ := s.records.Get(rec.Key)
		if current != rec {
			heap.Pop(&s.expiry)
			continue
		}
		if !rec.expired(now) {
			return expired, rec.ExpiresAt
		}
		heap.Pop(&s.expiry)
		expired = append(expired, rec)
	}
	return expired, 0
}

// remind puts records back whose deletion did not succeed.
func (s *state) remind(records []*Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rec := range records {
		heap.Push(&s.expiry, rec)
	}
}

// expiryHeap orders records by when they expire.
type expiryHeap []*Record

func (h *expiryHeap) Len() int           { return len(*h) }
func (h *expiryHeap) Less(i, j int) bool { return (*h)[i].ExpiresAt < (*h)[j].ExpiresAt }
func (h *expiryHeap) Swap(i, j int)      { (*h)[i], (*h)[j] = (*h)[j], (*h)[i] }

// Push implements heap.Interface.
func (h *expiryHeap) Push(x any) { *h = append(*h, x.(*Record)) } //nolint:errcheck // only this file pushes

// Pop implements heap.Interface.
func (h *expiryHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return last
}
