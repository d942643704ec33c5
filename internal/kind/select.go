package kind

import (
	"context"
	"iter"
	"maps"
	"slices"
	"strings"

	"vortex"
	"vortex/internal/kind/engine"
)

// Selection names records: those whose key starts with Prefix, all of them, or those that Filter lets through, or those that
// other records name. The filter's field has to be indexed in the type below the prefix.
type Selection struct {
	Prefix string
	Filter *Filter
	Via    *Via
}

// Via names records by those of another selection: their keys are the prefix and then what the others have in Fields, with colons
// between. So an agent holds the releases that its own placements name, and no others.
type Via struct {
	Prefix string // the other selection's
	Fields []string
}

// named is the key that a record names for a selection with a Via.
func (sel Selection) named(by *Record) string {
	parts := make([]string, len(sel.Via.Fields))
	for i, field := range sel.Via.Fields {
		parts[i] = jsonField(by.Value, field)
	}
	return sel.Prefix + strings.Join(parts, ":")
}

// source returns the selection whose records name those of a Via.
func source(selections []Selection, via *Via) (sel Selection, ok bool) {
	at := slices.IndexFunc(selections, func(sel Selection) bool { return sel.Prefix == via.Prefix && sel.Via == nil })
	if at < 0 {
		return Selection{}, false
	}
	return selections[at], true
}

// CheckSelections refuses, with Invalid, selections of which one covers another, and filters on fields without an index.
func (s *Store) CheckSelections(selections []Selection) error {
	for i, sel := range selections {
		for _, other := range selections[:i] {
			if strings.HasPrefix(sel.Prefix, other.Prefix) || strings.HasPrefix(other.Prefix, sel.Prefix) {
				return vortex.Errorf(vortex.Invalid, "the selections %q and %q overlap; name each key's prefix once", other.Prefix, sel.Prefix)
			}
		}
		if sel.Via != nil {
			if _, ok := source(selections, sel.Via); !ok || len(sel.Via.Fields) == 0 || sel.Filter != nil {
				return vortex.Errorf(vortex.Invalid, "the selection %q has to be named by fields of another one without via, got %q", sel.Prefix, sel.Via.Prefix)
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
			if sel.Via == nil {
				v.each(sel, lo, hi, take)
				continue
			}
			for _, key := range v.named(selections, sel) {
				if rec, ok := v.Get(key); ok {
					take(rec)
				}
			}
		}
	})
	return found, rev
}

// each calls take for the records of a selection without Via.
func (v View) each(sel Selection, lo, hi string, take func(*Record) bool) {
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

// named returns, in order, the keys that others name for a selection with Via.
func (v View) named(selections []Selection, sel Selection) []string {
	keys := map[string]struct{}{}
	if by, ok := source(selections, sel.Via); ok {
		v.each(by, "", "", func(rec *Record) bool {
			keys[sel.named(rec)] = struct{}{}
			return true
		})
	}
	return slices.Sorted(maps.Keys(keys))
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
			if sel.Via != nil {
				if !p.selectVia(ctx, selections, sel, lo, hi, yield) {
					return
				}
				continue
			}
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

// selectVia yields the records that others named, and reports whether more is wanted.
func (p Past) selectVia(ctx context.Context, selections []Selection, sel Selection, lo, hi string, yield func(*Record, error) bool) bool {
	by, _ := source(selections, sel.Via)
	keys := map[string]struct{}{}
	for rec, err := range p.Prefix(ctx, by.Prefix) {
		if err != nil {
			return yield(nil, err) && false
		}
		if by.matches(rec) {
			keys[sel.named(rec)] = struct{}{}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if key < lo || hi != "" && key >= hi {
			continue
		}
		rec, err := p.Get(ctx, key)
		switch {
		case vortex.IsKind(err, vortex.NotFound):
		case err != nil:
			return yield(nil, err) && false
		case !yield(rec, nil):
			return false
		}
	}
	return true
}

// Engine is what the store stands on, for who passes its content on whole.
func (s *Store) Engine() engine.Engine { return s.cfg.Engine }
