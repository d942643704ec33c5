package pool

import (
	"net/netip"
	"slices"
	"sync"

	"vortex/internal/edge/meter"
)

// Endpoint is where one instance listens.
type Endpoint struct {
	Instance string
	Addr     netip.AddrPort
	Node     string
	Release  uint64
}

// Config of a Fleet.
type Config struct {
	Meters  *meter.Set
	MaxHeld int    // requests of one pool that wait for a backend; 0 is DefaultMaxHeld
	Drained func() // called when what Busy returns may have changed; must not block; nil is none
	Held    func() // called when a request begins to wait for a backend; must not block; nil is none
}

// Fleet makes pools, gives them their backends, and follows the removed ones until nothing is in flight on them. Use NewFleet.
type Fleet struct {
	config Config

	mu       sync.Mutex
	draining map[*Backend]struct{}
}

// NewFleet returns a Fleet without pools.
func NewFleet(c Config) *Fleet {
	if c.Meters == nil {
		c.Meters = &meter.Set{}
	}
	if c.MaxHeld <= 0 {
		c.MaxHeld = DefaultMaxHeld
	}
	if c.Drained == nil {
		c.Drained = func() {}
	}
	if c.Held == nil {
		c.Held = func() {}
	}
	return &Fleet{config: c, draining: map[*Backend]struct{}{}}
}

// New returns a pool without backends.
func (f *Fleet) New(name string) *Pool {
	p := &Pool{
		App: name, Meter: f.config.Meters.App(name),
		maxHeld: int64(f.config.MaxHeld), onHold: f.config.Held,
	}
	p.members.Store(&members{replaced: make(chan struct{})})
	return p
}

// Fill gives a pool its backends, keeping those that stay, and reports whether any was removed. The order
// matters: the new members stand before an old backend is marked, so that a pick that meets the mark finds them, and the mark
// is set before Busy can count, so that no pick slips between.
func (f *Fleet) Fill(p *Pool, balance Balance, endpoints []Endpoint) (removed bool) {
	return f.fill(p, balance, endpoints, false)
}

// Retire takes all backends from a pool for good: requests that wait in it fail with ErrGone. It reports whether there were any.
func (f *Fleet) Retire(p *Pool) (removed bool) {
	f.config.Meters.Forget(p.App)
	return f.fill(p, RoundRobin, nil, true)
}

func (f *Fleet) fill(p *Pool, balance Balance, endpoints []Endpoint, gone bool) (removed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := p.members.Load()
	next := &members{gone: gone, replaced: make(chan struct{}), backends: make([]*Backend, 0, len(endpoints))}
	kept := make(map[*Backend]bool, len(endpoints))
	for _, endpoint := range endpoints {
		b := f.backend(old.backends, endpoint)
		if !kept[b] {
			kept[b] = true
			next.backends = append(next.backends, b)
		}
	}
	next.balancer = newBalancer(balance, next.backends, &p.turn)
	p.members.Store(next)
	for _, b := range old.backends {
		if !kept[b] {
			b.remove()
			f.draining[b] = struct{}{}
			removed = true
		}
	}
	close(old.replaced)
	return removed
}

// backend returns the backend of an endpoint: the pool's own, one that drains and is wanted again, or a new one.
func (f *Fleet) backend(present []*Backend, e Endpoint) *Backend {
	same := func(b *Backend) bool { return b.Instance == e.Instance && b.Addr == e.Addr }
	if i := slices.IndexFunc(present, same); i >= 0 {
		return present[i]
	}
	for b := range f.draining {
		if same(b) {
			delete(f.draining, b)
			b.revive()
			return b
		}
	}
	return &Backend{Instance: e.Instance, Addr: e.Addr, Node: e.Node, Release: e.Release, drained: f.config.Drained}
}

// Busy returns, in order, the instances whose removed backends still have requests in flight. Those without are forgotten; one
// that a pick is just backing out of is left to the next call.
func (f *Fleet) Busy() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var busy []string
	for b := range f.draining {
		if b.InFlight() > 0 {
			busy = append(busy, b.Instance)
		}
	}
	for b := range f.draining {
		if b.InFlight() == 0 {
			delete(f.draining, b)
		}
	}
	slices.Sort(busy)
	return slices.Compact(busy)
}
