package client

import (
	"context"
	"time"

	"vortex"
)

// GetRecord returns one record of a table, or an error of kind NotFound. The tables of your own types are generated
// from their schema by `vortex kv schema generate go`.
func GetRecord[T any](ctx context.Context, k *Kind, t vortex.Table[T], id ...string) (T, error) {
	rec, err := k.Get(ctx, t.Key(id...))
	if err != nil {
		var none T
		return none, err
	}
	return t.Decode(rec.Value)
}

// PutRecord writes one record of a table; ttl 0 never expires. It returns the revision at which it happened.
func PutRecord[T any](ctx context.Context, k *Kind, t vortex.Table[T], value T, ttl time.Duration, id ...string) (uint64, error) {
	data, err := t.Encode(value)
	if err != nil {
		return 0, err
	}
	return k.Put(ctx, t.Key(id...), data, ttl)
}

// DeleteRecord removes one record of a table and reports whether there was one.
func DeleteRecord[T any](ctx context.Context, k *Kind, t vortex.Table[T], id ...string) (bool, error) {
	return k.Delete(ctx, t.Key(id...))
}

// FindRecords returns the records of a table whose indexed field has a value, in key order, by their ids.
func FindRecords[T any](ctx context.Context, k *Kind, t vortex.Table[T], f Filter) ([]TypedRecord[T], error) {
	found, err := k.Query(ctx, t.Type, f, 0)
	if err != nil {
		return nil, err
	}
	return typed(t, found)
}

// ListRecords returns the records of a table in key order, those below the given id parts only.
func ListRecords[T any](ctx context.Context, k *Kind, t vortex.Table[T], id ...string) ([]TypedRecord[T], error) {
	found, err := k.Scan(ctx, t.Key(id...)+":")
	if err != nil {
		return nil, err
	}
	return typed(t, found)
}

// TypedRecord is a decoded record with its id: its key without the table's prefix.
type TypedRecord[T any] struct {
	ID    string
	Value T
}

func typed[T any](t vortex.Table[T], records []Record) ([]TypedRecord[T], error) {
	out := make([]TypedRecord[T], len(records))
	for i, rec := range records {
		value, err := t.Decode(rec.Value)
		if err != nil {
			return nil, err
		}
		out[i] = TypedRecord[T]{ID: t.ID(rec.Key), Value: value}
	}
	return out, nil
}
