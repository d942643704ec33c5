package kind

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"vortex/internal/kind/engine"
)

const (
	sweepBatch  = 100                    // expired records deleted in one transaction; an external etcd may take no more than 128
	sweepAtOnce = 8                      // so many transactions are under way at the same time
	sweepRetry  = 500 * time.Millisecond // pause after the engine refused
	sweepIdle   = time.Hour              // no record expires: only a new one wakes the sweep
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
	expired, next := s.state.due(s.now())
	var sweepers errgroup.Group
	sweepers.SetLimit(sweepAtOnce)
	for batch := range slices.Chunk(expired, sweepBatch) {
		sweepers.Go(func() error {
			err := s.deleteExpired(ctx, batch)
			if err != nil {
				s.state.remind(batch)
			}
			return err
		})
	}
	if err := sweepers.Wait(); err != nil {
		if ctx.Err() == nil {
			s.log.WarnContext(ctx, "Expired records not deleted yet", "err", err)
		}
		return sweepRetry
	}
	if next == 0 {
		return sweepIdle
	}
	return max(time.Duration(next-s.now())*time.Millisecond, 0)
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
