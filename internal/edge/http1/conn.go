package http1

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"vortex/internal/edge/limit"
	"vortex/internal/edge/meter"
	"vortex/internal/edge/policy"
	"vortex/internal/edge/pool"
)

// phase is what a client connection is doing, for Shutdown.
type phase uint8

const (
	phaseFresh  phase = iota // no request yet
	phaseIdle                // between requests
	phaseActive              // in a request
)

// freshGrace is how long a connection that never asked anything may still begin to when the server shuts down.
const freshGrace = 500 * time.Millisecond

// conn is a client's connection. Its goroutine owns everything but what mu guards; the background reader
// owns in while it runs.
type conn struct {
	srv *Server
	tcp net.Conn

	listener *Listener // where it came in

	in   reader
	out  writer
	req  request
	head []byte // the request as the backend gets it, with its body when that is at hand
	fw   forward
	peer netip.Addr

	pool  *pool.Pool // of the last request: whose connection this counts as
	want  pool.Want
	tried pool.Tried
	resp  response
	down  relay // the response's body
	body  body  // of the response
	back  background
	route *meter.Responses // of the route of the last request
	began int64            // when the request's head was complete
	sent  int64            // when it was sent to the backend that has it now
	held  int64            // when the request first had to wait for a backend; 0 before

	status  int           // answered; 0 before
	failure failure       // why the app did not answer
	quota   limit.Verdict // what is left of the route's rates; zero is none
	served  int           // requests on this connection, with this one
	counted bool          // it counts among its client's connections
	stuck   bool          // the client's body is not wholly read: the connection cannot be used again
	closing bool          // the client was told that the connection ends with this response

	home  *lane            // where it came from; nil for nowhere
	first func(*conn) bool // what is done first; in the middle of a request when a lane handed it over
	plain bool             // the request was one that a lane would have served

	retrying bool          // the pool counts the request as one that is sent again
	lost     int           // tries that the backend may have seen
	next     *pool.Backend // picked for the next try; nil is none yet

	line  []byte        // the request in the access log
	from  netip.Addr    // likewise: the client
	last  *pool.Backend // tried last; nil is none
	tries int

	rules *policy.Exchange // what the route's rules do with the request; nil is nothing
	spare *policy.Exchange // rules of an earlier request, to be used again

	mu         sync.Mutex
	phase      phase
	upstream   *upstream // to close when the client leaves
	responding bool      // the response's head is there
}

func newConn(s *Server, tcp net.Conn, l *Listener) *conn {
	c := &conn{srv: s, tcp: tcp, listener: l, first: (*conn).serveNext}
	c.in.conn, c.out.conn = tcp, tcp
	c.peer = addrOf(tcp.RemoteAddr())
	c.back.conn = c
	tuneClient(tcp, s.BodyTimeout)
	return c
}

func addrOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// serve answers requests until one of the sides ends the connection, or a lane takes it back.
func (c *conn) serve() {
	defer c.close()
	for next := c.first; next(c); next = (*conn).serveNext {
		if c.ending() || c.plain && c.in.len() == 0 && c.goHome() {
			return
		}
	}
}

// ending reports whether no more requests are to be taken on the connection.
func (c *conn) ending() bool { return c.srv.closing.Load() || c.listener.closed.Load() }

func (c *conn) close() {
	if c.pool != nil {
		c.pool.Meter.Connect(-1)
	}
	closeQuietly(c.tcp)
}

// serveNext serves one request and reports whether the connection may bring another.
func (c *conn) serveNext() bool {
	c.rules = nil
	head, err := c.awaitHead()
	if err != nil {
		return c.refuseHead(err)
	}
	c.began = c.srv.Now()
	c.status, c.stuck, c.closing, c.held, c.quota = 0, false, false, 0, limit.Verdict{}
	c.served++
	if err := c.req.parse(head); err != nil {
		return c.refuse(err)
	}
	keep := c.dispatch(len(head)) && c.reusable()
	c.endLine()
	c.setPhase(phaseIdle)
	return keep
}

// reusable reports whether the client may send its next request on this connection.
func (c *conn) reusable() bool {
	if c.req.close || c.stuck {
		return false
	}
	return c.req.minor == 1 || c.req.keepAlive
}

// awaitHead receives until a whole head is there.
func (c *conn) awaitHead() ([]byte, error) {
	if err := c.awaitFirstByte(); err != nil {
		return nil, err
	}
	c.setPhase(phaseActive)
	scanned, started := 0, false
	for {
		c.skipEmptyLines()
		if end := headEnd(c.in.buffered(), scanned-3); end > 0 {
			return c.in.buffered()[:end], nil
		}
		scanned = c.in.len()
		if !started {
			started = true
			if err := c.tcp.SetReadDeadline(time.Now().Add(c.srv.HeaderTimeout)); err != nil {
				return nil, errLeft
			}
		}
		switch err := c.in.fill(c.srv.MaxHeaderBytes); {
		case err == nil:
		case errors.Is(err, errTooLarge):
			return nil, errTooLarge
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, errSlow
		default:
			return nil, errLeft
		}
	}
}

// The ways a connection ends without a head to answer.
var (
	errLeft = errors.New("the client left")
	errSlow = errors.New("the request head took too long")
)

// awaitFirstByte waits for as long as the connection may be idle.
func (c *conn) awaitFirstByte() error {
	if c.in.len() > 0 {
		return nil
	}
	if c.setIdleDeadline() != nil {
		return errLeft
	}
	if c.in.fill(c.srv.MaxHeaderBytes) != nil {
		return errLeft
	}
	return nil
}

// setIdleDeadline must not come after retire's, hence the lock.
func (c *conn) setIdleDeadline() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	idle := c.srv.limits.Load().IdleTimeout
	if c.ending() {
		idle = freshGrace
	}
	return c.tcp.SetReadDeadline(time.Now().Add(idle))
}

// skipEmptyLines drops the line ends some clients send after a body (RFC 9112, 2.2).
func (c *conn) skipEmptyLines() {
	for c.in.len() >= 2 && c.in.buf[c.in.r] == '\r' && c.in.buf[c.in.r+1] == '\n' {
		c.in.discard(2)
	}
}

func (c *conn) setPhase(p phase) {
	c.mu.Lock()
	c.phase = p
	c.mu.Unlock()
}

// retire ends the connection as soon as no request is on it.
func (c *conn) retire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch c.phase {
	case phaseIdle:
		closeQuietly(c.tcp)
	case phaseFresh:
		_ = c.tcp.SetReadDeadline(time.Now().Add(freshGrace)) // a closed connection needs none
	case phaseActive:
	}
}

// cut ends the connection at once, with whatever is on it. That the client is gone is said first: the end of the backend's connection
// would be taken for the backend's otherwise, and the request sent again.
func (c *conn) cut() {
	c.back.sever()
	c.mu.Lock()
	defer c.mu.Unlock()
	closeQuietly(c.tcp)
	if c.upstream != nil {
		closeQuietly(c.upstream.tcp)
	}
}

// setUpstream names the connection to close when the client leaves. nil is none.
func (c *conn) setUpstream(u *upstream) {
	c.mu.Lock()
	c.upstream, c.responding = u, false
	c.mu.Unlock()
}

// abort gives up the request because the client left.
func (c *conn) abort() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.upstream != nil {
		closeQuietly(c.upstream.tcp)
	}
}

// sever ends the backend's connection, if it is with one on a node, as if the backend had closed it.
func (c *conn) sever(node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.upstream != nil && c.upstream.backend.Node == node {
		closeQuietly(c.upstream.tcp)
	}
}

// linger makes sure that the client gets an answer it did not wait for: closing with unread bytes would reset the
// connection and could destroy the answer on its way.
func (c *conn) linger() {
	if half, ok := c.tcp.(interface{ CloseWrite() error }); !ok || half.CloseWrite() != nil {
		return
	}
	if c.tcp.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, c.tcp, lingerBytes) // any end of it is the end
}

const (
	lingerTime  = 500 * time.Millisecond
	lingerBytes = 256 << 10
)
