// Package pool chooses which backend answers: a Pool's Balancer picks a Backend, and backends that were removed drain.
//
// It knows no protocol: connections are things to keep and to close. Any engine, however it waits for sockets, calls it in the
// same way:
//
//	b := p.Pick(key, now, &tried) // nil: p.Hold
//	defer b.Done()
//
// An engine that knows headers begins with Ask and goes on with Choose.
//
// It guarantees that picking neither locks nor allocates, and that what Fleet.Busy returns is exact: no pick that began
// after Fill returned goes to a backend which Fill removed, and those that still answer an earlier pick are named as busy.
package pool

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"vortex/internal/edge/meter"
)

// MaxAttempts is how many different backends one request is sent to at most.
const MaxAttempts = 8

// DefaultMaxHeld is how many requests of one app wait for a backend at the same time.
const DefaultMaxHeld = 1000

// Why Hold gave up, when it was not for a LimitError.
var (
	ErrTimeout = errors.New("no backend came in time")
	ErrGone    = errors.New("the app is gone")
	ErrLeft    = errors.New("the client left")
)

// Pool is an app's backends. It lives as long as its app is routed; what it holds is swapped whole.
type Pool struct {
	App   string
	Meter *meter.App

	members atomic.Pointer[members]
	mirror  atomic.Pointer[mirror]
	turns   map[turnKey]*turn // the Fleet's mutex guards it
	held    atomic.Int64
	maxHeld int64
	onHold  func()
	now     func() int64 // the engine's clock

	health     atomic.Pointer[Health] // never nil
	panicUntil atomic.Int64           // nanoseconds of the engine's clock; 0 is no panic
	retries    atomic.Int64           // requests in flight that are sent a second time
	spent      atomic.Int64           // of the Budget's minimum; see Affords
	freed      chan struct{}          // one slot: a request that waits may find a backend
	panics     atomic.Uint64
	ejections  atomic.Uint64
	refused    [len(limits)]atomic.Uint64
	onPanic    func(Panic)
	onEject    func(Ejection)
	replan     func() // makes the plan anew for an ejection, where that changes it

	mu       sync.Mutex // decisions about backends' health
	panicked bool
	judged   int64 // when outliers were last judged
}

// members is what a pool holds, and never changes.
type members struct {
	settings *Settings
	reads    bool // headers matter
	backends []*Backend
	plan     plan
	sessions *sessions     // nil for none
	gone     bool          // the app is no longer routed
	replaced chan struct{} // closed when the pool's backends are no longer these
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

// Any reports whether there is one.
func (t *Tried) Any() bool { return t.n > 0 }

// Reset forgets all of them.
func (t *Tried) Reset() { *t = Tried{} }

func (t *Tried) has(b *Backend) bool {
	return slices.Contains(t.backends[:t.n], b)
}

// Pick chooses a backend and counts a request in flight on it, which the caller ends with Done. It returns nil
// when no backend is usable: there is none, or all were tried, are full, or are out at now. key is the
// hash of what RingHash and Maglev keep together; now is in nanoseconds of the engine's clock.
func (p *Pool) Pick(key uint64, now int64, tried *Tried) *Backend {
	return p.Choose(Want{Key: key}, now, tried)
}

// Choose is Pick for a request that may want more: see Ask.
func (p *Pool) Choose(w Want, now int64, tried *Tried) *Backend {
	for {
		b, stale := p.members.Load().pick(w, now, tried)
		if b != nil || !stale {
			return b
		}
	}
}

// pick is stale when it met a backend that was removed after these members were loaded: others are in place by then.
func (m *members) pick(w Want, now int64, tried *Tried) (b *Backend, stale bool) {
	if w.stuck != nil && w.stuck.take(now, tried) == admitted {
		return w.stuck, false
	}
	n := len(m.plan.parts)
	if n == 0 {
		return nil, false
	}
	i := m.plan.first(w)
	for range n {
		b, met := m.plan.parts[i].pick(w.Key, now, tried)
		if b != nil {
			return b, false
		}
		stale = stale || met
		if i++; i == n {
			i = 0
		}
	}
	return nil, stale
}

// Waiter is a request that waits for a backend.
type Waiter struct {
	Want  Want
	Tried *Tried
	Left  <-chan struct{} // closed when the client left
	Now   func() int64    // the engine's clock
}

// Hold waits until a backend is usable and picks it, for at most limit. The attempts a request made before do not
// count once the backends have changed or those known as dead may be alive again.
func (p *Pool) Hold(w Waiter, limit time.Duration) (*Backend, error) {
	if p.held.Add(1) > p.pendingLimit() {
		p.held.Add(-1)
		return nil, p.refuse(ErrFull)
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
		if b, stale := m.pick(w.Want, w.Now(), w.Tried); b != nil {
			p.wake() // there may be room for the next one too
			return b, nil
		} else if stale {
			continue
		}
		if err := p.wait(m, w, timeout.C); err != nil {
			return nil, err
		}
		w.Tried.Reset()
	}
}

// wait returns when picking may succeed.
func (p *Pool) wait(m *members, w Waiter, timeout <-chan time.Time) error {
	var revived <-chan time.Time
	if after, ok := m.revival(w.Now()); ok {
		timer := time.NewTimer(after)
		defer timer.Stop()
		revived = timer.C
	}
	select {
	case <-m.replaced:
		return nil
	case <-p.freed:
		return nil
	case <-revived:
		return nil
	case <-timeout:
		if m.busy(w.Now()) {
			return p.refuse(ErrBusy)
		}
		return ErrTimeout
	case <-w.Left:
		return ErrLeft
	}
}

// busy reports whether there are backends that would be usable were they not full.
func (m *members) busy(now int64) bool {
	return slices.ContainsFunc(m.backends, func(b *Backend) bool { return b.full() && !b.deadAt(now) })
}

// revival returns after how long the first backend known as dead may be tried again. One that is full tells by itself
// when it is not any more, and so does one that is out for no certain time.
func (m *members) revival(now int64) (time.Duration, bool) {
	var first time.Duration
	for _, b := range m.backends {
		until := b.cond.outUntil.Load()
		if until == forever || until <= now && b.full() {
			continue
		}
		after := time.Duration(max(until-now, int64(minRevival)))
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
