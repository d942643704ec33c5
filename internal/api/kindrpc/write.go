package kindrpc

import (
	"context"
	"math"
	"time"

	"vortex"
	"vortex/internal/kind"
	kindpb "vortex/proto/kind"
)

// Put implements the wire contract.
func (s *Service) Put(ctx context.Context, req *kindpb.PutRequest) (*kindpb.PutResponse, error) {
	op, err := s.putOp(ctx, req)
	if err != nil {
		return nil, s.fail(err)
	}
	rev, err := s.Store.Commit(ctx, kind.Txn{Ops: []kind.Op{op}})
	if err != nil {
		return nil, s.refused(ctx, err)
	}
	return &kindpb.PutResponse{Success: true, Revision: uint64(rev)}, nil
}

// putOp checks that the caller may do a put, and translates it.
func (s *Service) putOp(ctx context.Context, req *kindpb.PutRequest) (kind.Op, error) {
	acc, err := s.authorize(ctx)
	if err != nil {
		return kind.Op{}, err
	}
	if err := acc.put(req.GetKey(), req.GetValue()); err != nil {
		return kind.Op{}, err
	}
	ttl, err := lifetime(req.TtlMs)
	return kind.Op{Key: req.GetKey(), Value: req.GetValue(), TTL: ttl}, err
}

// lifetime turns a time to live on the wire into a duration; absent and 0 never end.
func lifetime(millis *uint64) (time.Duration, error) {
	if millis == nil {
		return 0, nil
	}
	if *millis > math.MaxInt64/uint64(time.Millisecond) {
		return 0, vortex.Errorf(vortex.Invalid, "ttl_ms is %d; at most %d is allowed", *millis, math.MaxInt64/int64(time.Millisecond))
	}
	return time.Duration(*millis) * time.Millisecond, nil
}

// Delete implements the wire contract.
func (s *Service) Delete(ctx context.Context, req *kindpb.DeleteRequest) (*kindpb.DeleteResponse, error) {
	acc, err := s.authorize(ctx)
	if err != nil {
		return nil, s.fail(err)
	}
	if err := acc.write(req.GetKey()); err != nil {
		return nil, s.fail(err)
	}
	existed, err := s.Store.Delete(ctx, req.GetKey())
	if err != nil {
		return nil, s.fail(err)
	}
	return &kindpb.DeleteResponse{Success: existed, Revision: uint64(s.Store.Revision())}, nil
}

// Cas implements the wire contract.
func (s *Service) Cas(ctx context.Context, req *kindpb.CasRequest) (*kindpb.CasResponse, error) {
	op, err := s.putOp(ctx, &kindpb.PutRequest{Key: req.GetKey(), Value: req.GetNewValue(), TtlMs: req.TtlMs})
	if err != nil {
		return nil, s.fail(err)
	}
	acc, err := s.authorize(ctx)
	if err == nil {
		err = acc.read(op.Key) // who wins or loses learns what the key holds
	}
	if err != nil {
		return nil, s.fail(err)
	}
	won, err := s.Store.Swap(ctx, op.Key, req.GetExpectedValue(), op.Value, op.TTL)
	if err != nil {
		return nil, s.refused(ctx, err)
	}
	return &kindpb.CasResponse{Success: won, Revision: uint64(s.Store.Revision())}, nil
}

// Txn implements the wire contract.
func (s *Service) Txn(ctx context.Context, req *kindpb.TxnRequest) (*kindpb.TxnResponse, error) {
	txn, err := s.txn(ctx, req)
	if err != nil {
		return nil, s.fail(err)
	}
	rev, err := s.Store.Commit(ctx, txn)
	if vortex.IsKind(err, vortex.Conflict) {
		return &kindpb.TxnResponse{Revision: uint64(s.Store.Revision())}, nil
	}
	if err != nil {
		return nil, s.refused(ctx, err)
	}
	return &kindpb.TxnResponse{Success: true, Revision: uint64(rev)}, nil
}

// txn checks that the caller may do a transaction, and translates it.
func (s *Service) txn(ctx context.Context, req *kindpb.TxnRequest) (kind.Txn, error) {
	acc, err := s.authorize(ctx)
	if err != nil {
		return kind.Txn{}, err
	}
	if err := s.checkTxn(req); err != nil {
		return kind.Txn{}, err
	}
	var txn kind.Txn
	for _, c := range req.GetCompares() {
		if err := acc.read(c.GetKey()); err != nil {
			return kind.Txn{}, err
		}
		if rev, ok := c.GetTarget().(*kindpb.Compare_ModRevision); ok {
			txn.If = append(txn.If, kind.IfRevision(c.GetKey(), int64(rev.ModRevision)))
		} else {
			txn.If = append(txn.If, kind.IfValue(c.GetKey(), c.GetValue()))
		}
	}
	for _, c := range req.GetExact() {
		if err := acc.read(string(c.GetKey())); err != nil {
			return kind.Txn{}, err
		}
		txn.If = append(txn.If, kind.Condition{Key: string(c.GetKey()), Revision: int64(c.GetModRevision()), ByRevision: true, Exact: true})
	}
	for _, w := range req.GetWrites() {
		ttl, err := lifetime(&w.TtlMs)
		if err == nil {
			err = acc.write(string(w.GetKey()))
		}
		if err != nil {
			return kind.Txn{}, err
		}
		txn.Ops = append(txn.Ops, kind.Op{Key: string(w.GetKey()), Value: w.GetValue(), TTL: ttl, Delete: w.GetDeleted()})
	}
	for _, o := range req.GetOperations() {
		op, err := s.operation(ctx, o)
		if err != nil {
			return kind.Txn{}, err
		}
		txn.Ops = append(txn.Ops, op)
	}
	return txn, nil
}

func (s *Service) operation(ctx context.Context, o *kindpb.Operation) (kind.Op, error) {
	if put := o.GetPut(); put != nil {
		return s.putOp(ctx, put)
	}
	acc, err := s.authorize(ctx)
	if err != nil {
		return kind.Op{}, err
	}
	key := o.GetDelete().GetKey()
	return kind.Op{Key: key, Delete: true}, acc.write(key)
}
