package l4

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"vortex/internal/edge/limit"
	"vortex/internal/edge/pool"
	"vortex/internal/edge/proxyproto"
)

// conn is a client's connection.
type conn struct {
	port   *port
	client *net.TCPConn
	moved  atomic.Uint64 // grows with everything that is carried

	mu      sync.Mutex
	backend *net.TCPConn  // nil before there is one
	left    chan struct{} // closed by cut; nil before somebody waits for it
	gone    bool          // it was cut

	idle time.Duration // how long it may carry nothing; 0 before that is known

	// Of the connSet's mu: since when moved is what it was seen to be.
	seen  uint64
	since int64
}

// idleTooLong reports whether the connection carried nothing for longer than it may, or than limit when that is not 0.
func (c *conn) idleTooLong(now int64, limit time.Duration) bool {
	moved := c.moved.Load()
	if moved != c.seen || c.since == 0 {
		c.seen, c.since = moved, now
		return false
	}
	c.mu.Lock()
	allowed := c.idle
	c.mu.Unlock()
	if limit > 0 {
		allowed = limit
	}
	return allowed > 0 && now-c.since > int64(allowed)
}

// cut ends the connection from outside.
func (c *conn) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		return
	}
	c.gone = true
	if c.left != nil {
		close(c.left)
	}
	reset(c.client)
	if c.backend != nil {
		reset(c.backend)
	}
}

// arm makes the connection one that may be cut while it has a backend, and reports whether it was not cut by then.
func (c *conn) arm(backend *net.TCPConn, idle time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.backend, c.idle = backend, idle
	return !c.gone
}

// halfClosed is how long a connection may carry nothing after one side has ended.
const halfClosed = time.Minute

// half takes in that one side has ended.
func (c *conn) half() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = min(c.idle, halfClosed)
}

// cutSignal is closed when the connection is cut.
func (c *conn) cutSignal() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left == nil {
		c.left = make(chan struct{})
		if c.gone {
			close(c.left)
		}
	}
	return c.left
}

// serve carries the connection from its first byte to its last.
func (c *conn) serve() {
	s := c.port.server
	peer, _ := c.client.RemoteAddr().(*net.TCPAddr)
	local, _ := c.client.LocalAddr().(*net.TCPAddr)
	o := opening{
		conn: c, routes: c.port.routes.Load(), peer: peer.AddrPort(),
		told: proxyproto.Header{Transport: proxyproto.TCP, Source: peer.AddrPort(), Destination: local.AddrPort()},
	}
	if o.routes == nil {
		c.refuse(errors.New("the port is closed"), o.peer)
		return
	}
	if err := o.decide(); err != nil {
		o.release()
		c.refuse(err, o.peer)
		return
	}
	if s.Limiter != nil {
		if !s.Limiter.Allow(limit.Address(o.told.Source.Addr()), time.Now().UnixNano()).OK {
			o.release()
			c.refuse(errLimited, o.peer)
			return
		}
	}
	c.carry(&o)
}

var errLimited = errors.New("the client opens more connections than it may")

// refuse ends a connection that leads nowhere.
func (c *conn) refuse(err error, peer netip.AddrPort) {
	c.port.traffic.failed.Add(1)
	c.port.server.Log.Debug("Connection refused", "port", c.port.Number, "client", peer.String(), "err", err)
	if errors.Is(err, errNoName) {
		_, _ = c.client.Write(alertNoName) // it is refused whether or not it hears why
		_ = c.client.CloseWrite()
	} else {
		_ = c.client.SetLinger(0)
	}
	_ = c.client.Close()
}

// carry connects a backend and joins both connections until they have ended.
func (c *conn) carry(o *opening) {
	s, meter := c.port.server, o.target.pool.Meter
	began := s.Now()
	inFlight := meter.Start(began)
	meter.Connect(1)
	defer meter.Finish()
	defer meter.Connect(-1)
	if err := o.target.pool.Admit(inFlight); err != nil {
		meter.Answered(s.Now(), statusNoBackend, 0)
		o.release()
		c.refuse(err, o.peer)
		return
	}
	tcp, backend, err := c.connect(o)
	if err != nil {
		meter.Answered(s.Now(), statusNoBackend, time.Duration(s.Now()-began))
		o.release()
		c.refuse(err, o.peer)
		return
	}
	defer backend.Done()
	meter.Answered(s.Now(), statusConnected, time.Duration(s.Now()-began))
	if !c.arm(tcp, o.target.service.IdleTimeout) {
		reset(tcp)
		o.release()
		return
	}
	traffic := s.backendTraffic(o.target.service.App, backend)
	traffic.begin()
	defer traffic.end()
	err = o.forward(tcp)
	rest := len(o.rest)
	o.release()
	if err != nil {
		reset(tcp)
		reset(c.client)
		return
	}
	c.port.traffic.received.Add(uint64(rest))
	traffic.received.Add(uint64(rest))
	join(c, tcp, traffic)
}

// What an app's meter counts a connection as.
const (
	statusConnected = 200
	statusNoBackend = 503
)

// connect picks backends until one takes the connection, which is counted in flight on it.
func (c *conn) connect(o *opening) (*net.TCPConn, *pool.Backend, error) {
	s, p := c.port.server, o.target.pool
	key := hashAddr(o.told.Source.Addr())
	var tried pool.Tried
	for {
		b := p.Pick(key, s.Now(), &tried)
		if b == nil {
			var err error
			if b, err = c.hold(p, key, &tried); err != nil {
				return nil, nil, err
			}
		}
		tcp, err := dial(b.Addr, o.target.service.ConnectTimeout)
		if err == nil {
			b.Served(s.Now(), statusConnected)
			return tcp, b, nil
		}
		s.backendTraffic(o.target.service.App, b).failed.Add(1)
		b.Failed(s.Now())
		if isDead(err) {
			b.MarkDead(s.Now() + int64(s.SkipDead))
		}
		b.Done()
		if !tried.Add(b) {
			return nil, nil, fmt.Errorf("%w: %w", errNoBackend, err)
		}
	}
}

// hold waits for a backend.
func (c *conn) hold(p *pool.Pool, key uint64, tried *pool.Tried) (*pool.Backend, error) {
	s := c.port.server
	if s.HoldTimeout < 0 {
		return nil, errNoBackend
	}
	b, err := p.Hold(pool.Waiter{Want: pool.Want{Key: key}, Tried: tried, Left: c.cutSignal(), Now: s.Now}, s.HoldTimeout)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoBackend, err)
	}
	return b, nil
}

// dial connects to an address. Not with DialTCP, which binds the socket first: that costs as much as the connecting, and takes a port of
// this machine for one connection that could be used for one to each address.
func dial(addr netip.AddrPort, timeout time.Duration) (*net.TCPConn, error) {
	dialer := net.Dialer{Timeout: timeout, KeepAlive: -1}
	dialer.SetMultipathTCP(false)
	conn, err := dialer.DialContext(context.Background(), "tcp", addr.String())
	if err != nil {
		return nil, err
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil, fmt.Errorf("a connection of type %T", conn)
	}
	return tcp, nil
}

// isDead reports whether a failed connect says that the backend is not there, rather than that something is wrong here.
func isDead(err error) bool {
	netErr, ok := errors.AsType[net.Error](err)
	return ok && netErr.Timeout() || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTDOWN)
}

// hashAddr is what ring-hash keeps a client's connections together by: FNV-1a of its address.
func hashAddr(a netip.Addr) uint64 {
	hash := uint64(14695981039346656037)
	for _, b := range a.As16() {
		hash = (hash ^ uint64(b)) * 1099511628211
	}
	return hash
}
