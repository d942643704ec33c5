package kind

import (
	"fmt"
	"slices"
	"strings"

	"vortex"
	"vortex/internal/kind/ksl"
)

// Filter selects records whose field, encoded as JSON text without quotes, equals Value.
type Filter struct{ Field, Value string }

// Get returns the record at key from memory, or an error of kind NotFound.
func (s *Store) Get(key string) (rec *Record, err error) {
	s.View(func(v View) {
		var ok bool
		if rec, ok = v.Get(key); !ok {
			err = vortex.Errorf(vortex.NotFound, "no record at %q", key)
		}
	})
	return rec, err
}

// Latest returns the record at key as memory has it, one that has expired included.
func (s *Store) Latest(key string) (*Record, bool) {
	s.state.mu.RLock()
	defer s.state.mu.RUnlock()
	return s.state.records.Get(key)
}

// PrefixScan returns every record whose key starts with prefix and that passes all filters, in key order.
func (s *Store) PrefixScan(prefix string, filters ...Filter) []*Record {
	return s.scan(prefix, prefixEnd(prefix), filters)
}

// RangeScan returns every record with lo <= key <= hi that passes all filters, in key order.
func (s *Store) RangeScan(lo, hi string, filters ...Filter) []*Record {
	return s.scan(lo, hi+"\x00", filters)
}

func (s *Store) scan(lo, hi string, filters []Filter) (found []*Record) {
	s.View(func(v View) {
		v.Scan(lo, hi, func(rec *Record) bool {
			if matches(rec, filters) {
				found = append(found, rec)
			}
			return true
		})
	})
	return found
}

// matches reports whether a record passes all filters.
func matches(rec *Record, filters []Filter) bool {
	for _, f := range filters {
		if string(ksl.Text(rec.Value, f.Field)) != f.Value {
			return false
		}
	}
	return true
}

// Query returns the records of a type whose indexed field holds value, in key order, skipping
// offset and returning at most limit, 0 being all.
func (s *Store) Query(typeName string, f Filter, limit, offset int) (found []*Record, err error) {
	if err := s.checkQuery(typeName, f.Field); err != nil {
		return nil, err
	}
	s.finding(typeName, f.Field, func(v View) {
		v.Find(typeName, f.Field, f.Value, func(rec *Record) bool {
			if offset > 0 {
				offset--
				return true
			}
			found = append(found, rec)
			return limit == 0 || len(found) < limit
		})
	})
	return found, nil
}

func (s *Store) checkQuery(typeName, field string) error {
	typ, ok := s.Schema().Type(typeName)
	if !ok || typ.Prefix == "" {
		hint := "; `vortex kv schema` lists them"
		if near := ksl.Nearest(typeName, recordTypes(s.Schema())); near != "" {
			hint = fmt.Sprintf(" (did you mean %q?)", near)
		}
		return vortex.Errorf(vortex.Invalid, "no record type %q in the schema%s", typeName, hint)
	}
	switch names := indexedNames(typ); {
	case slices.Contains(names, field):
		return nil
	case len(names) == 0:
		return vortex.Errorf(vortex.Invalid, "%s.%s is not indexed, nor is any other field of %s; scan with a filter", typeName, field, typeName)
	default:
		return vortex.Errorf(vortex.Invalid, "%s.%s is not indexed; query one of %s, or scan with a filter", typeName, field, strings.Join(names, ", "))
	}
}

// recordTypes names the types that records have.
func recordTypes(schema *ksl.Schema) (names []string) {
	for _, typ := range schema.Types {
		if typ.Prefix != "" {
			names = append(names, typ.Name)
		}
	}
	return names
}

// Len returns the number of records in memory.
func (s *Store) Len() int {
	s.state.mu.RLock()
	defer s.state.mu.RUnlock()
	return s.state.records.Len()
}

// MemoryBytes is about what the records take in memory.
func (s *Store) MemoryBytes() int64 {
	s.state.mu.RLock()
	defer s.state.mu.RUnlock()
	return s.state.bytes
}

// Schema returns the types in force.
func (s *Store) Schema() *ksl.Schema {
	s.state.mu.RLock()
	defer s.state.mu.RUnlock()
	return s.state.schema
}
