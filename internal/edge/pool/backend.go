package pool

import (
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// removedBit stands in a Backend's state when no router lists it. It is the sign, so that one addition
// both counts a request and tells whether it may go there.
const removedBit = math.MinInt64

// Backend is one instance requests are sent to. Its identity is instance, address and port together.
type Backend struct {
	Instance string
	Addr     netip.AddrPort
	Node     string
	Release  uint64

	state     atomic.Int64 // requests in flight, plus removedBit
	deadUntil atomic.Int64 // nanoseconds of the engine's clock; 0 is alive
	served    atomic.Uint64
	failed    atomic.Uint64
	idle      idleConns
	drained   func() // called when the last request of a removed backend ends; must not block
}

// acquire counts a request in flight, unless the backend is removed. Counting comes first: whoever removes a
// backend and then reads its count sees every request that got through.
func (b *Backend) acquire() bool {
	if b.state.Add(1) > 0 {
		return true
	}
	b.Done()
	return false
}

// Done ends a request that Pick or Hold put in flight.
func (b *Backend) Done() {
	if b.state.Add(-1) == removedBit {
		b.drained()
	}
}

// InFlight returns the requests in flight.
func (b *Backend) InFlight() int64 { return b.state.Load() &^ removedBit }

// Removed reports whether no router lists the backend any more.
func (b *Backend) Removed() bool { return b.state.Load() < 0 }

// MarkDead keeps the backend from being picked until the given time of the engine's clock: it refused a
// connection, and the router will drop it soon.
func (b *Backend) MarkDead(until int64) {
	b.failed.Add(1)
	b.deadUntil.Store(until)
	b.idle.closeAll(false)
}

// Served counts an answered request, which also proves the backend alive.
func (b *Backend) Served() {
	b.served.Add(1)
	if b.deadUntil.Load() != 0 {
		b.deadUntil.Store(0)
	}
}

func (b *Backend) deadAt(now int64) bool {
	until := b.deadUntil.Load()
	return until != 0 && until > now
}

// remove takes the backend out of service and closes its idle connections.
func (b *Backend) remove() {
	b.state.Or(removedBit)
	b.idle.closeAll(true)
}

// revive puts a removed backend back into service.
func (b *Backend) revive() {
	b.idle.open()
	b.deadUntil.Store(0)
	b.state.And(^removedBit)
}

// Counts is what a Backend has done and is doing.
type Counts struct {
	InFlight int64
	Served   uint64 // requests answered
	Failed   uint64 // connections refused
	Skipped  bool   // left out for a moment because it refused a connection
	Idle     int    // connections kept for later
}

// Counts returns the backend's counts at now.
func (b *Backend) Counts(now int64) Counts {
	return Counts{b.InFlight(), b.served.Load(), b.failed.Load(), b.deadAt(now), b.idle.len()}
}

// Conn is an idle connection an engine keeps with a Backend.
type Conn interface{ Close() error }

// TakeIdle returns the idle connection used last, or nil.
func (b *Backend) TakeIdle() Conn { return b.idle.take() }

// PutIdle keeps a connection for later. It closes it instead when the backend is removed or has enough.
func (b *Backend) PutIdle(c Conn, now int64) { b.idle.put(c, now) }

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

func (s *idleConns) put(c Conn, now int64) {
	s.mu.Lock()
	if !s.closed && len(s.conns) < MaxIdle {
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
