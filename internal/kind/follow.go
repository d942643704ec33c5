package kind

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"vortex"
)

const (
	followRetry = 300 * time.Millisecond // pause before an engine that ended its watch is followed again
	probeEvery  = 300 * time.Millisecond // how often an engine that is away is asked
	patience    = 5 * time.Second        // after which an engine counts as away that does not show what it said it has
)

var (
	errEnded  = errors.New("the engine ended its watch")
	errRewind = errors.New("the engine has lost its newest writes; it was restored, or a server took over that had not got them")
	errBehind = errors.New("the engine does not show what it has")
)

// Run follows the engine's log until ctx ends, which is the only way it returns. While the engine is away reads go on
// from memory. What memory missed and the engine no longer tells it is loaded anew; every watch then ends with OutOfRange.
func (s *Store) Run(ctx context.Context) error {
	defer s.hub.closeAll()
	var aside sync.WaitGroup
	defer aside.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	aside.Go(func() { s.probe(ctx) })
	aside.Go(func() { s.introduce(ctx) })
	aside.Go(func() { s.buildIndexes(ctx) })
	aside.Go(func() { s.hub.run(ctx) })
	for {
		err := s.advance(ctx)
		if ctx.Err() != nil {
			return nil
		}
		s.lose()
		s.log.WarnContext(ctx, "Engine lost", "err", err)
		pause(ctx, followRetry)
	}
}

// advance closes the gap there may be and then follows the engine until that fails.
func (s *Store) advance(ctx context.Context) error {
	if s.gap.Load() {
		if err := s.reload(ctx); err != nil {
			return fmt.Errorf("load anew: %w", err)
		}
	}
	err := s.follow(ctx)
	if vortex.IsKind(err, vortex.OutOfRange) {
		s.breakOff()
	}
	return err
}

// follow applies batches until the engine's watch ends or memory has to be loaded anew.
func (s *Store) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var guard sync.WaitGroup
	defer guard.Wait()
	defer cancel(nil)
	guard.Go(func() {
		select {
		case <-ctx.Done():
		case <-s.broken:
			cancel(errRewind)
		}
	})
	for batch, err := range s.cfg.Engine.Watch(ctx, s.Revision()+1) {
		if err != nil {
			return causeOr(ctx, err)
		}
		if ctx.Err() != nil {
			break
		}
		events, err := s.state.apply(batch)
		if err != nil {
			return fmt.Errorf("apply revision %d: %w", batch.Revision, err)
		}
		s.stale.Store(false)
		s.hub.publish(Batch{Revision: batch.Revision, Time: s.state.clock.time(), Events: events})
		s.announce()
	}
	return causeOr(ctx, errEnded)
}

// causeOr is why ctx ended, or err while it has not.
func causeOr(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// breakOff notes that memory cannot go on from where it is.
func (s *Store) breakOff() {
	s.gap.Store(true)
	select {
	case s.broken <- struct{}{}:
	default:
	}
}

// Stale reports whether the engine is away, so that reads may be out of date.
func (s *Store) Stale() bool { return s.stale.Load() }

// lose notes that the engine does not answer.
func (s *Store) lose() {
	s.stale.Store(true)
	select {
	case s.lost <- struct{}{}:
	default:
	}
}

// noticed passes an engine's error on, and takes note when it means that the engine is away.
func (s *Store) noticed(err error) error {
	if vortex.IsKind(err, vortex.Unavailable) {
		s.lose()
	}
	return err
}

// present refuses what needs the engine while that is known to be away.
func (s *Store) present() error {
	if !s.Stale() {
		return nil
	}
	if err := s.engineTrouble(); err != nil {
		return err
	}
	return vortex.Errorf(vortex.Unavailable, "the store's engine does not answer: reads go on from memory, and nothing can be changed until it is back; retry")
}

// Trouble is why nothing can be written at the moment, as far as is known, nil while it can.
func (s *Store) Trouble() error { return cmp.Or(s.engineTrouble(), s.present()) }

// engineTrouble is what the engine itself says about that.
func (s *Store) engineTrouble() error {
	if e, ok := s.cfg.Engine.(interface{ Trouble() error }); ok {
		return e.Trouble()
	}
	return nil
}

// probe asks an engine that was lost until it answers again, so that reads wait for it again and are exact.
func (s *Store) probe(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.lost:
		}
		for s.stale.Load() && ctx.Err() == nil {
			if s.confirm(ctx) == nil {
				s.stale.Store(false)
				s.log.InfoContext(ctx, "Engine answers")
				break
			}
			pause(ctx, probeEvery)
		}
	}
}

// Sync returns when the store has taken in everything that was acknowledged anywhere before the call: after it, a read
// from memory is linearizable. It is Unavailable when that cannot be made certain within a few seconds.
func (s *Store) Sync(ctx context.Context) error { return s.noticed(s.confirm(ctx)) }

// confirm asks the engine how far it is and waits until memory is as far.
func (s *Store) confirm(ctx context.Context) error {
	known := s.Revision()
	rev, err := s.cfg.Engine.ReadIndex(ctx)
	if err != nil {
		return err
	}
	return s.reach(ctx, known, rev)
}

// reach waits until memory has taken in rev, which an engine that forgot nothing cannot have named when it is below least.
func (s *Store) reach(ctx context.Context, least, rev int64) error {
	if rev < least || s.gap.Load() {
		s.breakOff()
		return &vortex.Error{Kind: vortex.Unavailable, Msg: "the store is loaded anew from its engine; retry", Err: errRewind}
	}
	if s.Revision() >= rev {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errBehind)
	defer cancel()
	err := s.WaitFor(ctx, rev)
	if errors.Is(err, errBehind) {
		return &vortex.Error{Kind: vortex.Unavailable, Msg: "the store's engine does not answer; retry", Err: err}
	}
	return err
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
