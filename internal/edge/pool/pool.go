// Package pool chooses which backend answers: a Pool's Balancer picks a Backend, and backends that were removed drain.
//
// It knows no protocol: connections are things to keep and to close. Any engine, however it waits for sockets, calls it in the
// same way:
//
//	b := p.Pick(key, now, &tried) // nil: p.Hold
//	defer b.Done()
//
// It guarantees that picking neither locks nor allocates, and that what Fleet.Busy returns is exact: no pick that began
// after Fill returned goes to a backend which Fill removed, and those that still answer an earlier pick are named as busy.
package pool

import (
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"vortex/internal/edge/meter"
)

// MaxAttempts is how many different backends one request is sent to at most.
const MaxAttempts = 8

// DefaultMaxHeld is how many requests of one app wait for a backend at the same time.
const DefaultMaxHeld = 1000

// Why Hold gave up.
var (
	ErrFull    = errors.New("too many requests wait for a backend already")
	ErrTimeout = errors.New("no backend came in time")
	ErrGone    = errors.New("the app is gone")
	ErrLeft    = errors.New("the client left")
)

// Pool is an app's backends. It lives as long as its app is routed; what it holds is swapped whole.
type Pool struct {
	App   string
	Meter *meter.App

	members atomic.Pointer[members]
	turn    atomic.Uint64
	held    atomic.Int64
	maxHeld int64
	onHold  func()
}

// members is what a pool holds, and never changes.
type members struct {
	backends []*Backend
	balancer Balancer
	gone     bool          // the app is no longer routed
	replaced chan struct{} // closed when these are no longer the pool's members
}

// Tried are the backends a request was sent to without an answer. The zero value is none.
type Tried struct {
	backends [MaxAttempts]*Backend
	n        int
}

// Add remembers a backend and reports whether there is another attempt left.
func (t *Tried) Add(b *Backend) bool {
	if t.n < len(t.backends) {
		t.backends[t.n] = b
		t.n++
	}
	return t.n < len(t.backends)
}

// Reset forgets all of them.
func (t *Tried) Reset() { *t = Tried{} }

func (t *Tried) has(b *Backend) bool {
	return slices.Contains(t.backends[:t.n], b)
}

// Pick chooses a backend and counts a request in flight on it, which the caller ends with Done. It returns nil
// when no backend is usable: there is none, or all were tried or are known to be dead at now. key is the
// hash of what ring-hash keeps together; now is in nanoseconds of the engine's clock.
func (p *Pool) Pick(key uint64, now int64, tried *Tried) *Backend {
	for {
		b, stale := p.members.Load().pick(key, now, tried)
		if b != nil || !stale {
			return b
		}
	}
}

// pick is stale when it met a backend that was removed after these members were loaded: others are in place by then.
func (m *members) pick(key uint64, now int64, tried *Tried) (b *Backend, stale bool) {
	n := len(m.backends)
	if n == 0 {
		return nil, false
	}
	i := m.balancer.Next(m.backends, key)
	for range n {
		b := m.backends[i]
		if i++; i == n {
			i = 0
		}
		if tried.has(b) || b.deadAt(now) {
			continue
		}
		if b.acquire() {
			return b, false
		}
		stale = true
	}
	return nil, stale
}

// Waiter is a request that waits for a backend.
type Waiter struct {
	Key   uint64
	Tried *Tried
	Left  <-chan struct{} // closed when the client left
	Now   func() int64    // the engine's clock
}

// Hold waits until a backend is usable and picks it, for at most limit. The attempts a request made before do not
// count once the backends have changed or those known as dead may be alive again.
func (p *Pool) Hold(w Waiter, limit time.Duration) (*Backend, error) {
	if p.held.Add(1) > p.maxHeld {
		p.held.Add(-1)
		return nil, ErrFull
	}
	defer p.held.Add(-1)
	p.onHold()
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	for {
		m := p.members.Load()
		if m.gone {
			return nil, ErrGone
		}
		if b, stale := m.pick(w.Key, w.Now(), w.Tried); b != nil {
			return b, nil
		} else if stale {
			continue
		}
		if err := m.wait(w, timeout.C); err != nil {
			return nil, err
		}
		w.Tried.Reset()
	}
}

// wait returns when picking may succeed.
func (m *members) wait(w Waiter, timeout <-chan time.Time) error {
	var revived <-chan time.Time
	if after, ok := m.revival(w.Now()); ok {
		timer := time.NewTimer(after)
		defer timer.Stop()
		revived = timer.C
	}
	select {
	case <-m.replaced:
		return nil
	case <-revived:
		return nil
	case <-timeout:
		return ErrTimeout
	case <-w.Left:
		return ErrLeft
	}
}

// revival returns after how long the first backend known as dead may be tried again.
func (m *members) revival(now int64) (time.Duration, bool) {
	var first time.Duration
	for _, b := range m.backends {
		after := time.Duration(max(b.deadUntil.Load()-now, int64(minRevival)))
		if first == 0 || after < first {
			first = after
		}
	}
	return first, first > 0
}

// minRevival keeps a held request from trying a backend that fails at once over and over.
const minRevival = 50 * time.Millisecond

// Held returns the requests waiting for a backend.
func (p *Pool) Held() int64 { return p.held.Load() }

// Backends returns the pool's backends. The slice must not be changed.
func (p *Pool) Backends() []*Backend { return p.members.Load().backends }
