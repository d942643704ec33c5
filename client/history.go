package client

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	"google.golang.org/grpc"

	kindpb "vortex/proto/kind"
)

// At names a state of the store: that after a revision or, when Revision is 0, that at a time. The zero value is now.
type At struct {
	Revision uint64
	Time     time.Time
}

// millis is the time on the wire, 0 when a revision or nothing is named.
func (a At) millis() uint64 {
	if a.Revision != 0 || a.Time.IsZero() {
		return 0
	}
	return uint64(max(a.Time.UnixMilli(), 1))
}

// RecordChange is what happened to one key. Before is nil when it was not there, After when it is gone.
type RecordChange struct {
	Key           string
	Before, After *Record
}

// Transaction is what happened at one revision.
type Transaction struct {
	Revision uint64
	Time     time.Time // exact to a tenth of a second; zero when it is not known
	Changes  []RecordChange
}

// GetAt returns the record that was at key, or an error of kind NotFound. A state that is not kept any more is OutOfRange.
func (k *Kind) GetAt(ctx context.Context, key string, at At) (Record, error) {
	rec, err := k.client.Get(ctx, &kindpb.GetRequest{Key: key, AtRevision: at.Revision, AtTime: at.millis()})
	if err != nil {
		return Record{}, k.fail(ctx, err)
	}
	return record(rec), nil
}

// ScanAt returns the records as they were whose key starts with prefix and that pass all filters, in key order.
func (k *Kind) ScanAt(ctx context.Context, prefix string, at At, filters ...Filter) ([]Record, error) {
	req := &kindpb.PrefixScanRequest{Prefix: prefix, AtRevision: at.Revision, AtTime: at.millis()}
	for _, f := range filters {
		req.Filters = append(req.Filters, &kindpb.ScanFilter{Field: f.Field, Value: f.Value})
	}
	resp, err := k.client.PrefixScan(ctx, req)
	if err != nil {
		return nil, k.fail(ctx, err)
	}
	return records(resp.GetRecords()), nil
}

// QueryAt returns the records of a type as they were whose indexed field had a value; limit 0 is all.
func (k *Kind) QueryAt(ctx context.Context, typeName string, f Filter, limit uint32, at At) ([]Record, error) {
	req := &kindpb.QueryRequest{SchemaType: typeName, Field: f.Field, Value: f.Value, AtRevision: at.Revision, AtTime: at.millis()}
	if limit > 0 {
		req.Limit = &limit
	}
	resp, err := k.client.Query(ctx, req)
	if err != nil {
		return nil, k.fail(ctx, err)
	}
	return records(resp.GetRecords()), nil
}

// History yields the transactions from one state to another, both included, oldest first, as far as they changed keys that start with
// prefix. A zero from is the oldest kept, a zero to the newest. The last pair may hold an error.
func (k *Kind) History(ctx context.Context, prefix string, from, to At) iter.Seq2[Transaction, error] {
	return func(yield func(Transaction, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := k.client.History(ctx, &kindpb.HistoryRequest{
			KeyPrefix: prefix, FromRevision: from.Revision, FromTime: from.millis(), ToRevision: to.Revision, ToTime: to.millis(),
		})
		for m, err := range received(stream, err) {
			if err != nil {
				yield(Transaction{}, k.fail(ctx, err))
				return
			}
			txn := Transaction{Revision: m.GetRevision()}
			if ms := m.GetTime(); ms != 0 {
				txn.Time = time.UnixMilli(int64(ms)) //nolint:gosec // moments of this era
			}
			for _, c := range m.GetChanges() {
				txn.Changes = append(txn.Changes, changeOf(c))
			}
			if !yield(txn, nil) {
				return
			}
		}
	}
}

// Diff yields, in key order, what is different between two states below prefix; a zero to is now. The last pair may hold an error.
func (k *Kind) Diff(ctx context.Context, prefix string, from, to At) iter.Seq2[RecordChange, error] {
	return func(yield func(RecordChange, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := k.client.Diff(ctx, &kindpb.DiffRequest{
			KeyPrefix: prefix, FromRevision: from.Revision, FromTime: from.millis(), ToRevision: to.Revision, ToTime: to.millis(),
		})
		for m, err := range received(stream, err) {
			if err != nil {
				yield(RecordChange{}, k.fail(ctx, err))
				return
			}
			if !yield(changeOf(m), nil) {
				return
			}
		}
	}
}

// received yields what a stream sends until it ends; err is that of opening it.
func received[T any](stream grpc.ServerStreamingClient[T], err error) iter.Seq2[*T, error] {
	return func(yield func(*T, error) bool) {
		for err == nil {
			var m *T
			if m, err = stream.Recv(); err == nil && !yield(m, nil) {
				return
			}
		}
		if !errors.Is(err, io.EOF) {
			yield(nil, err)
		}
	}
}

func changeOf(m *kindpb.Change) RecordChange {
	c := RecordChange{Key: m.GetKey()}
	if m.GetBefore() != nil {
		rec := record(m.GetBefore())
		c.Before = &rec
	}
	if m.GetAfter() != nil {
		rec := record(m.GetAfter())
		c.After = &rec
	}
	return c
}

// Compact forgets what is only visible before a revision, and returns the oldest that can still be read.
func (k *Kind) Compact(ctx context.Context, revision uint64) (uint64, error) {
	resp, err := k.client.Compact(ctx, &kindpb.CompactRequest{Revision: revision})
	if err != nil {
		return 0, k.fail(ctx, err)
	}
	return resp.GetOldestRevision(), nil
}
