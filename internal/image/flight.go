package image

import (
	"context"
	"sync"
)

// flights runs at most one call per key at a time and shares its result among everybody who asks meanwhile.
// A call outlives the caller that started it while others wait; when the last one leaves, it is cancelled.
type flights struct {
	mu    sync.Mutex
	calls map[string]*flight
	wg    sync.WaitGroup
}

type flight struct {
	done    chan struct{}
	err     error // valid when done is closed
	waiters int
	cancel  context.CancelFunc
}

// do returns the result of fn, which runs for key now or is already running.
func (f *flights) do(ctx context.Context, key string, fn func(context.Context) error) error {
	c := f.join(ctx, key, fn)
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		if f.leave(key, c) {
			<-c.done // nothing goes on behind the back of the last one
		}
		return context.Cause(ctx)
	}
}

func (f *flights) join(ctx context.Context, key string, fn func(context.Context) error) *flight {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.calls[key]; c != nil {
		c.waiters++
		return c
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c := &flight{done: make(chan struct{}), waiters: 1, cancel: cancel}
	if f.calls == nil {
		f.calls = map[string]*flight{}
	}
	f.calls[key] = c
	f.wg.Go(func() {
		defer cancel()
		c.err = fn(run)
		f.forget(key, c)
		close(c.done)
	})
	return c
}

// leave takes one waiter off and reports whether it was the last.
func (f *flights) leave(key string, c *flight) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.waiters--; c.waiters > 0 {
		return false
	}
	if f.calls[key] == c {
		delete(f.calls, key) // whoever comes now starts afresh
	}
	c.cancel()
	return true
}

func (f *flights) forget(key string, c *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.calls[key] == c {
		delete(f.calls, key)
	}
}

func (f *flights) wait() { f.wg.Wait() }
