package kind

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// waiters are those who wait until memory has taken in a revision. Each is woken once, when its revision is there, however
// many others wait for later ones.
type waiters struct {
	mu    sync.Mutex
	queue []*waiting // by revision, ascending
}

// waiting is everybody who waits for one revision.
type waiting struct {
	rev     int64
	reached chan struct{} // closed when it is there
	count   int
}

// join returns what to wait on for rev; nil when reached, asked under the lock, says that it is there.
func (w *waiters) join(rev int64, reached func() bool) *waiting {
	w.mu.Lock()
	defer w.mu.Unlock()
	if reached() {
		return nil
	}
	at, found := w.find(rev)
	if !found {
		w.queue = slices.Insert(w.queue, at, &waiting{rev: rev, reached: make(chan struct{})})
	}
	w.queue[at].count++
	return w.queue[at]
}

// leave forgets one who no longer waits.
func (w *waiters) leave(gone *waiting) {
	w.mu.Lock()
	defer w.mu.Unlock()
	gone.count--
	if at, found := w.find(gone.rev); found && w.queue[at] == gone && gone.count == 0 {
		w.queue = slices.Delete(w.queue, at, at+1)
	}
}

// wake lets those go on who wait for rev or an earlier one.
func (w *waiters) wake(rev int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for n < len(w.queue) && w.queue[n].rev <= rev {
		close(w.queue[n].reached)
		n++
	}
	w.queue = slices.Delete(w.queue, 0, n)
}

func (w *waiters) find(rev int64) (int, bool) {
	return slices.BinarySearchFunc(w.queue, rev, func(have *waiting, rev int64) int { return int(have.rev - rev) })
}

// announce wakes everybody who waits for a revision that memory has taken in.
func (s *Store) announce() { s.waiters.wake(s.Revision()) }

// WaitFor returns when the store has taken in rev.
func (s *Store) WaitFor(ctx context.Context, rev int64) error {
	w := s.waiters.join(rev, func() bool { return s.Revision() >= rev })
	if w == nil {
		return nil
	}
	select {
	case <-w.reached:
		return nil
	case <-ctx.Done():
		s.waiters.leave(w)
		return fmt.Errorf("wait for revision %d: %w", rev, context.Cause(ctx))
	}
}
