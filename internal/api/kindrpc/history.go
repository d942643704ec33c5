package kindrpc

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"vortex"
	"vortex/internal/kind"
	kindpb "vortex/proto/kind"
)

// History implements the wire contract.
func (s *Service) History(req *kindpb.HistoryRequest, stream grpc.ServerStreamingServer[kindpb.Transaction]) error {
	ctx := stream.Context()
	acc, err := s.authorize(ctx)
	if err != nil {
		return s.fail(err)
	}
	if err := acc.scan(req.GetKeyPrefix()); err != nil {
		return s.fail(err)
	}
	from, to, err := s.span(ctx, req)
	if err != nil {
		return s.fail(err)
	}
	for b, err := range s.Store.History(ctx, req.GetKeyPrefix(), from, to) {
		if err != nil {
			return s.fail(err)
		}
		txn := transaction(b, acc)
		if len(txn.GetChanges()) == 0 {
			continue
		}
		if err := stream.Send(txn); err != nil {
			return fmt.Errorf("send transaction: %w", err)
		}
	}
	return nil
}

// span resolves the ends of a history. A time before the oldest kept begins there, for who asks for the last hour wants what
// there is of it.
func (s *Service) span(ctx context.Context, req *kindpb.HistoryRequest) (from, to int64, err error) {
	if from, err = revision(req.GetFromRevision()); err != nil {
		return 0, 0, err
	}
	if to, err = revision(req.GetToRevision()); err != nil {
		return 0, 0, err
	}
	if ms := req.GetFromTime(); from == 0 && ms != 0 {
		from, err = s.Store.RevisionAt(ctx, time.UnixMilli(int64(ms)-1)) //nolint:gosec // any number is some time
		switch {
		case vortex.IsKind(err, vortex.OutOfRange):
			from, err = 0, nil
		case err != nil:
			return 0, 0, err
		default:
			from++
		}
	}
	if ms := req.GetToTime(); to == 0 && ms != 0 {
		to, err = s.Store.RevisionAt(ctx, time.UnixMilli(int64(ms))) //nolint:gosec // any number is some time
	}
	return from, to, err
}

// transaction is what the caller may see of a batch.
func transaction(b kind.Batch, acc access) *kindpb.Transaction {
	txn := &kindpb.Transaction{Revision: uint64(b.Revision)}
	if !b.Time.IsZero() {
		txn.Time = uint64(b.Time.UnixMilli())
	}
	for _, ev := range b.Events {
		if acc.mayRead(ev.Key) {
			txn.Changes = append(txn.Changes, change(ev))
		}
	}
	return txn
}

func change(ev kind.Event) *kindpb.Change {
	c := &kindpb.Change{Key: ev.Key}
	if ev.Prev != nil {
		c.Before = message(ev.Prev)
	}
	if ev.Record != nil {
		c.After = message(ev.Record)
	}
	return c
}

// Diff implements the wire contract.
func (s *Service) Diff(req *kindpb.DiffRequest, stream grpc.ServerStreamingServer[kindpb.Change]) error {
	ctx := stream.Context()
	acc, err := s.authorize(ctx)
	if err != nil {
		return s.fail(err)
	}
	if err := acc.scan(req.GetKeyPrefix()); err != nil {
		return s.fail(err)
	}
	from, to, err := s.ends(ctx, req)
	if err != nil {
		return s.fail(err)
	}
	for ev, err := range kind.Diff(ctx, from, to, req.GetKeyPrefix()) {
		if err != nil {
			return s.fail(err)
		}
		if !acc.mayRead(ev.Key) {
			continue
		}
		if err := stream.Send(change(ev)); err != nil {
			return fmt.Errorf("send difference: %w", err)
		}
	}
	return nil
}

// ends returns the states that a difference is between.
func (s *Service) ends(ctx context.Context, req *kindpb.DiffRequest) (from, to kind.Past, err error) {
	if req.GetFromRevision() == 0 && req.GetFromTime() == 0 {
		return from, to, vortex.Errorf(vortex.Invalid, "from_revision or from_time has to say which state is the one before")
	}
	if from, err = s.state(ctx, req.GetFromRevision(), req.GetFromTime()); err != nil {
		return from, to, err
	}
	if rev, at := req.GetToRevision(), req.GetToTime(); rev != 0 || at != 0 {
		to, err = s.state(ctx, rev, at)
		return from, to, err
	}
	if err := s.Store.Sync(ctx); err != nil {
		return from, to, err
	}
	to, err = s.Store.At(ctx, s.Store.Revision())
	return from, to, err
}

// Compact implements the wire contract.
func (s *Service) Compact(ctx context.Context, req *kindpb.CompactRequest) (*kindpb.CompactResponse, error) {
	acc, err := s.authorize(ctx)
	if err != nil {
		return nil, s.fail(err)
	}
	if err := acc.admin("compact the store"); err != nil {
		return nil, s.fail(err)
	}
	rev, err := revision(req.GetRevision())
	if err != nil {
		return nil, s.fail(err)
	}
	oldest, err := s.Store.Compact(ctx, rev)
	if err != nil {
		return nil, s.fail(err)
	}
	return &kindpb.CompactResponse{OldestRevision: uint64(oldest)}, nil
}
