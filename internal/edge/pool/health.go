package pool

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"vortex"
)

// DefaultPanicPercent is the share of a pool's backends that must be healthy for their health to be believed.
const DefaultPanicPercent = 50

// Health is how a pool's backends are judged. The zero value panics below DefaultPanicPercent, ejects nothing and bounds nothing.
type Health struct {
	PanicPercent int // below so many percent of healthy backends all are used; 0 is DefaultPanicPercent, negative is never
	Outlier      *Outlier
	Circuit      *Circuit
	Check        *vortex.HealthCheck // what the edge asks when it checks them by itself; nil is whether they take connections
	Checked      bool                // it always does, not only while it has lost the store
}

// forever is a time of the engine's clock that does not come.
const forever = math.MaxInt64

// condition is what is known against a Backend. Two words say all that picking needs: until when something certain keeps
// requests away (a refused connection, a node that is gone), and until when anything does, doubts included (failed checks, an
// ejection), which a pool that panics does not share. mu guards the reasons behind them.
type condition struct {
	deadUntil atomic.Int64 // nanoseconds of the engine's clock; 0 is alive
	outUntil  atomic.Int64 // never before deadUntil

	fives    atomic.Uint32 // answers of 500 and above, and attempts without one, in a row
	failures atomic.Uint32 // attempts without an answer in a row
	errors   atomic.Uint64 // answers of 500 and above
	returned atomic.Int64  // when the last ejection ends or ended; 0 is that there was none

	mu           sync.Mutex
	refusedUntil int64 // a connection was refused
	nodeGone     bool  // its node is suspected or given up
	check        Checked
	ejectedUntil int64
	ejectedFor   string // why
	ejections    uint32 // grows with each, shrinks with time in service

	lastDone, lastBad uint64 // requests and failed ones at the outlier's last look; the pool's mutex guards them
}

// Checked is what active checks say of a backend. The zero value is nothing yet, which counts as healthy.
type Checked struct {
	Failing bool
	Absent  bool // nothing listens where requests would be sent: certain, not a doubt
	Detail  string
}

// MarkDead keeps the backend from being picked until the given time of the engine's clock: it refused a
// connection, and the router will drop it soon.
func (b *Backend) MarkDead(until int64) {
	b.change(func(c *condition) { c.refusedUntil = until })
	b.idle.closeAll(false)
}

// SetChecked takes in what active checks say.
func (b *Backend) SetChecked(s Checked) {
	if b.cond.learn(s) {
		return
	}
	b.change(func(c *condition) { c.check = s })
	if s.Absent {
		b.idle.closeAll(false)
	}
}

// learn takes in what checks say and reports whether nothing follows from it.
func (c *condition) learn(s Checked) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.check.Failing != s.Failing || c.check.Absent != s.Absent {
		return false
	}
	c.check = s
	return true
}

// Served counts an answer with its status, which also proves that the backend takes connections.
func (b *Backend) Served(now int64, status int) {
	b.served.Add(1)
	c := &b.cond
	if c.failures.Load() != 0 {
		c.failures.Store(0)
	}
	if c.deadUntil.Load() != 0 {
		b.change(func(c *condition) { c.refusedUntil = 0 })
	}
	switch {
	case status >= 500:
		c.errors.Add(1)
		b.suspect(now, c.fives.Add(1), 0)
	case c.fives.Load() != 0:
		c.fives.Store(0)
	}
}

// Failed counts an attempt that the backend did not answer: it refused or reset the connection, or took too long.
func (b *Backend) Failed(now int64) {
	b.failed.Add(1)
	b.suspect(now, b.cond.fives.Add(1), b.cond.failures.Add(1))
}

// deadAt reports whether requests must not be sent to the backend at now.
func (b *Backend) deadAt(now int64) bool {
	if until := b.cond.outUntil.Load(); until == 0 || until <= now {
		return false
	}
	if b.cond.deadUntil.Load() > now {
		return true
	}
	p := b.pool.Load()
	return p == nil || p.panicUntil.Load() <= now
}

// change makes a change to what is known against the backend, and has its pool look whether it should panic.
func (b *Backend) change(with func(*condition)) {
	better := b.cond.change(with)
	if p := b.pool.Load(); p != nil {
		p.assess(p.now())
		if better {
			p.wake()
		}
	}
}

// change makes a change and reports whether the backend is out for a shorter time than before.
func (c *condition) change(with func(*condition)) (better bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.outUntil.Load()
	with(c)
	c.settle()
	return c.outUntil.Load() < before
}

// settle makes the words follow from the reasons, with mu held.
func (c *condition) settle() {
	dead := c.refusedUntil
	if c.nodeGone || c.check.Absent {
		dead = forever
	}
	out := max(dead, c.ejectedUntil)
	if c.check.Failing {
		out = forever
	}
	c.deadUntil.Store(dead)
	c.outUntil.Store(out)
}

// reset forgets all of it, for a backend that comes back.
func (c *condition) reset() {
	c.change(func(c *condition) {
		c.refusedUntil, c.nodeGone, c.check = 0, false, Checked{}
		c.ejectedUntil, c.ejectedFor, c.ejections = 0, "", 0
	})
	c.returned.Store(0)
	c.fives.Store(0)
	c.failures.Store(0)
}

// Out is why a backend gets no requests.
type Out string

// The reasons, the most certain first. None is NotOut.
const (
	NotOut     Out = ""
	OutRefused Out = "refused" // it refused a connection a moment ago
	OutNode    Out = "node"    // its node is suspected or given up
	OutCheck   Out = "check"   // it fails its checks
	OutEjected Out = "ejected" // it did worse than its pool allows
)

// out returns why the backend is out at now, and more about it for people.
func (c *condition) out(now int64) (reason Out, detail string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.refusedUntil > now:
		return OutRefused, "it refused a connection"
	case c.nodeGone:
		return OutNode, "its node is suspected or down"
	case c.check.Failing || c.check.Absent:
		return OutCheck, c.check.Detail
	case c.ejectedUntil > now:
		return OutEjected, c.ejectedFor
	}
	return NotOut, ""
}

// setNodes takes backends out, or back in, because of their nodes: known tells whether something is known of a node, and gone
// whether it is suspected or given up.
func (p *Pool) setNodes(state func(node string) (gone, known bool)) {
	changed := false
	for _, b := range p.Backends() {
		if gone, known := state(b.Node); known && b.cond.setNodeGone(gone) {
			changed = true
			if gone {
				b.idle.closeAll(false)
			}
		}
	}
	if changed {
		p.assess(p.now())
		p.wake()
	}
}

// setNodeGone reports whether that is news.
func (c *condition) setNodeGone(gone bool) (changed bool) {
	c.change(func(c *condition) { changed, c.nodeGone = c.nodeGone != gone, gone })
	return changed
}

// Panic is that a pool begins or ends to use all of its backends because too few are healthy.
type Panic struct {
	App             string
	Begins          bool
	Healthy, Usable int // of those that can be connected to
}

// Health returns how the pool's backends are judged. What it points to must not be changed.
func (p *Pool) Health() Health { return *p.health.Load() }

// SetHealth changes how the pool's backends are judged.
func (p *Pool) SetHealth(h Health) {
	if h.Outlier != nil {
		o := h.Outlier.withDefaults()
		h.Outlier = &o
	}
	p.health.Store(&h)
	for _, b := range p.Backends() {
		b.limit.Store(h.Circuit.perBackend())
	}
	p.assess(p.now())
	p.wake()
}

// assess looks whether too few backends are healthy for their health to be believed. What is certain is left aside: a
// backend that cannot be reached is neither healthy nor worth a try.
func (p *Pool) assess(now int64) {
	p.mu.Lock()
	percent := p.health.Load().PanicPercent
	if percent == 0 {
		percent = DefaultPanicPercent
	}
	var doubted []int64 // until when
	usable := 0
	for _, b := range p.Backends() {
		if b.cond.deadUntil.Load() > now {
			continue
		}
		usable++
		if until := b.cond.outUntil.Load(); until > now {
			doubted = append(doubted, until)
		}
	}
	until := panicUntil(usable, doubted, percent)
	begins := until > 0 && !p.panicked
	ends := until == 0 && p.panicked
	p.panicked = until > 0
	p.panicUntil.Store(until)
	if begins {
		p.panics.Add(1)
	}
	p.mu.Unlock()
	if begins || ends {
		p.onPanic(Panic{App: p.App, Begins: begins, Healthy: usable - len(doubted), Usable: usable})
	}
	if begins {
		p.wake()
	}
}

// panicUntil returns when enough of the usable backends will be healthy again for health to be believed, 0 when they are.
func panicUntil(usable int, doubted []int64, percent int) int64 {
	enough := func(doubted int) bool { return (usable-doubted)*100 >= percent*usable }
	if enough(len(doubted)) {
		return 0
	}
	slices.Sort(doubted)
	for i, until := range doubted {
		if enough(len(doubted) - i - 1) {
			return until
		}
	}
	return forever
}

// Review is to be called about once a second: it judges outliers when their interval is over, and notices what time alone has changed.
func (p *Pool) Review(now int64) {
	if o := p.health.Load().Outlier; o != nil && p.due(now, o.Interval) {
		p.judge(now, o)
	}
	p.assess(now)
}

// due reports, once, that the interval since the last time is over.
func (p *Pool) due(now int64, interval time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now-p.judged < int64(interval) {
		return false
	}
	p.judged = now
	return true
}

// Panicking reports whether all backends are used at now although too few are healthy.
func (p *Pool) Panicking(now int64) bool { return p.panicUntil.Load() > now }

// Panics returns how often the pool began to panic.
func (p *Pool) Panics() uint64 { return p.panics.Load() }
