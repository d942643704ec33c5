package kind

import (
	"context"
	"fmt"
	"runtime"
	"slices"

	"vortex/internal/kind/ksl"
)

// buildSlice is how many records are looked at between two chances for others to read and write.
const buildSlice = 256

// setSchema changes the types. An index that stays as it was stays complete; the others have to be built
// unless there is nothing to put in. The records answer until then. The caller holds the lock.
func (s *state) setSchema(schema *ksl.Schema) {
	old := s.indexes.byField
	s.schema, s.indexes = schema, newIndexes(schema)
	for _, fields := range s.indexes.byType {
		for i, idx := range fields {
			was := old[idx.key]
			if was != nil && was.prefix == idx.prefix && was.inner == idx.inner {
				kept := *was
				kept.at, kept.unique = idx.at, idx.unique
				fields[i] = &kept
				s.indexes.byField[idx.key] = &kept
				continue
			}
			s.eachBelow(idx.prefix, "", func(*Record) bool {
				idx.done = make(chan struct{})
				return false
			})
		}
	}
	s.wakeBuilder()
}

// wakeBuilder tells the builder to look. The caller holds the lock.
func (s *state) wakeBuilder() {
	select {
	case s.unbuilt <- struct{}{}:
	default:
	}
}

// buildIndexes builds what has to be built until ctx ends.
func (s *Store) buildIndexes(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.state.unbuilt:
		}
		for s.state.build() {
			if ctx.Err() != nil {
				return
			}
			runtime.Gosched()
		}
	}
}

// build adds the next records to an index that is not complete, and reports whether there was one. Readers and
// writers wait only while the slice is put in place; its values are read before, without a lock.
func (s *state) build() bool {
	typ, idx, records := s.nextSlice()
	if idx == nil {
		return false
	}
	values := make([][]byte, len(records))
	var room [][]byte
	for i, rec := range records {
		room = typ.IndexValues(rec.Value, room[:0])
		values[i] = room[idx.at]
	}
	s.addSlice(typ, idx, records, values)
	return true
}

// nextSlice returns an index that is not complete, its type, and the next records for it; a nil index when all are.
func (s *state) nextSlice() (typ *ksl.Type, idx *index, records []*Record) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	typ, idx = s.incomplete()
	if idx == nil {
		return nil, nil, nil
	}
	records = make([]*Record, 0, buildSlice)
	s.eachBelow(idx.prefix, idx.built, func(rec *Record) bool {
		records = append(records, rec)
		return len(records) < buildSlice
	})
	return typ, idx, records
}

// incomplete returns an index that has to be built, in the order of the schema, and its type.
func (s *state) incomplete() (*ksl.Type, *index) {
	for _, typ := range s.schema.Types {
		for _, idx := range s.indexes.byType[typ] {
			if !idx.ready() {
				return typ, idx
			}
		}
	}
	return nil, nil
}

// addSlice adds a slice to an index, unless the schema has changed since. Records of the slice that
// were replaced meanwhile are added as they are now.
func (s *state) addSlice(typ *ksl.Type, idx *index, records []*Record, values [][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.indexes.byField[idx.key] != idx {
		return
	}
	last := len(records) < buildSlice
	next := 0
	s.eachBelow(idx.prefix, idx.built, func(rec *Record) bool {
		if !last && rec.Key > records[len(records)-1].Key {
			return false
		}
		for next < len(records) && records[next].Key < rec.Key {
			next++
		}
		if owner, _ := s.schema.TypeOf(rec.Key); owner != typ {
			return true
		}
		if next < len(records) && records[next] == rec {
			idx.put(values[next], rec)
			return true
		}
		s.indexes.after = typ.IndexValues(rec.Value, s.indexes.after[:0])
		idx.put(s.indexes.after[idx.at], rec)
		return true
	})
	if last {
		close(idx.done)
		return
	}
	idx.built = records[len(records)-1].Key
}

// Building returns the indexed fields of a type whose indexes are still being built. Queries on them
// are right, and slow.
func (s *Store) Building(typeName string) (fields []string) {
	s.state.mu.RLock()
	defer s.state.mu.RUnlock()
	for key, idx := range s.state.indexes.byField {
		if key.typ == typeName && !idx.ready() {
			fields = append(fields, key.field)
		}
	}
	slices.Sort(fields)
	return fields
}

// finding calls read with a view. While the field's index is being built the view is of a copy of
// the records, so that looking at all of them keeps no writer waiting.
func (s *Store) finding(typeName, field string, read func(View)) {
	if frozen := s.state.frozen(typeName, field); frozen != nil {
		read(View{s: frozen, now: s.now()})
		return
	}
	s.View(read)
}

// frozen returns the records as they are now when the index of a field is not complete, else nil.
func (s *state) frozen(typeName, field string) *state {
	s.mu.RLock()
	idx := s.indexes.byField[fieldKey{typeName, field}]
	s.mu.RUnlock()
	if idx == nil || idx.ready() {
		return nil
	}
	return s.freeze()
}

// freeze returns a state without indexes that stays as this one is now. The copy shares the tree's nodes
// until one of the two changes them; making it marks the original, hence the lock.
func (s *state) freeze() *state {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &state{rev: s.rev, builtin: s.builtin, schema: s.schema, records: *s.records.Copy()}
}

// awaitIndexes returns once the indexes that claims are judged by are complete.
func (s *Store) awaitIndexes(ctx context.Context, claims []claim) error {
	for _, c := range claims {
		s.state.mu.RLock()
		idx := s.state.indexes.byField[fieldKey{c.typ, c.field}]
		s.state.mu.RUnlock()
		if idx == nil {
			continue
		}
		select {
		case <-idx.done:
		case <-ctx.Done():
			return fmt.Errorf("wait for the index of %s.%s: %w", c.typ, c.field, context.Cause(ctx))
		}
	}
	return nil
}
