package http1

import (
	"bytes"
	"cmp"
	"time"

	"vortex/internal/edge/policy"
	"vortex/internal/edge/pool"
)

// The ways in which an attempt ends without an answer: the general way makes the next, or answers with the failure.

// unsent is when the backend cannot have seen the request.
func (c *client) unsent(err error) {
	b, srv := c.backend, c.lane.srv
	if isDead(err) {
		b.Failed(c.lane.now)
		b.MarkDead(c.lane.now + int64(srv.SkipDead))
	}
	c.again(verdictUnsent, failConnection)
}

// lost is when the connection ended before any byte of an answer.
func (c *client) lost(reused bool) {
	if c.kind == methodUnsafe {
		c.fail(failConnection)
		return
	}
	if reused { // it had ended while it was idle
		c.again(verdictAgain, failConnection)
		return
	}
	c.backend.Failed(c.lane.now)
	c.again(verdictLost, failConnection)
}

// unwritten is when the request could not be sent on a connection that was made.
func (c *client) unwritten(reused bool) {
	if reused {
		c.again(verdictAgain, failConnection)
		return
	}
	c.backend.Failed(c.lane.now)
	c.again(verdictUnsent, failConnection)
}

// late is when no answer came in time.
func (c *client) late() {
	if ruleOf(c.rules).Retry.OnTimeout && c.kind != methodUnsafe {
		c.backend.Failed(c.lane.now)
		c.again(verdictLost, failTimeout)
		return
	}
	c.fail(failTimeout)
}

// fail hands the request over to be answered with an error.
func (c *client) fail(why failure) {
	c.backend.Failed(c.lane.now)
	c.again(verdictFailed, why)
}

// again hands the request over after an attempt.
func (c *client) again(v verdict, why failure) {
	p, b := c.pool, c.backend
	c.dropBackend()
	c.handOver(c.in, func(g *conn) bool {
		defer p.Meter.Finish()
		g.failure = why
		return g.resume(p, b, v)
	})
}

// triesAgain hands the request over when another backend is to answer better than this one did, and there is one.
func (c *client) triesAgain(r *response) bool {
	l, p, b := c.lane, c.pool, c.backend
	rule := c.rules.Rule()
	taken := time.Duration(l.now - c.began)
	if !rule.Retry.On(r.status) || c.kind == methodUnsafe || rule.Timeouts.Total != 0 && taken >= rule.Timeouts.Total {
		return false
	}
	if !affords(p, &rule.Retry, 1, l.now) {
		return false
	}
	var tried pool.Tried
	tried.Add(b)
	next := p.Choose(c.want, l.now, &tried)
	if next == nil {
		return false
	}
	if p.BeginRetry() != nil {
		next.Done()
		return false
	}
	l.srv.Meters.Retried()
	b.Served(l.now, r.status)
	b.Took(r.status, taken)
	c.dropBackend()
	c.backend, c.retries = next, true // which end with the request if it is given up on its way
	c.handOver(c.in, func(g *conn) bool {
		defer p.Meter.Finish()
		g.tried, g.lost, g.next, g.retrying = tried, 1, next, true
		g.last, g.tries = b, 1
		return g.proceed(p)
	})
	return true
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
			g.endLine()
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
	c.lane.srv.Meters.HandedOver()
	c.lane.srv.adopt(c.fd, c.listener, func(g *conn) {
		g.peer = c.peer // as the proxy said, if one did
		g.in.buf, g.in.w = c.in, len(c.in)
		g.head, g.want, g.began, g.phase, g.route = request, c.want, c.began, c.phase, c.route
		g.req.kind, g.req.minor, g.req.close, g.req.length = c.kind, 1, c.last, -1
		g.pool, g.first, g.counted, g.served = c.pool, first, c.counted, c.served
		g.home, g.plain, g.rules = c.lane, true, c.rules
		if c.phase == phaseActive {
			g.fw.client, g.from = c.peer, c.peer
		}
		if x := c.extra; x != nil {
			g.quota, g.line, g.from, g.fw.trusted = x.quota, x.line, x.asked(c.peer), x.from.IsValid()
		}
	})
	c.pool, c.counted, c.rules, c.extra = nil, false, nil, nil // it counts there
	c.backend, c.retries = nil, false
	c.fd = -1
	c.released()
}

// The times that a route's rules give an exchange.

func (c *client) connectTimeout() time.Duration {
	return c.within(cmp.Or(c.rules.Rule().Timeouts.Connect, c.lane.srv.ConnectTimeout))
}

func (c *client) responseTimeout() time.Duration {
	return c.within(cmp.Or(c.rules.Rule().Timeouts.PerTry, c.lane.srv.ResponseTimeout))
}

// within returns what is left of d before the whole exchange has taken too long.
func (c *client) within(d time.Duration) time.Duration {
	return within(d, &c.rules.Rule().Timeouts, time.Duration(c.lane.now-c.began))
}

// awaitBody waits for more of the response's body.
func (c *client) awaitBody(u *backendConn) {
	if c.rules != nil && c.rules.Rule().Timeouts != (policy.Timeouts{}) {
		u.expireSoon(c.within(c.rules.Rule().Timeouts.Idle))
	}
	u.receive(false)
}
