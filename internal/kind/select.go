package kind

import (
	"context"
	"iter"
	"strings"

	"vortex"
	"vortex/internal/kind/engine"
)

// Selection names records: those whose key starts with Prefix, all of them or those that Filter lets through. Its field has
// to be indexed in the type below the prefix.
type Selection struct {
	Prefix string
	Filter *Filter
}

// CheckSelections refuses, with Invalid, selections of which one covers another, and filters on fields without an index.
func (s *Store) CheckSelections(selections []Selection) error {
	for i, sel := range selections {
		for _, other := range selections[:i] {
			if strings.HasPrefix(sel.Prefix, other.Prefix) || strings.HasPrefix(other.Prefix, sel.Prefix) {
				return vortex.Errorf(vortex.Invalid, "the selections %q and %q overlap; name each key's prefix once", other.Prefix, sel.Prefix)
			}
		}
		if sel.Filter == nil {
			continue
		}
		if indexed, err := s.indexedFilter(sel.watch()); err != nil {
			return err
		} else if !indexed {
			return vortex.Errorf(vortex.Invalid, "no type lies at %q, so records there cannot be selected by %s", sel.Prefix, sel.Filter.Field)
		}
	}
	return nil
}

func (sel Selection) watch() WatchOptions {
	return WatchOptions{Prefixes: []string{sel.Prefix}, Filter: sel.Filter}
}

// matches reports whether a record with that prefix is selected.
func (sel Selection) matches(rec *Record) bool {
	return sel.Filter == nil || jsonField(rec.Value, sel.Filter.Field) == sel.Filter.Value
}

// Selected reports whether a record is one of those that the selections name.
func Selected(selections []Selection, rec *Record) bool {
	for _, sel := range selections {
		if strings.HasPrefix(rec.Key, sel.Prefix) {
			return sel.matches(rec) // no other covers it
		}
	}
	return false
}

// Select returns the records with lo <= key < hi that the selections name, in key order within each, and the revision that
// they are of. An empty hi is open. Records that expired and were not deleted yet are among them: whoever keeps them knows the time too.
func (s *Store) Select(selections []Selection, lo, hi string) (found []*Record, rev int64) {
	s.View(func(v View) {
		v.now = 0
		rev = v.Revision()
		take := func(rec *Record) bool {
			if rec.Key >= lo && (hi == "" || rec.Key < hi) {
				found = append(found, rec)
			}
			return true
		}
		for _, sel := range selections {
			first, end := within(sel.Prefix, lo, hi)
			switch typ, ok := v.s.schema.TypeOf(sel.Prefix); {
			case sel.Filter == nil:
				v.Scan(first, end, take)
			case ok:
				v.Find(typ.Name, sel.Filter.Field, sel.Filter.Value, func(rec *Record) bool {
					return !strings.HasPrefix(rec.Key, sel.Prefix) || take(rec)
				})
			}
		}
	})
	return found, rev
}

// within is the part of a range that starts with prefix.
func within(prefix, lo, hi string) (first, end string) {
	end = prefixEnd(prefix)
	if hi != "" && (end == "" || hi < end) {
		end = hi
	}
	return max(lo, prefix), end
}

// SelectAt is Select of the past. It reads everything below the prefixes from the engine.
func (p Past) SelectAt(ctx context.Context, selections []Selection, lo, hi string) iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) {
		for _, sel := range selections {
			first, end := within(sel.Prefix, lo, hi)
			if end != "" && first >= end {
				continue
			}
			for rec, err := range p.Scan(ctx, first, end) {
				if (err != nil || sel.matches(rec)) && !yield(rec, err) || err != nil {
					return
				}
			}
		}
	}
}

// Engine is what the store stands on, for who passes its content on whole.
func (s *Store) Engine() engine.Engine { return s.cfg.Engine }
