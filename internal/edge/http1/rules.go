package http1

import (
	"cmp"
	"net/http"
	"time"

	"vortex/internal/edge/policy"
	"vortex/internal/edge/pool"
	"vortex/internal/edge/route"
)

// applyRules takes in the rule that the request's route has for it. It reports whether the edge answers itself, and prepares that answer.
func (c *conn) applyRules(m route.Match, path []byte) (answered bool) {
	rule, ok := m.Policy.Find(path[m.Strip:], &c.req)
	if !ok {
		c.leaveApp()
		c.prepare(http.StatusBadRequest, problem{
			Error: "the path can be read in several ways, and different rules hold for them", Code: "BAD_REQUEST",
			Details: "Leave out doubled slashes, semicolons, backslashes and encoded slashes.",
		}, "")
		return true
	}
	if rule == nil {
		return false
	}
	if c.spare == nil {
		c.spare = new(policy.Exchange)
	}
	c.rules = c.spare
	target := c.req.target[m.Strip:]
	c.rules.Begin(rule, policy.Request{
		Head: &c.req, Client: c.clientAddr(), Trusted: c.fw.trusted, Secure: c.fw.secure || c.req.secure(c.fw.trusted), App: m.Pool.App,
		Host: c.req.name, Target: target, Path: len(c.req.path) - m.Strip,
	})
	a, answered := c.rules.Answer(c.req.size(), c.req.length)
	if answered {
		c.answerOwn(a)
	}
	return answered
}

// size returns the bytes of the header as they count for a limit: the request line, and names and values with their separators.
func (r *request) size() int {
	n := len(r.method) + len(r.target) + len(" HTTP/1.1 \r\n")
	for i := range r.fields {
		n += len(r.fields[i].name) + len(r.fields[i].value) + len(": \r\n")
	}
	return n
}

// secure reports whether the client's request came over TLS to a trusted proxy.
func (r *request) secure(trusted bool) bool {
	if !trusted {
		return false
	}
	proto, _ := nth(r.fields, "x-forwarded-proto", 0)
	return equalFold(proto, "https")
}

// rule returns the rule that holds for the request, or one that says nothing.
func (c *conn) rule() *policy.Rule { return ruleOf(c.rules) }

// ruleOf returns the rule of an exchange, or one that says nothing.
func ruleOf(x *policy.Exchange) *policy.Rule {
	if x == nil {
		return &noRule
	}
	return x.Rule()
}

var noRule = policy.Rule{Retry: policy.Retry{Share: policy.DefaultShare, Minimum: policy.DefaultMinimum}}

func (c *conn) bodyLimit() int64 { return c.rule().Limits.Body }

// within returns what is left of d before the whole exchange has taken too long. 0 is for ever.
func (c *conn) within(d time.Duration) time.Duration {
	return within(d, &c.rule().Timeouts, time.Duration(c.srv.Now()-c.began))
}

// within returns what is left of d when an exchange has taken so long already. 0 is for ever.
func within(d time.Duration, t *policy.Timeouts, taken time.Duration) time.Duration {
	if t.Total == 0 {
		return d
	}
	left := max(t.Total-taken, 1)
	if d == 0 {
		return left
	}
	return min(d, left)
}

// expired reports whether the exchange has taken as long as the rules allow, and says so in the answer.
func (c *conn) expired() bool {
	total := c.rule().Timeouts.Total
	if total == 0 || time.Duration(c.srv.Now()-c.began) < total {
		return false
	}
	c.failure = failTimeout
	return true
}

func (c *conn) connectTimeout() time.Duration {
	return c.within(cmp.Or(c.rule().Timeouts.Connect, c.srv.ConnectTimeout))
}

// responseTimeout bounds the next wait for a response's head.
func (c *conn) responseTimeout() time.Duration {
	return c.within(cmp.Or(c.rule().Timeouts.PerTry, c.srv.ResponseTimeout))
}

// patience is the time that a request which was not answered had.
func (c *conn) patience() time.Duration {
	t := &c.rule().Timeouts
	switch {
	case t.Total > 0 && time.Duration(c.srv.Now()-c.began) >= t.Total:
		return t.Total
	case t.PerTry > 0:
		return t.PerTry
	}
	return c.srv.ResponseTimeout
}

// timeBody bounds the waits for the response's body.
func (c *conn) timeBody(u *upstream) {
	t := &c.rule().Timeouts
	if t.Idle == 0 && t.Total == 0 {
		return
	}
	c.down.piece = pumpPiece
	c.down.ready = func() error { return u.tcp.SetReadDeadline(time.Now().Add(c.within(t.Idle))) }
}

// runBody sends the response's body on.
func (c *conn) runBody(coding policy.Coding) error {
	if c.down.ready != nil { // the next request on the backend's connection has times of its own
		defer func() { _ = c.down.from.conn.SetReadDeadline(time.Time{}) }()
	}
	if coding == 0 {
		return c.down.run()
	}
	c.down.encoder = coding.NewEncoder((*encoded)(&c.down))
	defer func() {
		coding.FreeEncoder(c.down.encoder)
		c.down.encoder = nil
	}()
	return c.down.run()
}

// compression decides whether the response is compressed. An HTTP/1.0 client could not tell a cut body from a whole one.
func (c *conn) compression(kind bodyKind) policy.Compression {
	if c.rules == nil {
		return policy.Compression{}
	}
	z := c.rules.Compress(c.resp.status, c.resp.length, &c.resp)
	if kind == bodyNone || c.req.minor == 0 {
		z.Coding = 0
	}
	return z
}

// appendRules appends what the rules add to a response.
func (c *conn) appendRules(b []byte, z policy.Compression) []byte {
	if c.rules == nil {
		return b
	}
	return c.rules.AppendResponse(z.AppendTo(b, &c.resp))
}

// maxLost is how many backends one request may be lost with: one that kills backends must not get at all of them.
const maxLost = 3

// mayRetry counts a try that a backend may have seen, and reports whether there may be another.
func (c *conn) mayRetry(p *pool.Pool) bool {
	c.lost++
	return affords(p, &c.rule().Retry, c.lost, c.srv.Now())
}

// affords reports whether a request that so many tries were lost with may be sent again, and takes it from the pool's budget.
func affords(p *pool.Pool, r *policy.Retry, lost int, now int64) bool {
	return lost < cmp.Or(r.Attempts, maxLost) && p.Affords(pool.Budget{Share: r.Share, Minimum: r.Minimum}, now)
}

// retriesTimeouts reports whether a request that was not answered in time is sent again.
func (c *conn) retriesTimeouts() bool {
	return c.rule().Retry.OnTimeout && c.req.kind != methodUnsafe && !c.streams()
}

// triesAgain reports whether another backend is to answer better than this one did, with the size bytes received, and picks it.
func (c *conn) triesAgain(u *upstream, size int) bool {
	if !c.rules.Rule().Retry.On(c.resp.status) || c.req.kind == methodUnsafe || c.streams() || c.expired() {
		return false
	}
	if !c.mayRetry(c.pool) || !c.tried.Add(u.backend) {
		return false
	}
	next := c.pool.Choose(c.want, c.srv.Now(), &c.tried)
	if next == nil {
		return false
	}
	if c.retry(c.pool) != nil {
		next.Done()
		return false
	}
	c.next = next
	c.backendAnswered(u.backend)
	kind, length := c.resp.bodyKind(c.req.kind == methodHead), max(c.resp.length, 0)
	if kind == bodyNone {
		length = 0
	}
	whole := kind == bodyNone || kind == bodyLength
	if whole && u.tcp.SetReadDeadline(time.Time{}) == nil && c.resp.persistent(kind) && int64(u.in.len()-size) == length {
		u.in.discard(u.in.len())
		u.backend.PutIdle(u, c.srv.Now())
	} else {
		closeQuietly(u.tcp)
	}
	return true
}
