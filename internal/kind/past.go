package kind

import (
	"context"
	"iter"
	"time"

	"vortex"
)

// Past reads the records as they were at one revision. Its reads go to the engine, not to memory, so each may
// fail: with OutOfRange once the revision is compacted, with Unavailable while the engine is away.
type Past struct {
	// Revision is the newest transaction that the reads see.
	Revision int64
	// Time is when expiry is judged: a record that had expired by then is not there.
	Time time.Time

	s *Store
}

// At returns the state at a revision. One that has not happened is Invalid, one that is compacted OutOfRange.
func (s *Store) At(ctx context.Context, rev int64) (Past, error) {
	at, err := s.TimeOf(ctx, rev)
	if err != nil {
		return Past{}, err
	}
	if rev == s.Revision() {
		at = s.Now() // the state of now
	}
	return Past{Revision: rev, Time: at, s: s}, nil
}

// AtTime returns the state at a time.
func (s *Store) AtTime(ctx context.Context, t time.Time) (Past, error) {
	rev, err := s.RevisionAt(ctx, t)
	return Past{Revision: rev, Time: t, s: s}, err
}

// Get returns the record that was at key, or an error of kind NotFound.
func (p Past) Get(ctx context.Context, key string) (*Record, error) {
	if !Hidden(key) {
		for rec, err := range p.Scan(ctx, key, key+"\x00") {
			return rec, err
		}
	}
	return nil, vortex.Errorf(vortex.NotFound, "no record was at %q at revision %d", key, p.Revision)
}

// Scan yields every record with lo <= key < hi in key order. An empty hi is open. The last pair may hold an error.
func (p Past) Scan(ctx context.Context, lo, hi string) iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) {
		rev := p.Revision
		for kv, err := range p.s.cfg.Engine.Range(ctx, lo, hi, &rev) {
			if err != nil {
				yield(nil, p.s.pastError(ctx, p.Revision, err))
				return
			}
			if Hidden(kv.Key) {
				continue
			}
			rec, err := unsealed(kv)
			if err == nil && p.expired(rec) {
				continue
			}
			if !yield(rec, err) || err != nil {
				return
			}
		}
	}
}

// expired reports whether a record was invisible then.
func (p Past) expired(rec *Record) bool { return !p.Time.IsZero() && rec.expired(p.Time.UnixMilli()) }

// Prefix yields every record whose key starts with prefix, in key order.
func (p Past) Prefix(ctx context.Context, prefix string) iter.Seq2[*Record, error] {
	return p.Scan(ctx, prefix, prefixEnd(prefix))
}

// Find yields, in key order, every record of a type whose field held value. There are no indexes of the past: it reads
// all records of the type.
func (p Past) Find(ctx context.Context, typeName, field, value string) iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) {
		if err := p.s.checkQuery(typeName, field); err != nil {
			yield(nil, err)
			return
		}
		schema := p.s.Schema()
		typ, _ := schema.Type(typeName)
		for rec, err := range Matching(p.Prefix(ctx, typ.Prefix), Filter{Field: field, Value: value}) {
			if err == nil {
				if of, ok := schema.TypeOf(rec.Key); !ok || of != typ {
					continue
				}
			}
			if !yield(rec, err) {
				return
			}
		}
	}
}

// Matching yields those of the records that pass all filters.
func Matching(records iter.Seq2[*Record, error], filters ...Filter) iter.Seq2[*Record, error] {
	if len(filters) == 0 {
		return records
	}
	return func(yield func(*Record, error) bool) {
		for rec, err := range records {
			if (err != nil || matches(rec, filters)) && !yield(rec, err) {
				return
			}
		}
	}
}
