package http1

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"vortex/internal/edge/limit"
	"vortex/internal/edge/policy"
	"vortex/internal/edge/pool"
	"vortex/internal/edge/route"
)

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

// take begins the request whose head has end bytes, if it is one for a lane. Until that is sure nothing is counted: the general way counts
// what it is given.
func (c *client) take(buf []byte, end int) bool {
	l := c.lane
	l.head = append(l.head[:0], buf[:end]...) // parsing may change it
	r := &l.req
	if r.parse(l.head) != nil || !c.simple(r, buf[end:]) {
		return false
	}
	l.from, l.trusted = c.peer, c.listener.trusts(c.peer)
	if l.trusted {
		l.from = c.listener.clientOf(r, c.peer)
	}
	m := l.srv.Table.MatchOn(c.listener.Name(), r.name, r.path, r)
	if !c.suits(&m, r) {
		return false
	}
	body := buf[end : end+max(int(r.length), 0)]
	rest := buf[end+len(body):]
	c.start(r)
	if a, own := c.refuse(&m, r); own {
		c.keep(rest)
		c.reply(&a)
		return true
	}
	fw := forward{client: c.peer, strip: m.Strip, trusted: l.trusted, rules: c.rules}
	c.request = r.appendTo(l.buffer(), fw)
	if c.rules != nil {
		c.rules.Sent()
	}
	c.request = append(c.request, body...)
	c.want = c.ask(m.Pool, r)
	c.keep(rest)
	c.route = m.Meter
	c.begin(m.Pool)
	return true
}

// simple reports whether a request is one that a lane serves. rest is what follows its head.
func (c *client) simple(r *request, rest []byte) bool {
	return r.simple() && int64(len(rest)) >= r.length && !c.lane.srv.Log.Enabled(context.Background(), slog.LevelDebug)
}

// suits reports whether what a request matches is for a lane, and takes in the rule that holds for it. What takes long is not: a password that has
// to be checked, a body to compress, a copy for another pool.
func (c *client) suits(m *route.Match, r *request) bool {
	switch {
	case !m.Claimed && c.lane.srv.wantsMetrics(r, r.path, c.peer):
		return false
	case m.Pool == nil || m.Redirect:
		return true
	case m.Pool.Mirrors():
		return false
	case m.Policy == nil:
		return true
	}
	rule, ok := m.Policy.Find(r.path[m.Strip:], r)
	if rule == nil || !ok {
		return ok
	}
	c.under(rule, m)
	if c.rules.Quick() {
		return true
	}
	c.freeRules()
	return false
}

// under lets a rule hold for the request that the lane has read.
func (c *client) under(rule *policy.Rule, m *route.Match) {
	l, r := c.lane, &c.lane.req
	if n := len(l.exchanges); n > 0 {
		c.rules = l.exchanges[n-1]
		l.exchanges = l.exchanges[:n-1]
	} else {
		c.rules = new(policy.Exchange)
	}
	host := append(c.rules.Host[:0], r.name...) // it is used until the response has ended
	c.rules.Begin(rule, policy.Request{
		Head: r, Client: l.from, Trusted: l.trusted, Secure: r.secure(l.trusted), App: m.Pool.App,
		Host: host, Target: r.target[m.Strip:], Path: len(r.path) - m.Strip,
	})
}

func (c *client) freeRules() {
	if c.rules != nil {
		c.lane.exchanges = append(c.lane.exchanges, c.rules)
		c.rules = nil
	}
}

// start makes a request the connection's.
func (c *client) start(r *request) {
	l := c.lane
	c.served++
	c.kind, c.last = r.kind, r.close || l.srv.isLast(c.served)
	c.phase, c.begun, c.began = phaseActive, false, l.now
	c.deadline = 0
	c.interim, c.answering, c.complete = 0, false, false
	if l.trusted {
		c.needExtra().from = l.from
	}
	if l.srv.Access != nil {
		x := c.needExtra()
		x.line = r.appendLine(x.line)
	}
}

// refuse counts the request for the limits on it, and returns what the edge answers instead of an app, if it does.
func (c *client) refuse(m *route.Match, r *request) (a policy.Answer, own bool) {
	srv, from := c.lane.srv, c.lane.from
	if srv.Limit != nil {
		if v := srv.Limit.Allow(limit.Address(from), srv.unix(c.began)); !v.OK {
			srv.Meters.Limited()
			c.last = true // what else it has sent is not worth reading
			c.freeRules() // which have not seen it
			return limitedAnswer(v.Retry), true
		}
	}
	switch {
	case m.Pool == nil:
		return srv.notFound(r, c.peer), true
	case m.Redirect:
		return r.withSlash(), true
	}
	if len(m.Rates) > 0 {
		quota, ok := asker{r, r.path[m.Strip:], from, srv.unix(c.began)}.within(m.Rates)
		if !ok {
			srv.Meters.Limited()
			c.freeRules()
			return overRate(quota), true
		}
		c.needExtra().quota = quota
	}
	if c.rules == nil {
		return a, false
	}
	return c.rules.Answer(r.size(), r.length)
}

// reply sends an answer of the edge's own.
func (c *client) reply(a *policy.Answer) {
	c.leaveApp()
	c.last = c.last || c.halved || c.lane.ending(c.listener)
	text, fields := contentOf(a)
	b := appendOwn(c.outBuffer(), c.rules, a.Status, len(text), fields)
	if c.last {
		b = append(b, "Connection: close\r\n"...)
	}
	b = append(b, '\r', '\n')
	if c.kind != methodHead && a.Status != http.StatusNoContent {
		b = append(b, text...)
	}
	c.out = b
	c.answering, c.complete = true, true
	c.answered(a.Status)
	if c.extra != nil {
		c.extra.bytes = int64(len(text))
	}
	c.flush()
}

// ask gathers what the request says about which backend should answer it.
func (c *client) ask(p *pool.Pool, r *request) pool.Want {
	ask := p.Ask()
	if ask.Hashes() {
		ask.Client(c.lane.from)
	}
	if ask.Reads() {
		for i := range r.fields {
			ask.Field(r.fields[i].name, r.fields[i].value)
		}
	}
	return ask.Want()
}

// begin sends the request on its way. One without a backend waits for it elsewhere.
func (c *client) begin(p *pool.Pool) {
	l := c.lane
	c.join(p)
	if err := p.Admit(p.Meter.Start(c.began)); err != nil {
		c.handOver(c.in, func(g *conn) bool {
			defer p.Meter.Finish()
			return g.failHeld(err)
		})
		return
	}
	var tried pool.Tried
	if c.backend = p.Choose(c.want, l.now, &tried); c.backend == nil {
		c.handOver(c.in, func(g *conn) bool {
			defer p.Meter.Finish()
			return g.proceed(p)
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
	c.leaveApp()
	c.pool = p
	p.Meter.Connect(1)
}

// leaveApp stops counting the connection as an app's.
func (c *client) leaveApp() {
	if c.pool != nil {
		c.pool.Meter.Connect(-1)
		c.pool = nil
	}
}

// answered counts the response's head.
func (c *client) answered(status int) {
	l := c.lane
	l.srv.Meters.Answered(status)
	if c.extra != nil {
		c.extra.status = status
	}
	if status != statusLeft && c.pool != nil {
		c.pool.Meter.Answered(l.now, status, time.Duration(l.now-c.began))
		c.route.Observe(status, time.Duration(l.now-c.began))
	}
}

// extra is what only some requests need.
type extra struct {
	from   netip.Addr    // who asks, when a trusted proxy says so
	quota  limit.Verdict // what is left of the route's rates; zero is none
	line   []byte        // the request in the access log; empty is none
	status int           // answered; 0 before
	bytes  int64         // of the response's body
}

func (c *client) needExtra() *extra {
	if c.extra != nil {
		return c.extra
	}
	l := c.lane
	if n := len(l.extras); n > 0 {
		c.extra = l.extras[n-1]
		l.extras = l.extras[:n-1]
	} else {
		c.extra = new(extra)
	}
	return c.extra
}

// asked returns who asks, where the other side has an address.
func (x *extra) asked(peer netip.Addr) netip.Addr {
	if x.from.IsValid() {
		return x.from
	}
	return peer
}

// endExtra adds the request to the access log, if there is one.
func (c *client) endExtra() {
	l, x := c.lane, c.extra
	c.extra = nil
	if x.status != 0 && len(x.line) > 0 {
		a := answer{
			began: c.began, took: time.Duration(l.now - c.began), client: x.asked(c.peer), status: x.status, bytes: x.bytes, rules: c.rules,
		}
		if c.backend != nil {
			a.backend, a.app, a.tries = c.backend, c.pool.App, 1
		}
		l.srv.addLine(x.line, &a)
	}
	*x = extra{line: x.line[:0]}
	if len(l.extras) < maxSpare {
		l.extras = append(l.extras, x)
	}
}
