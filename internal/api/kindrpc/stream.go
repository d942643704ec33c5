package kindrpc

import (
	"context"
	"encoding/json"
	"fmt"
	"math"

	"google.golang.org/grpc"

	"vortex"
	"vortex/internal/kind"
	kindpb "vortex/proto/kind"
)

const (
	opPut    = "PUT"
	opDelete = "DELETE"
	chunk    = 1000 // records in one SnapshotChunk
)

// Watch implements the wire contract.
func (s *Service) Watch(req *kindpb.WatchRequest, stream grpc.ServerStreamingServer[kindpb.WatchEvent]) error {
	ctx := stream.Context()
	acc, err := s.authorize(ctx)
	if err != nil {
		return s.fail(err)
	}
	if err := acc.scan(req.GetKeyPrefix()); err != nil {
		return s.fail(err)
	}
	from, err := revision(req.GetStartRevision())
	if err != nil {
		return s.fail(err)
	}
	opts := kind.WatchOptions{Prefixes: []string{req.GetKeyPrefix()}, From: from}
	if f := req.GetFilter(); f != nil {
		opts.Filter = &kind.Filter{Field: f.GetField(), Value: f.GetValue()}
	}
	watch := s.Store.Watch(opts)
	defer watch.Close()
	// The header tells the client that it is subscribed: what is written from now on will be seen.
	if err := stream.SendHeader(nil); err != nil {
		return fmt.Errorf("send header: %w", err)
	}
	return s.each(ctx, watch, acc, func(ev kind.Event) error { return stream.Send(watchEvent(ev)) })
}

// revision checks a revision that a client names.
func revision(n uint64) (int64, error) {
	if n >= math.MaxInt64 {
		return 0, vortex.Errorf(vortex.Invalid, "no revision is as large as %d", n)
	}
	return int64(n), nil
}

// each sends every event the caller may see until ctx ends, which is no error, or the watch does.
func (s *Service) each(ctx context.Context, watch *kind.Watch, acc access, send func(kind.Event) error) error {
	for {
		batches, err := watch.Next(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the client has gone
		}
		if err != nil {
			return s.fail(err)
		}
		for _, b := range batches {
			for _, ev := range b.Events {
				if !acc.mayRead(ev.Key) {
					continue
				}
				if err := send(ev); err != nil {
					return err
				}
			}
		}
	}
}

func watchEvent(ev kind.Event) *kindpb.WatchEvent {
	m := &kindpb.WatchEvent{Key: ev.Key, OperationType: opDelete, Revision: uint64(ev.Revision)}
	if !ev.Deleted {
		m.OperationType = opPut
		m.NewValue = ev.Record.Value
		if m.NewValue == nil {
			m.NewValue = []byte{}
		}
	}
	return m
}

// Sync implements the wire contract.
func (s *Service) Sync(req *kindpb.SyncRequest, stream grpc.ServerStreamingServer[kindpb.SyncPayload]) error {
	ctx := stream.Context()
	acc, err := s.authorize(ctx)
	if err != nil {
		return s.fail(err)
	}
	opts := kind.WatchOptions{}
	known, err := revision(req.GetLastKnownTxId())
	if err != nil {
		return s.fail(err)
	}
	if known != 0 {
		opts.From = known + 1
	}
	watch := s.Store.Watch(opts)
	defer watch.Close()
	var sent int64
	if opts.From == 0 {
		if sent, err = s.sendSnapshot(acc, stream); err != nil {
			return err
		}
	}
	return s.sendLog(ctx, watch, acc, sent, stream)
}

// sendSnapshot sends every record the caller may see as of one revision, which it returns.
func (s *Service) sendSnapshot(acc access, stream grpc.ServerStreamingServer[kindpb.SyncPayload]) (int64, error) {
	var records []*kind.Record
	var rev int64
	s.Store.View(func(v kind.View) {
		rev = v.Revision()
		v.Scan("", "", func(rec *kind.Record) bool {
			records = append(records, rec)
			return true
		})
	})
	visible := messages(records, acc)
	for first := true; first || len(visible) > 0; first = false {
		n := min(chunk, len(visible))
		part := &kindpb.SnapshotChunk{Records: visible[:n], MaxTxId: uint64(rev)}
		if err := stream.Send(&kindpb.SyncPayload{Payload: &kindpb.SyncPayload_Snapshot{Snapshot: part}}); err != nil {
			return 0, fmt.Errorf("send snapshot: %w", err)
		}
		visible = visible[n:]
	}
	return rev, nil
}

// walPayload is the JSON in a WalRecord: what one transaction did.
type walPayload struct {
	Operations []walOperation `json:"operations"`
}

type walOperation struct {
	Type      string `json:"type"`
	Key       string `json:"key"`
	Value     []byte `json:"value,omitempty"`
	ExpiresAt int64  `json:"expires_at,omitempty"`
}

// sendLog sends every transaction after revision sent.
func (s *Service) sendLog(ctx context.Context, watch *kind.Watch, acc access, sent int64, stream grpc.ServerStreamingServer[kindpb.SyncPayload]) error {
	for {
		batches, err := watch.Next(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the client has gone
		}
		if err != nil {
			return s.fail(err)
		}
		for _, b := range batches {
			if b.Revision <= sent {
				continue
			}
			if err := s.sendTxn(b, acc, stream); err != nil {
				return err
			}
		}
	}
}

// sendTxn sends what the caller may see of one transaction, and nothing when that is nothing.
func (s *Service) sendTxn(b kind.Batch, acc access, stream grpc.ServerStreamingServer[kindpb.SyncPayload]) error {
	visible := operations(b.Events, acc)
	if len(visible) == 0 {
		return nil
	}
	payload, err := json.Marshal(walPayload{Operations: visible})
	if err != nil {
		return s.fail(fmt.Errorf("encode transaction: %w", err))
	}
	rec := &kindpb.WalRecord{TxId: uint64(b.Revision), Payload: payload}
	if err := stream.Send(&kindpb.SyncPayload{Payload: &kindpb.SyncPayload_WalRecord{WalRecord: rec}}); err != nil {
		return fmt.Errorf("send transaction: %w", err)
	}
	return nil
}

func operations(events []kind.Event, acc access) []walOperation {
	ops := []walOperation{}
	for _, ev := range events {
		switch {
		case !acc.mayRead(ev.Key):
		case ev.Deleted:
			ops = append(ops, walOperation{Type: opDelete, Key: ev.Key})
		default:
			ops = append(ops, walOperation{Type: opPut, Key: ev.Key, Value: ev.Record.Value, ExpiresAt: ev.Record.ExpiresAt})
		}
	}
	return ops
}
