package kind

import (
	"context"
	"time"

	"vortex/internal/kind/engine"
)

const (
	sweepBatch = 100                    // expired records deleted in one transaction; an external etcd may take no more than 128
	sweepRetry = 500 * time.Millisecond // pause after the engine refused
	sweepIdle  = time.Hour              // no record expires: only a new one wakes the sweep
)

// Sweep deletes expired records until ctx ends, so that watchers learn of their end. Readers do not depend
// on it. One server of a cluster needs to run it; more do no harm, for a record is deleted only as it was seen.
func (s *Store) Sweep(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-s.state.sooner:
		}
		timer.Reset(s.sweepDue(ctx))
	}
}

// sweepDue deletes what has expired by now and returns how long to wait for the next.
func (s *Store) sweepDue(ctx context.Context) time.Duration {
	now := nowMillis()
	expired, next := s.state.due(now)
	for len(expired) > 0 {
		batch := expired[:min(len(expired), sweepBatch)]
		if err := s.deleteExpired(ctx, batch); err != nil {
			s.state.remind(expired)
			if ctx.Err() == nil {
				s.log.WarnContext(ctx, "Expired records not deleted yet", "err", err)
			}
			return sweepRetry
		}
		expired = expired[len(batch):]
	}
	if next == 0 {
		return sweepIdle
	}
	return time.Duration(next-now) * time.Millisecond
}

// deleteExpired deletes records that are still as they were when they expired: in
// one transaction when none changed, else one by one.
func (s *Store) deleteExpired(ctx context.Context, records []*Record) error {
	txn := expiryTxn(records)
	result, err := s.commit(ctx, txn)
	if err != nil || result.Committed || len(records) == 1 {
		return err
	}
	for _, rec := range records {
		if _, err := s.commit(ctx, expiryTxn([]*Record{rec})); err != nil {
			return err
		}
	}
	return nil
}

func expiryTxn(records []*Record) (txn engine.Txn) {
	for _, rec := range records {
		txn.Compares = append(txn.Compares, engine.Compare{Key: rec.Key, ModRevision: rec.ModRevision})
		txn.Writes = append(txn.Writes, engine.Write{Key: rec.Key, Delete: true})
	}
	return txn
}
