// Package swap is an engine that stands on another one, which can be replaced while it is used: a server that becomes a member of
// the store's group moves from a remote engine to its own, and back, and the store on top does not notice.
//
// The old and the new engine must be ways to the same data, with the same revisions. A watch goes on at the revision it had
// reached; reads and writes that have begun end on the old engine, and those that fail because it is gone are Unavailable, as when any
// engine is lost. It never repeats a write on the new engine: nobody knows whether it happened.
package swap

import (
	"context"
	"errors"
	"iter"
	"sync"

	"vortex"
	"vortex/internal/kind/engine"
)

// Engine is the replaceable engine. Use New.
type Engine struct {
	mu      sync.Mutex
	current *lease
	closed  bool
}

// lease is an engine with those who use it.
type lease struct {
	engine engine.Engine
	users  sync.WaitGroup
	ended  chan struct{} // closed when another engine has taken its place
}

// errReplaced is why a watch of an engine ended that has been replaced.
var errReplaced = errors.New("the engine was replaced")

// New returns an engine that stands on another one until Replace.
func New(first engine.Engine) *Engine { return &Engine{current: newLease(first)} }

func newLease(e engine.Engine) *lease { return &lease{engine: e, ended: make(chan struct{})} }

// Replace makes everything that begins from now on use the next engine, and closes the one before once nothing uses it any more.
// The next engine must have everything that the one before has shown; Replace changes nothing when it fails. How the engine before ends is no failure: it may be a
// member that was removed, and the next one is in use already.
func (e *Engine) Replace(ctx context.Context, next engine.Engine) error {
	before := e.take()
	seen, err := before.engine.ReadIndex(ctx)
	before.users.Done()
	if err == nil {
		if err := follows(ctx, next, seen); err != nil {
			return err
		}
	}
	fresh := newLease(next)
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return vortex.Errorf(vortex.Unavailable, "the store is closed")
	}
	old := e.current
	e.current = fresh
	e.mu.Unlock()
	close(old.ended)
	old.users.Wait()
	_ = old.engine.Close()
	return nil
}

// follows returns once an engine is at a revision. An engine that cannot say how far it is may be a member that was removed: then the one
// before had nothing new to tell either.
func follows(ctx context.Context, e engine.Engine, revision int64) error {
	rev, err := e.ReadIndex(ctx)
	if err != nil {
		return err
	}
	if rev < revision {
		return &vortex.Error{Kind: vortex.Unavailable, Msg: "the next engine is behind the one in use; it was not taken"}
	}
	return nil
}

// Current is the engine in use.
func (e *Engine) Current() engine.Engine {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.current.engine
}

// Relayed reports whether what the engine in use has is passed on by others.
func (e *Engine) Relayed() bool {
	relayed, ok := e.Current().(interface{ Relayed() bool })
	return ok && relayed.Relayed()
}

// take returns the engine in use; the caller is one of its users until it says Done.
func (e *Engine) take() *lease {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.current.users.Add(1)
	return e.current
}

// Range implements engine.Engine.
func (e *Engine) Range(ctx context.Context, lo, hi string, rev *int64) iter.Seq2[engine.KV, error] {
	return func(yield func(engine.KV, error) bool) {
		l := e.take()
		defer l.users.Done()
		l.engine.Range(ctx, lo, hi, rev)(yield)
	}
}

// Commit implements engine.Engine.
func (e *Engine) Commit(ctx context.Context, txn engine.Txn) (engine.Result, error) {
	l := e.take()
	defer l.users.Done()
	return l.engine.Commit(ctx, txn)
}

// Watch implements engine.Engine.
func (e *Engine) Watch(ctx context.Context, from int64) iter.Seq2[engine.Batch, error] {
	return func(yield func(engine.Batch, error) bool) {
		for ctx.Err() == nil {
			next, goOn := e.watch(ctx, from, yield)
			if !goOn {
				return
			}
			from = next
		}
	}
}

// watch follows the engine in use until it is replaced, and returns where to go on, or that there is nothing to go on with.
func (e *Engine) watch(ctx context.Context, from int64, yield func(engine.Batch, error) bool) (next int64, goOn bool) {
	l := e.take()
	defer l.users.Done()
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-inner.Done():
		case <-l.ended:
			cancel(errReplaced)
		}
	}()
	for batch, err := range l.engine.Watch(inner, from) {
		if err != nil {
			if replaced(inner) {
				return from, true
			}
			yield(batch, err)
			return 0, false
		}
		if !yield(batch, nil) {
			return 0, false
		}
		from = max(from, batch.Revision+1)
	}
	return from, replaced(inner)
}

func replaced(ctx context.Context) bool { return errors.Is(context.Cause(ctx), errReplaced) }

// ReadIndex implements engine.Engine.
func (e *Engine) ReadIndex(ctx context.Context) (int64, error) {
	l := e.take()
	defer l.users.Done()
	return l.engine.ReadIndex(ctx)
}

// Compact implements engine.Engine.
func (e *Engine) Compact(ctx context.Context, rev int64) error {
	l := e.take()
	defer l.users.Done()
	return l.engine.Compact(ctx, rev)
}

// Trouble is why nothing can be written, as far as the engine in use says, nil while it can.
func (e *Engine) Trouble() error {
	l := e.take()
	defer l.users.Done()
	if t, ok := l.engine.(interface{ Trouble() error }); ok {
		return t.Trouble()
	}
	return nil
}

// Close implements engine.Engine.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.closed = true
	last := e.current
	e.mu.Unlock()
	last.users.Wait()
	return last.engine.Close()
}

var _ engine.Engine = (*Engine)(nil)
