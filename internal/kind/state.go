package kind

import (
	"container/heap"
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
	schema  *ksl.Schema
	records btree.Map[string, *Record]
	indexes map[indexKey]*btree.Map[string, *Record]
	guards  map[string]int64 // key of a @unique guard -> its revision
	expiry  expiryHeap
	sooner  chan struct{} // one slot: a record expires before all others did
}

// indexKey names the records of one type that hold one value in one indexed field.
type indexKey struct{ typ, field, value string }

func newState(schema *ksl.Schema) *state {
	return &state{
		schema: schema, indexes: map[indexKey]*btree.Map[string, *Record]{}, guards: map[string]int64{}, sooner: make(chan struct{}, 1),
	}
}

// apply takes in one batch and returns what it changed.
func (s *state) apply(batch engine.Batch) ([]Event, error) {
	events := make([]Event, 0, len(batch.Changes))
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ch := range batch.Changes {
		if s.takeGuard(ch.Key, ch.ModRevision) {
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
	}
	s.rev = batch.Revision
	return events, nil
}

// record makes a Record of what the engine holds. The caller holds the lock.
func (s *state) record(kv engine.KV) (*Record, error) {
	value, expires, err := unseal(kv.Value)
	if err != nil {
		return nil, err
	}
	rec := &Record{
		Key: kv.Key, Value: value, ExpiresAt: expires,
		CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision,
	}
	if typ, ok := s.schema.TypeOf(kv.Key); ok && len(typ.Indexed()) > 0 {
		rec.indexed = typ.IndexValues(value, nil)
	}
	return rec, nil
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
	if typ, ok := s.schema.TypeOf(key); ok {
		s.reindex(typ, prev, rec)
	}
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

// reindex moves a record of typ from where prev was found to where rec is found.
func (s *state) reindex(typ *ksl.Type, prev, rec *Record) {
	for i, field := range typ.Indexed() {
		if prev != nil && i < len(prev.indexed) {
			k := indexKey{typ.Name, field.Name, prev.indexed[i]}
			if set := s.indexes[k]; set != nil {
				set.Delete(prev.Key)
				if set.Len() == 0 {
					delete(s.indexes, k)
				}
			}
		}
		if rec != nil && i < len(rec.indexed) {
			k := indexKey{typ.Name, field.Name, rec.indexed[i]}
			set := s.indexes[k]
			if set == nil {
				set = &btree.Map[string, *Record]{}
				s.indexes[k] = set
			}
			set.Set(rec.Key, rec)
		}
	}
}

// setSchema changes the types and rebuilds every index under them.
func (s *state) setSchema(schema *ksl.Schema) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.schema = schema
	s.indexes = map[indexKey]*btree.Map[string, *Record]{}
	s.records.Scan(func(_ string, rec *Record) bool {
		if typ, ok := schema.TypeOf(rec.Key); ok {
			rec.indexed = typ.IndexValues(rec.Value, nil)
			s.reindex(typ, nil, rec)
		}
		return true
	})
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
