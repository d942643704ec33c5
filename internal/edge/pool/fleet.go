package pool

import (
	"net/netip"
	"slices"
	"sync"
	"time"

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

	Now      func() int64   // the engine's clock, in nanoseconds; nil is the time since NewFleet
	Panicked func(Panic)    // called when a pool begins or ends to panic; must not block; nil is none
	Ejected  func(Ejection) // called when a backend is ejected; must not block; nil is none
}

// Fleet makes pools, gives them their backends, and follows the removed ones until nothing is in flight on them. Use NewFleet.
type Fleet struct {
	config Config

	mu       sync.Mutex
	draining map[*Backend]struct{}
	gone     map[string]bool // nodes that are suspected or given up
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
	if c.Now == nil {
		epoch := time.Now()
		c.Now = func() int64 { return int64(time.Since(epoch)) }
	}
	if c.Panicked == nil {
		c.Panicked = func(Panic) {}
	}
	if c.Ejected == nil {
		c.Ejected = func(Ejection) {}
	}
	return &Fleet{config: c, draining: map[*Backend]struct{}{}, gone: map[string]bool{}}
}

// New returns a pool without backends.
func (f *Fleet) New(name string) *Pool {
	p := &Pool{
		App: name, Meter: f.config.Meters.App(name),
		maxHeld: int64(f.config.MaxHeld), onHold: f.config.Held,
		now: f.config.Now, onPanic: f.config.Panicked, onEject: f.config.Ejected,
		freed: make(chan struct{}, 1),
	}
	p.health.Store(&Health{})
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
			f.join(p, b)
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
	p.assess(p.now())
	return removed
}

// join makes a backend one of the pool's, before it is.
func (f *Fleet) join(p *Pool, b *Backend) {
	b.pool.Store(p)
	b.limit.Store(p.health.Load().Circuit.perBackend())
	b.cond.setNodeGone(f.gone[b.Node])
}

// SetNodes takes in which nodes are suspected or given up, and takes the backends on them out of the pools, or back in. With reset
// the nodes that are not named are in order.
func (f *Fleet) SetNodes(nodes map[string]bool, reset bool, pools []*Pool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if reset {
		clear(f.gone)
	}
	for node, gone := range nodes {
		if gone {
			f.gone[node] = true
		} else {
			delete(f.gone, node)
		}
	}
	for _, p := range pools {
		p.setNodes(func(node string) (gone, known bool) {
			_, named := nodes[node]
			return f.gone[node], named || reset
		})
	}
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
