package http1

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"vortex/internal/edge/limit"
	"vortex/internal/edge/meter"
	"vortex/internal/edge/policy"
	"vortex/internal/edge/pool"
)

// client is a client's connection in a lane.
type client struct {
	socket

	listener *Listener
	peer     netip.Addr
	phase    phase
	begun    bool   // a head's first bytes are there
	counted  bool   // it counts among its client's connections
	served   int    // requests on this connection, with this one
	halved   bool   // the client has closed its side
	lingers  bool   // the answer is sent, and the client's end is awaited
	in       []byte // received and not taken yet: the beginning of a head, or what came while a request was under way
	move     func(*conn) bool

	// The request under way.
	pool    *pool.Pool       // of the last request: whose connection this counts as
	route   *meter.Responses // of its route
	want    pool.Want
	rules   *policy.Exchange // what the route's rules change; nil is nothing
	request []byte           // as the backend gets it
	kind    methodKind
	last    bool // no request follows on this connection
	began   int64
	up      *backendConn
	backend *pool.Backend
	extra   *extra // nil is nothing
	retries bool   // the pool counts it as one that is sent again

	// Its answer.
	out       []byte // what is sent next, or is on its way
	sending   bool
	interim   int  // responses that came before the final one
	answering bool // the final response has begun
	complete  bool // out is its end
	chunked   bool // its body is sent in chunks
	body      body
}

// rest waits for a request.
func (c *client) rest() {
	c.begun = false
	idle := c.lane.srv.limits.Load().IdleTimeout
	if c.lane.ending(c.listener) {
		idle = freshGrace
	}
	c.expire(idle)
	c.receive(true)
}

// retire ends the connection as soon as no request is on it.
func (c *client) retire() {
	switch c.phase {
	case phaseIdle:
		c.close()
	case phaseFresh:
		c.expire(freshGrace)
	case phaseActive:
	}
}

// received implements owner.
func (c *client) received(data []byte, err error) {
	switch {
	case c.move != nil:
		c.in = append(c.in, data...)
		c.moveOn()
	case c.lingers && len(data) > 0:
		c.receive(true)
	case c.phase == phaseActive && len(data) > 0: // the next request, before this one is answered
		c.in = append(c.in, data...)
	case c.phase == phaseActive && err == nil:
		c.halved = true
		c.expire(watchAfter)
	case c.phase == phaseActive:
		c.abandon()
	case len(data) == 0:
		c.close()
	case len(c.in) > 0:
		c.in = append(c.in, data...)
		c.next(c.in)
	default:
		c.next(data)
	}
}

// expired implements owner.
func (c *client) expired() {
	switch {
	case c.phase == phaseActive:
		c.abandon() // it has left a while ago
	case c.begun:
		c.handOver(c.in, func(g *conn) bool { return g.refuseHead(errSlow) })
	default:
		c.close()
	}
}

// connected implements owner.
func (c *client) connected(error) {}

// released implements owner.
func (c *client) released() {
	l := c.lane
	l.clients--
	l.srv.Meters.Connect(-1)
	if c.counted {
		l.srv.crowds.Leave(limit.Address(c.peer))
	}
	c.leaveApp()
	l.giveBack(c.out)
	c.out = nil
	l.checkDrained()
}

// keep keeps what is not taken yet, which may be a part of in.
func (c *client) keep(rest []byte) {
	if len(rest) == 0 {
		c.in = nil // an idle connection holds no memory
		return
	}
	c.in = append(c.in[:0], rest...)
}

// flush sends what was collected.
func (c *client) flush() {
	c.sending = true
	c.send(c.out)
}

// sent implements owner.
func (c *client) sent(err error) {
	c.sending = false
	switch {
	case c.move != nil:
		c.moveOn()
	case err != nil:
		c.abandon()
	case c.complete:
		c.finish()
	default:
		c.out = c.out[:0]
		c.awaitBody(c.up)
	}
}

// finish ends the request, and begins the next.
func (c *client) finish() {
	c.endRequest()
	c.phase = phaseIdle
	switch {
	case c.halved && len(c.in) == 0:
		c.close()
	case c.last || c.lane.ending(c.listener):
		c.linger()
	case len(c.in) > 0:
		c.next(c.in)
	default:
		c.rest()
	}
}

// endRequest ends what counts as the request.
func (c *client) endRequest() {
	l := c.lane
	if c.extra != nil {
		c.endExtra()
	}
	if c.retries {
		c.retries = false
		c.pool.EndRetry()
	}
	if c.pool != nil { // else the edge has answered itself
		c.pool.Meter.Finish()
	}
	if c.backend != nil {
		c.backend.Done()
		c.backend = nil
	}
	c.want = pool.Want{}
	c.freeRules()
	c.freeRequest()
	if !c.sending { // else released does it
		l.giveBack(c.out)
		c.out = nil
	}
}

// freeRequest gives the request's buffer back once it is neither on its way nor to be sent again.
func (c *client) freeRequest() {
	if c.request != nil {
		c.lane.giveBack(c.request)
		c.request = nil
	}
}

// linger closes the connection in a way that does not destroy the answer: a close with unread bytes would.
func (c *client) linger() {
	c.lingers = true
	_ = unix.Shutdown(c.fd, unix.SHUT_WR)
	c.expire(lingerTime)
	c.receive(true)
}

// abandon gives up the request, if there is one, and the connection.
func (c *client) abandon() {
	if c.phase == phaseActive {
		if !c.answering {
			c.answered(statusLeft)
		}
		if u := c.up; u != nil {
			c.up, u.client = nil, nil
			u.orphaned = c.request // until nothing is under way
			c.request = nil
			u.close()
		}
		c.endRequest()
		c.phase = phaseIdle
	}
	c.close()
}
