package kindrpc

import (
	"context"
	"encoding/json"
	"fmt"

	"google.golang.org/grpc"

	"vortex/internal/kind"
	kindpb "vortex/proto/kind"
)

const (
	chunkRecords = 1000    // in one SnapshotChunk at most
	chunkBytes   = 1 << 20 // of keys and values in one, unless a single record is larger
)

// Sync implements the wire contract. The snapshot is sent without a lock and without a watch that could fall behind meanwhile; what
// changed since comes from memory or from the engine's history, so that there is neither a gap nor anything twice.
func (s *Service) Sync(req *kindpb.SyncRequest, stream grpc.ServerStreamingServer[kindpb.SyncPayload]) error {
	ctx := stream.Context()
	acc, err := s.authorize(ctx)
	if err != nil {
		return s.fail(err)
	}
	if err := acc.scan(req.GetKeyPrefix()); err != nil {
		return s.fail(err)
	}
	known, err := revision(req.GetLastKnownTxId())
	if err != nil {
		return s.fail(err)
	}
	f := &follower{s: s, out: s.outlet(stream), acc: acc, prefix: req.GetKeyPrefix(), progress: req.GetProgress()}
	return f.out.run(func() error { return f.run(ctx, known) })
}

// follower is one client of Sync.
type follower struct {
	s        *Service
	out      *outlet
	acc      access
	prefix   string
	progress bool
}

// run sends a snapshot, unless the client knows the state at a revision, and then every later change.
func (f *follower) run(ctx context.Context, known int64) error {
	if known == 0 {
		if err := f.s.fresh(ctx, kindpb.Consistency_LINEARIZABLE); err != nil {
			return f.s.fail(err)
		}
		snapshot := f.s.Store.Snapshot()
		if err := f.sendSnapshot(snapshot); err != nil {
			return err
		}
		known = snapshot.Revision
	}
	opts := kind.WatchOptions{Prefixes: []string{f.prefix}, From: known + 1}
	if f.progress {
		opts.Progress = progressEvery
	}
	watch, err := f.s.Store.Subscribe(ctx, opts)
	if err != nil {
		return f.s.fail(err)
	}
	defer watch.Close()
	f.out.follows(watch)
	return f.s.each(ctx, watch, f.sendTxn)
}

// sendSnapshot sends every record the caller may see, in chunks; at least one, which tells the revision.
func (f *follower) sendSnapshot(snapshot *kind.Snapshot) error {
	var records []*kindpb.Record
	bytes, sent := 0, false
	flush := func() error {
		part := &kindpb.SnapshotChunk{Records: records, MaxTxId: uint64(snapshot.Revision)}
		records, bytes, sent = nil, 0, true
		return f.out.send(&kindpb.SyncPayload{Payload: &kindpb.SyncPayload_Snapshot{Snapshot: part}})
	}
	for rec := range snapshot.Below(f.prefix) {
		if !f.acc.mayRead(rec.Key) {
			continue
		}
		size := len(rec.Key) + len(rec.Value)
		if len(records) == chunkRecords || len(records) > 0 && bytes+size > chunkBytes {
			if err := flush(); err != nil {
				return err
			}
		}
		records, bytes = append(records, message(rec)), bytes+size
	}
	if sent && len(records) == 0 {
		return nil
	}
	return flush()
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

// sendTxn sends what the caller may see of one transaction, and nothing when that is nothing.
func (f *follower) sendTxn(b kind.Batch) error {
	if len(b.Events) == 0 {
		p := &kindpb.Progress{Revision: uint64(b.Revision)}
		return f.out.send(&kindpb.SyncPayload{Payload: &kindpb.SyncPayload_Progress{Progress: p}})
	}
	visible := operations(b.Events, f.acc)
	if len(visible) == 0 {
		return nil
	}
	payload, err := json.Marshal(walPayload{Operations: visible})
	if err != nil {
		return f.s.fail(fmt.Errorf("encode transaction: %w", err))
	}
	rec := &kindpb.WalRecord{TxId: uint64(b.Revision), Payload: payload}
	return f.out.send(&kindpb.SyncPayload{Payload: &kindpb.SyncPayload_WalRecord{WalRecord: rec}})
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
