package runtime

import (
	"context"
	"iter"
	"sync"
)

// Exits hands the exits of instances to the Watch of a driver without losing any: an exit that nobody
// watches for is kept until somebody does. The zero value is ready. It starts no goroutine.
type Exits struct {
	mu       sync.Mutex
	kept     []Status
	watchers map[*exitWatcher]struct{}
}

type exitWatcher struct {
	pending []Status
	wake    chan struct{} // one slot
}

// Publish tells every watcher of an exit, or keeps it for the next one when there is none.
func (e *Exits) Publish(s Status) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.watchers) == 0 {
		e.kept = append(e.kept, s)
		return
	}
	for w := range e.watchers {
		w.pending = append(w.pending, s)
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// Forget drops a kept exit: the instance was removed.
func (e *Exits) Forget(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	kept := e.kept[:0]
	for _, s := range e.kept {
		if s.ID != id {
			kept = append(kept, s)
		}
	}
	e.kept = kept
}

// Watch yields kept exits and then every published one, until ctx ends or the consumer stops. What was
// not yielded by then is kept when no other watcher saw it.
func (e *Exits) Watch(ctx context.Context) iter.Seq[Status] {
	return func(yield func(Status) bool) {
		w := e.join()
		defer e.leave(w)
		for {
			for s, ok := e.next(w); ok; s, ok = e.next(w) {
				if ctx.Err() != nil {
					e.unread(w, s)
					return
				}
				if !yield(s) {
					return
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-w.wake:
			}
		}
	}
}

func (e *Exits) join() *exitWatcher {
	e.mu.Lock()
	defer e.mu.Unlock()
	w := &exitWatcher{pending: e.kept, wake: make(chan struct{}, 1)}
	e.kept = nil
	if e.watchers == nil {
		e.watchers = map[*exitWatcher]struct{}{}
	}
	e.watchers[w] = struct{}{}
	return w
}

func (e *Exits) leave(w *exitWatcher) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.watchers, w)
	if len(e.watchers) == 0 {
		e.kept = append(e.kept, w.pending...)
	}
}

func (e *Exits) next(w *exitWatcher) (Status, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(w.pending) == 0 {
		return Status{}, false
	}
	s := w.pending[0]
	w.pending = w.pending[1:]
	return s, true
}

func (e *Exits) unread(w *exitWatcher, s Status) {
	e.mu.Lock()
	defer e.mu.Unlock()
	w.pending = append([]Status{s}, w.pending...)
}
