package pool

import (
	"crypto/rand"
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
	Zone     string
	Release  uint64
	Weight   uint32 // 0 is 1
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
	Zone     string         // where the edge is; "" has no zone
	Shifting func()         // called when Rebalance is to be called every moment; must not block; nil is none
}

// Fleet makes pools, gives them their backends, and follows the removed ones until nothing is in flight on them. Use NewFleet.
type Fleet struct {
	config Config
	key    []byte // of the sessions that come without one

	mu       sync.Mutex
	draining map[*Backend]struct{}
	gone     map[string]bool    // nodes that are suspected or given up
	shifting map[*Pool]struct{} // their plans change with time
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
	if c.Shifting == nil {
		c.Shifting = func() {}
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	return &Fleet{
		config: c, key: key,
		draining: map[*Backend]struct{}{}, gone: map[string]bool{}, shifting: map[*Pool]struct{}{},
	}
}

// New returns a pool without backends.
func (f *Fleet) New(name string) *Pool {
	p := &Pool{
		App: name, Meter: f.config.Meters.App(name),
		maxHeld: int64(f.config.MaxHeld), onHold: f.config.Held, turns: map[turnKey]*turn{},
		now: f.config.Now, onPanic: f.config.Panicked, onEject: f.config.Ejected,
		freed: make(chan struct{}, 1),
	}
	p.replan = func() { f.replan(p) }
	p.health.Store(&Health{})
	p.members.Store(&members{settings: &Settings{}, replaced: make(chan struct{})})
	return p
}

// Fill gives a pool its backends, keeping those that stay, and reports whether any was removed. The order
// matters: the new members stand before an old backend is marked, so that a pick that meets the mark finds them, and the mark
// is set before Busy can count, so that no pick slips between.
func (f *Fleet) Fill(p *Pool, s Settings, endpoints []Endpoint) (removed bool) {
	return f.fill(p, clean(s), endpoints, false)
}

// Retire takes all backends from a pool for good: requests that wait in it fail with ErrGone. It reports whether there were any.
func (f *Fleet) Retire(p *Pool) (removed bool) {
	f.config.Meters.Forget(p.App)
	p.Mirror(nil, 0)
	return f.fill(p, &Settings{}, nil, true)
}

func (f *Fleet) fill(p *Pool, s *Settings, endpoints []Endpoint, gone bool) (removed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := p.members.Load()
	next := &members{
		settings: s, reads: s.reads(), gone: gone,
		replaced: make(chan struct{}), backends: make([]*Backend, 0, len(endpoints)),
	}
	kept := make(map[*Backend]bool, len(endpoints))
	known := f.known(old.backends)
	for _, endpoint := range endpoints {
		b := f.backend(known, endpoint)
		b.weight.Store(max(endpoint.Weight, 1))
		if !kept[b] {
			kept[b] = true
			f.join(p, b)
			next.backends = append(next.backends, b)
		}
	}
	if s.Sticky != nil {
		next.sessions = newSessions(p.App, f.keyed(p, *s.Sticky), next.backends)
	}
	f.plan(p, next)
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

// keyed returns the settings of a pool's sessions with a key and a name.
func (f *Fleet) keyed(p *Pool, s Sticky) Sticky {
	if len(s.Key) == 0 {
		s.Key = f.key
	}
	if s.Cookie == "" {
		s.Cookie = DefaultCookie + p.App
	}
	return s
}

// plan makes the plan of a pool's next members.
func (f *Fleet) plan(p *Pool, next *members) {
	old := p.members.Load()
	l := planner{settings: next.settings, zone: f.config.Zone, now: f.config.Now(), turns: p.turns}
	if old.settings.Balance == next.settings.Balance {
		l.old = &old.plan
	}
	next.plan = l.make(next.backends)
	if !next.plan.warming && !next.plan.zoned && next.plan.returns == 0 {
		delete(f.shifting, p)
		return
	}
	f.shifting[p] = struct{}{}
	f.config.Shifting()
}

// replan makes a pool's plan anew because a backend was ejected, which is to come back slowly.
func (f *Fleet) replan(p *Pool) {
	if !p.members.Load().settings.warms() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	next := *p.members.Load()
	f.plan(p, &next)
	p.members.Store(&next)
}

// Rebalance takes in what time changes: the weights of new and returning backends, and how much of each zone is usable. It reports whether
// it is to be called again in a moment.
func (f *Fleet) Rebalance() (again bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.config.Now()
	for p := range f.shifting {
		old := p.members.Load()
		returned := old.plan.returns > 0 && old.plan.returns <= now
		if !old.plan.warming && !returned && old.plan.out == outOf(old.backends, now) {
			continue
		}
		next := *old
		f.plan(p, &next)
		p.members.Store(&next)
	}
	return len(f.shifting) > 0
}

// SetZone changes where the edge is, and the plans of these pools with it.
func (f *Fleet) SetZone(zone string, pools []*Pool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if zone == f.config.Zone {
		return
	}
	f.config.Zone = zone
	for _, p := range pools {
		next := *p.members.Load()
		f.plan(p, &next)
		p.members.Store(&next)
	}
}

// identity is what makes an endpoint a backend of its own: everything but its weight.
func (e Endpoint) identity() Endpoint {
	e.Weight = 0
	return e
}

func (b *Backend) identity() Endpoint {
	return Endpoint{Instance: b.Instance, Addr: b.Addr, Node: b.Node, Zone: b.Zone, Release: b.Release}
}

// known returns the backends that may be wanted again: those that drain, and before them the pool's own.
func (f *Fleet) known(present []*Backend) map[Endpoint]*Backend {
	known := make(map[Endpoint]*Backend, len(present)+len(f.draining))
	for b := range f.draining {
		known[b.identity()] = b
	}
	for _, b := range present {
		known[b.identity()] = b
	}
	return known
}

// backend returns the backend of an endpoint: a known one, or a new one.
func (f *Fleet) backend(known map[Endpoint]*Backend, e Endpoint) *Backend {
	e = e.identity()
	b := known[e]
	if b == nil {
		b = &Backend{
			Instance: e.Instance, Addr: e.Addr, Node: e.Node, Zone: e.Zone, Release: e.Release,
			since: f.config.Now(), drained: f.config.Drained,
		}
		known[e] = b
	} else if _, drains := f.draining[b]; drains {
		delete(f.draining, b)
		b.revive()
	}
	return b
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
