package kind

import (
	"context"
	"time"

	"vortex"
)

// Retention says how much history is kept. A transaction is forgotten once it is older than Age and not among the newest Count;
// and, whatever its age, once Max newer ones are kept. An Age of 0 turns compaction off and leaves it to the engine's operator.
type Retention struct {
	Age        time.Duration
	Count, Max int64
}

const (
	compactStep  = 100_000         // revisions that the engine forgets at once, so that it goes on answering
	compactRetry = time.Minute     // after the engine refused
	compactPause = 5 * time.Minute // at most, between two looks at what has become old
	compactTicks = 12              // looks in the time of Age
	compactShare = 10              // looks in Max revisions
)

// KeepHistory forgets history that keep, which is asked each time, no longer wants, until ctx ends. While nothing is written it does
// nothing. One server of a cluster needs to run it, for all of them share one engine; more do no harm.
func (s *Store) KeepHistory(ctx context.Context, keep func() Retention) error {
	seen := int64(0)
	for s.WaitFor(ctx, seen+1) == nil { // else ctx ended
		seen = s.Revision()
		want := keep()
		pauseFor := want.pause()
		if err := s.forget(ctx, want); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "History not compacted yet", "err", err)
			pauseFor = compactRetry
		}
		s.waitFor(ctx, pauseFor, seen+max(want.Max/compactShare, 1), want.Max > 0)
	}
	return nil
}

// waitFor waits for d, or for a revision when there is a bound on revisions.
func (s *Store) waitFor(ctx context.Context, d time.Duration, rev int64, bounded bool) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	if bounded {
		_ = s.WaitFor(ctx, rev)
		return
	}
	<-ctx.Done()
}

// pause is how long to wait before looking again.
func (r Retention) pause() time.Duration {
	if r.Age <= 0 {
		return compactPause
	}
	return min(max(r.Age/compactTicks, time.Second), compactPause)
}

// forget compacts what is not to be kept, in steps.
func (s *Store) forget(ctx context.Context, keep Retention) error {
	target, err := s.expendable(ctx, keep)
	if err != nil || target == 0 {
		return err
	}
	oldest, err := s.Oldest(ctx)
	if err != nil {
		return err
	}
	for oldest < target {
		oldest = min(oldest+compactStep, target)
		if err := s.cfg.Engine.Compact(ctx, oldest); err != nil {
			return s.noticed(err)
		}
	}
	return nil
}

// expendable is the newest revision before which nothing has to be kept, 0 when there is none.
func (s *Store) expendable(ctx context.Context, keep Retention) (int64, error) {
	if keep.Age <= 0 {
		return 0, nil
	}
	newest := s.Revision()
	target, err := s.RevisionAt(ctx, s.Now().Add(-keep.Age))
	if err != nil && !vortex.IsKind(err, vortex.OutOfRange) {
		return 0, err
	}
	target = min(target, newest-keep.Count)
	if keep.Max > 0 {
		target = max(target, newest-max(keep.Max, keep.Count))
	}
	return max(target, 0), nil
}

// Compact forgets what is only visible at revisions older than rev, and returns the oldest revision
// that can still be read. A revision that has not happened is Invalid; one that is compacted already is no error.
func (s *Store) Compact(ctx context.Context, rev int64) (int64, error) {
	if err := s.checkRevision(ctx, rev); err != nil {
		return 0, err
	}
	oldest, err := s.Oldest(ctx)
	if err != nil || rev <= oldest {
		return oldest, err
	}
	if err := s.cfg.Engine.Compact(ctx, rev); err != nil {
		return 0, s.noticed(err)
	}
	return s.Oldest(ctx)
}
