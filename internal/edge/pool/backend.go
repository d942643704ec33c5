package pool

import (
	"cmp"
	"math"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"vortex/internal/edge/meter"
)

// removedBit stands in a Backend's state when no router lists it. It is the sign, so that one addition
// both counts a request and tells whether it may go there.
const removedBit = math.MinInt64

// Backend is one instance requests are sent to. What is exported is its identity.
type Backend struct {
	Instance string
	Addr     netip.AddrPort
	Node     string
	Zone     string
	Release  uint64

	weight  atomic.Uint32
	since   int64        // when it was new, on the engine's clock
	state   atomic.Int64 // requests in flight, plus removedBit
	limit   atomic.Int64 // of requests in flight
	cond    condition
	pool    atomic.Pointer[Pool] // the one it was put into last
	served  atomic.Uint64
	failed  atomic.Uint64
	took    meter.Responses
	idle    idleConns
	drained func() // called when the last request of a removed backend ends; must not block
}

// admission is what acquire found.
type admission uint8

const (
	admitted admission = iota
	removed            // no router lists the backend any more
	full               // it has as many requests as it may
)

// acquire counts a request in flight, unless the backend is removed or full. Counting comes first: whoever removes a
// backend and then reads its count sees every request that got through.
func (b *Backend) acquire() admission {
	n := b.state.Add(1)
	switch {
	case n <= 0:
		b.Done()
		return removed
	case n > b.limit.Load():
		b.Done()
		return full
	}
	return admitted
}

// Done ends a request that Pick or Hold put in flight.
func (b *Backend) Done() {
	switch b.state.Add(-1) {
	case removedBit:
		b.drained()
	case b.limit.Load() - 1: // it was full
		if p := b.pool.Load(); p != nil {
			p.wake()
		}
	}
}

// compare orders backends by what they are, whatever the order they are listed in.
func (b *Backend) compare(o *Backend) int {
	return cmp.Or(strings.Compare(b.Instance, o.Instance), b.Addr.Compare(o.Addr), cmp.Compare(b.Release, o.Release))
}

// Weight returns the backend's share beside the others', from 1 on.
func (b *Backend) Weight() uint32 { return b.weight.Load() }

// InFlight returns the requests in flight.
func (b *Backend) InFlight() int64 { return b.state.Load() &^ removedBit }

// Removed reports whether no router lists the backend any more.
func (b *Backend) Removed() bool { return b.state.Load() < 0 }

// remove takes the backend out of service and closes its idle connections.
func (b *Backend) remove() {
	b.state.Or(removedBit)
	b.idle.closeAll(true)
}

// revive puts a removed backend back into service.
func (b *Backend) revive() {
	b.idle.open()
	b.cond.reset()
	b.state.And(^removedBit)
}

// Took counts how long an answer took, from when the backend was sent the request to its response's head.
func (b *Backend) Took(status int, d time.Duration) { b.took.Observe(status, d) }

// Responses are the answers that Took counted.
func (b *Backend) Responses() *meter.Responses { return &b.took }

// Counts is what a Backend has done and is doing.
type Counts struct {
	InFlight  int64
	Served    uint64 // requests answered
	Failed    uint64 // attempts without an answer: refused, reset, too late
	Errors    uint64 // answers of 500 and above
	Out       Out    // why it gets no requests, unless its pool panics
	OutDetail string // … for people
	Idle      int    // connections kept for later
}

// Counts returns the backend's counts at now.
func (b *Backend) Counts(now int64) Counts {
	c := Counts{
		InFlight: b.InFlight(), Served: b.served.Load(), Failed: b.failed.Load(), Errors: b.cond.errors.Load(), Idle: b.idle.len(),
	}
	c.Out, c.OutDetail = b.cond.out(now)
	return c
}

// Conn is an idle connection an engine keeps with a Backend.
type Conn interface{ Close() error }

// TakeIdle returns the idle connection used last, or nil.
func (b *Backend) TakeIdle() Conn { return b.idle.take() }

// PutIdle keeps a connection for later. It closes it instead when the backend is removed or has enough.
func (b *Backend) PutIdle(c Conn, now int64) { b.idle.put(c, now, min(MaxIdle, b.limit.Load())) }

// CloseIdle closes every idle connection, for an engine that found one of them dead.
func (b *Backend) CloseIdle() { b.idle.closeAll(false) }

// CloseOlder closes the connections that were idle at now for longer than age.
func (b *Backend) CloseOlder(now int64, age time.Duration) { b.idle.closeOlder(now, age) }

// MaxIdle is how many idle connections are kept per backend.
const MaxIdle = 256

// idleConns is a stack of idle connections. The zero value is empty and open.
type idleConns struct {
	mu     sync.Mutex
	closed bool
	conns  []idleConn // oldest first
}

type idleConn struct {
	conn  Conn
	since int64
}

func (s *idleConns) take() Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := len(s.conns) - 1
	if last < 0 {
		return nil
	}
	c := s.conns[last].conn
	s.conns[last] = idleConn{}
	s.conns = s.conns[:last]
	return c
}

func (s *idleConns) put(c Conn, now, most int64) {
	s.mu.Lock()
	if !s.closed && int64(len(s.conns)) < most {
		s.conns = append(s.conns, idleConn{c, now})
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	closeConn(c)
}

// closeAll closes what is there and, with forGood, whatever comes later.
func (s *idleConns) closeAll(forGood bool) {
	s.mu.Lock()
	conns := s.conns
	s.conns = nil
	s.closed = s.closed || forGood
	s.mu.Unlock()
	for _, c := range conns {
		closeConn(c.conn)
	}
}

func (s *idleConns) open() {
	s.mu.Lock()
	s.closed = false
	s.mu.Unlock()
}

// closeOlder closes the connections idle for longer than age.
func (s *idleConns) closeOlder(now int64, age time.Duration) {
	s.mu.Lock()
	n := 0
	for n < len(s.conns) && now-s.conns[n].since > int64(age) {
		n++
	}
	old := append([]idleConn(nil), s.conns[:n]...)
	kept := copy(s.conns, s.conns[n:])
	clear(s.conns[kept:])
	s.conns = s.conns[:kept]
	s.mu.Unlock()
	for _, c := range old {
		closeConn(c.conn)
	}
}

func (s *idleConns) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// closeConn closes an idle connection. There is nobody an error could matter to.
func closeConn(c Conn) { _ = c.Close() }
