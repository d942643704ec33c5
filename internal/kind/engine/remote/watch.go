package remote

import (
	"context"
	"errors"
	"io"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"vortex"
	"vortex/internal/kind/engine"
	kindpb "vortex/proto/kind"
)

const (
	settle      = 250 * time.Millisecond // how long a watch waits for another server before it says that none answers
	firstResume = 5 * time.Millisecond   // before the same server is asked again that ended a watch
	lastResume  = time.Second
	firstBegin  = time.Second // for a server to begin a watch, before it is asked anew or another one is; doubled each time, for all may be slow
	lastBegin   = 16 * time.Second
)

// stream is one watch at one server.
type stream struct {
	call grpc.BidiStreamingClient[kindpb.FollowRequest, kindpb.FollowPart]
	at   atomic.Int64 // everything up to it was yielded

	mu    sync.Mutex
	asked int64 // the newest revision that a mark was asked for
}

// reach asks the server to tell as soon as everything up to rev was sent.
func (s *stream) reach(rev int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at.Load() < rev && s.asked < rev {
		s.asked = rev
		_ = s.call.Send(&kindpb.FollowRequest{Reach: uint64(rev)}) // a stream that broke is made again, and asks
	}
}

// reach makes the watches tell of a revision although nothing that they yield happened at it.
func (e *Engine) reach(rev int64) {
	for have := e.wanted.Load(); have < rev && !e.wanted.CompareAndSwap(have, rev); have = e.wanted.Load() {
	}
	if len(e.hold) == 0 {
		return // every revision comes by itself
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for s := range e.streams {
		if s.at.Load() < rev {
			go s.reach(rev) // sending may wait for room
		}
	}
}

// Watch implements engine.Engine. It goes from server to server without a gap; it ends with Unavailable when none answers any more.
func (e *Engine) Watch(ctx context.Context, from int64) iter.Seq2[engine.Batch, error] {
	return func(yield func(engine.Batch, error) bool) {
		l, err := e.route.await(ctx) // as long as it takes
		for resume, begin := firstResume, firstBegin; err == nil; {
			var next int64
			next, err = e.follow(ctx, l, from, begin, yield)
			if next == stopped || ctx.Err() != nil {
				return
			}
			if errors.Is(err, errNotBegun) {
				e.cfg.Log.WarnContext(ctx, "Server does not begin to tell of changes", "server", l.addr, "waited", begin)
				begin = min(2*begin, lastBegin)
			} else {
				begin = firstBegin
			}
			if next > from {
				resume = firstResume
			}
			from = next
			if err = classify(ctx, "watch", err); !passing(err) {
				break
			}
			l, resume, err = e.next(ctx, l, resume)
		}
		if ctx.Err() == nil {
			yield(engine.Batch{}, err)
		}
	}
}

// passing reports whether what an error tells of may be over when it is tried again.
func passing(err error) bool {
	return vortex.IsKind(err, vortex.Unavailable) || vortex.IsKind(err, vortex.Exhausted)
}

// next returns the link to go on with after a watch on one broke: another at once, the same one after a while.
func (e *Engine) next(ctx context.Context, before *link, resume time.Duration) (*link, time.Duration, error) {
	soon, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	for {
		l, changed := e.route.now()
		if l != nil && l != before {
			return l, firstResume, nil
		}
		if l != nil { // it answers, but not to this
			e.route.doubtful(l)
			select {
			case <-changed:
			case <-ctx.Done():
				return nil, 0, context.Cause(ctx)
			case <-time.After(resume):
				return l, min(2*resume, lastResume), nil
			}
			continue
		}
		select {
		case <-changed:
		case <-soon.Done():
			return nil, 0, e.route.away()
		}
	}
}

// stopped is what follow returns when the consumer wants no more.
const stopped = -1

// follow watches at one server until that breaks or does not begin in time, another one is used, or the consumer stops. It returns the revision to go on
// from, and why it ended.
func (e *Engine) follow(ctx context.Context, l *link, from int64, begin time.Duration, yield func(engine.Batch, error) bool) (int64, error) {
	ctx, release := l.bind(ctx)
	defer release()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := e.leaveWith(ctx, l, cancel)
	defer stop()
	call, err := l.kind.Follow(ctx)
	if err != nil {
		return from, err
	}
	s := &stream{call: call, asked: max(e.wanted.Load(), 0)}
	s.at.Store(from - 1)
	if err := call.Send(&kindpb.FollowRequest{FromRevision: uint64(from), Selections: e.hold, Reach: uint64(s.asked)}); err != nil && !errors.Is(err, io.EOF) {
		return from, err
	}
	late := time.AfterFunc(begin, cancel)
	_, err = call.Header()
	if !late.Stop() {
		return from, errNotBegun
	}
	if err != nil {
		return from, err
	}
	e.add(s)
	defer e.remove(s)
	e.reach(e.wanted.Load()) // it may have grown before the stream was known
	for {
		p, err := call.Recv()
		if err != nil {
			return from, cmpEnded(err)
		}
		l.hear()
		batch := engine.Batch{Revision: int64(p.GetRevision()), Changes: make([]engine.Change, len(p.GetEntries()))}
		if batch.Revision < from {
			continue // of a server that lags behind
		}
		for i, entry := range p.GetEntries() {
			batch.Changes[i] = engine.Change{KV: keyValue(entry), Delete: entry.GetDeleted()}
			if entry.GetDeleted() {
				batch.Changes[i].ModRevision = batch.Revision
			}
		}
		if !yield(batch, nil) {
			return stopped, nil
		}
		from = batch.Revision + 1
		s.at.Store(batch.Revision)
	}
}

// leaveWith ends a watch when another server is used than the one it is at.
func (e *Engine) leaveWith(ctx context.Context, l *link, leave context.CancelFunc) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		for {
			used, changed := e.route.now()
			if used != l {
				leave()
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
		}
	}()
	return cancel
}

func (e *Engine) add(s *stream) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.streams[s] = struct{}{}
}

func (e *Engine) remove(s *stream) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.streams, s)
}

// ended is the error of a stream that came to its end, nil where that is as it should be.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

var errNotBegun = vortex.Errorf(vortex.Unavailable, "the server does not begin the watch")

var errEnded = vortex.Errorf(vortex.Unavailable, "the server ended the watch")

// cmpEnded is ended for a stream that should have no end.
func cmpEnded(err error) error {
	if errors.Is(err, io.EOF) {
		return errEnded
	}
	return err
}
