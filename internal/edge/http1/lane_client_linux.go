package http1

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"vortex/internal/edge/limit"
	"vortex/internal/edge/meter"
	"vortex/internal/edge/policy"
	"vortex/internal/edge/pool"
	"vortex/internal/edge/route"
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
	idle := c.lane.srv.IdleTimeout
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
	if c.pool != nil {
		c.pool.Meter.Connect(-1)
		c.pool = nil
	}
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

// next takes the request that buf begins with, when its head is whole.
func (c *client) next(buf []byte) {
	for len(buf) >= 2 && buf[0] == '\r' && buf[1] == '\n' { // RFC 9112, 2.2
		buf = buf[2:]
	}
	end := headEnd(buf, 0)
	if end < 0 && len(buf) < c.lane.srv.MaxHeaderBytes {
		c.keep(buf)
		if !c.begun {
			c.begun = true
			c.expire(c.lane.srv.HeaderTimeout)
		}
		c.receive(false)
		return
	}
	if end > 0 && c.take(buf, end) {
		return
	}
	c.handOver(buf, nil)
}

// take begins the request whose head has end bytes, if it is one for a lane.
func (c *client) take(buf []byte, end int) bool {
	l := c.lane
	l.head = append(l.head[:0], buf[:end]...) // parsing may change it
	r := &l.req
	if r.parse(l.head) != nil || !c.simple(r, buf[end:]) {
		return false
	}
	m := l.srv.Table.MatchOn(c.listener.Name(), r.name, r.path, r)
	rule, ok := ruleOf(m, r)
	if !ok || !c.choose(m.Pool, r) {
		return false
	}
	fw := forward{client: c.peer, strip: m.Strip}
	if rule != nil {
		fw.rules = c.under(rule, m)
	}
	c.request = r.appendTo(l.buffer(), fw)
	if rule != nil {
		c.rules.Sent()
	}
	end += max(int(r.length), 0)
	c.request = append(c.request, buf[len(l.head):end]...)
	c.served++
	c.kind, c.last = r.kind, r.close || l.srv.MaxRequests > 0 && c.served >= l.srv.MaxRequests
	c.keep(buf[end:])
	c.route = m.Meter
	c.begin(m.Pool)
	return true
}

// ruleOf returns the rule that holds for a request, nil for none, and whether what matched is for a lane.
func ruleOf(m route.Match, r *request) (rule *policy.Rule, ok bool) {
	if !direct(m) || !m.Claimed && string(r.path) == metricsPath {
		return nil, false
	}
	if m.Policy == nil {
		return nil, true
	}
	rule, ok = m.Policy.Find(r.path[m.Strip:], r)
	return rule, ok && (rule == nil || rule.Plain())
}

// choose picks the backend, unless there is none or the client asks too often.
func (c *client) choose(p *pool.Pool, r *request) bool {
	l := c.lane
	want := c.ask(p, r)
	var tried pool.Tried
	b := p.Choose(want, l.now, &tried)
	if b == nil {
		return false
	}
	if limits := l.srv.Limit; limits != nil && !limits.Allow(limit.Address(c.peer), l.srv.unix(l.now)).OK {
		b.Done()
		return false
	}
	c.want, c.backend = want, b
	return true
}

// simple reports whether a request is one that a lane serves. rest is what follows its head.
func (c *client) simple(r *request, rest []byte) bool {
	return r.simple() && int64(len(rest)) >= r.length &&
		!c.listener.trusts(c.peer) && !c.lane.srv.Log.Enabled(context.Background(), slog.LevelDebug)
}

// under lets a rule hold for the request that the lane has read.
func (c *client) under(rule *policy.Rule, m route.Match) *policy.Exchange {
	l, r := c.lane, &c.lane.req
	if n := len(l.exchanges); n > 0 {
		c.rules = l.exchanges[n-1]
		l.exchanges = l.exchanges[:n-1]
	} else {
		c.rules = new(policy.Exchange)
	}
	host := append(c.rules.Host[:0], r.name...) // it is used until the response has ended
	c.rules.Begin(rule, policy.Request{
		Head: r, Client: c.peer, App: m.Pool.App, Host: host, Target: r.target[m.Strip:], Path: len(r.path) - m.Strip,
	})
	return c.rules
}

// ask gathers what the request says about which backend should answer it.
func (c *client) ask(p *pool.Pool, r *request) pool.Want {
	ask := p.Ask()
	if ask.Hashes() {
		ask.Client(c.peer)
	}
	if ask.Reads() {
		for i := range r.fields {
			ask.Field(r.fields[i].name, r.fields[i].value)
		}
	}
	return ask.Want()
}

// begin sends the request on its way.
func (c *client) begin(p *pool.Pool) {
	l := c.lane
	c.phase, c.begun, c.began = phaseActive, false, l.now
	c.deadline = 0
	c.interim, c.answering, c.complete = 0, false, false
	c.join(p)
	if err := p.Admit(p.Meter.Start(c.began)); err != nil {
		c.backend.Done()
		c.backend = nil
		c.handOver(c.in, func(g *conn) bool {
			defer p.Meter.Finish()
			return g.failHeld(err)
		})
		return
	}
	if len(c.in) < smallBody {
		c.receive(true) // to see the client leave
	}
	u := l.takeIdle(c.backend)
	if u == nil {
		l.dial(c)
		return
	}
	c.up, u.client = u, c
	u.request()
}

// join counts the connection as the app's that was asked for last.
func (c *client) join(p *pool.Pool) {
	if c.pool == p {
		return
	}
	if c.pool != nil {
		c.pool.Meter.Connect(-1)
	}
	c.pool = p
	p.Meter.Connect(1)
}

// answered counts the response's head.
func (c *client) answered(status int) {
	l := c.lane
	l.srv.Meters.Answered(status)
	if status != statusLeft {
		c.pool.Meter.Answered(l.now, status, time.Duration(l.now-c.began))
		c.route.Observe(status, time.Duration(l.now-c.began))
	}
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
		c.up.receive(false)
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
	c.pool.Meter.Finish()
	if c.backend != nil {
		c.backend.Done()
		c.backend = nil
	}
	c.want = pool.Want{}
	if c.rules != nil {
		l.exchanges = append(l.exchanges, c.rules)
		c.rules = nil
	}
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

// The ways in which an attempt ends without an answer.

// unsent is when the backend cannot have seen the request.
func (c *client) unsent(err error) {
	b, srv := c.backend, c.lane.srv
	if isDead(err) {
		b.Failed(c.lane.now)
		b.MarkDead(c.lane.now + int64(srv.SkipDead))
	}
	c.again((*conn).retry)
}

// lost is when the connection ended before any byte of an answer.
func (c *client) lost(reused bool) {
	switch {
	case reused && c.kind != methodUnsafe: // it had ended while it was idle
		c.again(nil)
		return
	case c.kind != methodUnsafe:
		c.backend.Failed(c.lane.now)
		c.again((*conn).retry)
		return
	}
	c.fail(failConnection)
}

// again hands the request over to be sent once more, when permit, if there is one, allows it.
func (c *client) again(permit func(*conn, *pool.Pool) error) {
	p := c.pool
	c.dropBackend()
	c.handOver(c.in, func(g *conn) bool {
		defer p.Meter.Finish()
		if permit != nil {
			if err := permit(g, p); err != nil {
				return g.failHeld(err)
			}
		}
		return g.proceed(p)
	})
}

// fail hands the request over to be answered with an error.
func (c *client) fail(why failure) {
	p := c.pool
	c.backend.Failed(c.lane.now)
	c.dropBackend()
	c.handOver(c.in, func(g *conn) bool {
		defer p.Meter.Finish()
		g.failure = why
		return g.failAttempt()
	})
}

// dropBackend ends the attempt.
func (c *client) dropBackend() {
	if u := c.up; u != nil {
		c.up, u.client = nil, nil
		if u.underway > 0 {
			u.orphaned = c.request
			c.request = bytes.Clone(c.request)
		}
		u.close()
	}
	c.backend.Done()
	c.backend = nil
}

// handOver gives the connection to the general way, with what was received of it: from the start, or with first in the
// middle of a request.
func (c *client) handOver(received []byte, first func(*conn) bool) {
	c.keep(received)
	c.deadline = 0
	c.move = (*conn).serveNext
	if first != nil {
		c.move = func(g *conn) bool {
			keep := first(g) && g.reusable()
			g.setPhase(phaseIdle)
			return keep
		}
	}
	if c.reading { // what comes meanwhile goes along
		c.lane.ring.Cancel(c.user(opReceive), opNothing)
	}
	c.moveOn()
}

// moveOn goes over to the general way once nothing is under way here.
func (c *client) moveOn() {
	if c.underway > 0 {
		return
	}
	c.forget()
	first, request := c.move, bytes.Clone(c.request)
	c.freeRequest()
	c.lane.srv.adopt(c.fd, c.listener, func(g *conn) {
		g.in.buf, g.in.w = c.in, len(c.in)
		g.head, g.want, g.began, g.phase, g.route = request, c.want, c.began, c.phase, c.route
		g.req.kind, g.req.minor, g.req.close, g.req.length = c.kind, 1, c.last, -1
		g.pool, g.first, g.counted, g.served = c.pool, first, c.counted, c.served
		g.home, g.plain, g.rules = c.lane, true, c.rules
		if c.phase == phaseActive {
			g.fw.client = c.peer
		}
	})
	c.pool, c.counted, c.rules = nil, false, nil // it counts there
	c.fd = -1
	c.released()
}
