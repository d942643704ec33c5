package kind

import (
	"context"
	"fmt"
	"time"

	"vortex"
)

// Entry is a decoded record with the revisions it had when it was read. Value is shared: copy it before changing it.
type Entry[T any] struct {
	ID             string // the key without the table's prefix
	Value          *T
	CreateRevision int64
	ModRevision    int64
}

// Decode returns a record of table t as an Entry. A record is decoded once however often it is read.
func Decode[T any](t vortex.Table[T], rec *Record) (Entry[T], error) {
	value, ok := rec.decoded.Load().(*T)
	if !ok {
		fresh, err := t.Decode(rec.Value)
		if err != nil {
			return Entry[T]{}, fmt.Errorf("record %s: %w", rec.Key, err)
		}
		value = &fresh
		rec.decoded.CompareAndSwap(nil, value)
	}
	return Entry[T]{ID: t.ID(rec.Key), Value: value, CreateRevision: rec.CreateRevision, ModRevision: rec.ModRevision}, nil
}

// Lookup returns the record with the given id from a view.
func Lookup[T any](v View, t vortex.Table[T], id ...string) (Entry[T], bool) {
	rec, ok := v.Get(t.Key(id...))
	if !ok {
		return Entry[T]{}, false
	}
	entry, err := Decode(t, rec)
	return entry, err == nil
}

// List returns a table's records in key order, those below the given id parts only.
func List[T any](v View, t vortex.Table[T], id ...string) []Entry[T] {
	var entries []Entry[T]
	v.Prefix(t.Key(id...)+":", func(rec *Record) bool {
		if entry, err := Decode(t, rec); err == nil {
			entries = append(entries, entry)
		}
		return true
	})
	return entries
}

// Find returns a table's records whose indexed field holds value, in key order.
func Find[T any](v View, t vortex.Table[T], field, value string) []Entry[T] {
	var entries []Entry[T]
	v.Find(t.Type, field, value, func(rec *Record) bool {
		if entry, err := Decode(t, rec); err == nil {
			entries = append(entries, entry)
		}
		return true
	})
	return entries
}

// Get returns one record of a table, or an error of kind NotFound.
func Get[T any](s *Store, t vortex.Table[T], id ...string) (Entry[T], error) {
	rec, err := s.Get(t.Key(id...))
	if err != nil {
		return Entry[T]{}, err
	}
	return Decode(t, rec)
}

// All returns every record of a table in key order.
func All[T any](s *Store, t vortex.Table[T]) (entries []Entry[T]) {
	s.View(func(v View) { entries = List(v, t) })
	return entries
}

// PutOp is the write that puts value at the given id of a table.
func PutOp[T any](t vortex.Table[T], value *T, id ...string) (Op, error) {
	data, err := t.Encode(*value)
	if err != nil {
		return Op{}, err
	}
	return Op{Key: t.Key(id...), Value: data}, nil
}

// DeleteOp is the write that deletes the given id of a table.
func DeleteOp[T any](t vortex.Table[T], id ...string) Op { return Op{Key: t.Key(id...), Delete: true} }

// Put writes one record of a table.
func Put[T any](ctx context.Context, s *Store, t vortex.Table[T], value *T, id ...string) (int64, error) {
	return PutTTL(ctx, s, t, 0, value, id...)
}

// PutTTL writes one record of a table that expires after ttl; 0 never.
func PutTTL[T any](ctx context.Context, s *Store, t vortex.Table[T], ttl time.Duration, value *T, id ...string) (int64, error) {
	op, err := PutOp(t, value, id...)
	if err != nil {
		return 0, err
	}
	op.TTL = ttl
	return s.Commit(ctx, Txn{Ops: []Op{op}})
}
