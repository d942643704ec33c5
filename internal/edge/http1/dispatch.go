package http1

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"vortex/internal/edge/policy"
	"vortex/internal/edge/pool"
	"vortex/internal/edge/route"
)

// smallBody is up to how many bytes a body that came with its head goes on with it, in one piece that can be sent again.
const smallBody = 16 << 10

// dispatch answers the request whose head is in req and, with size bytes, still in the receive buffer. It
// reports whether the client may send another.
func (c *conn) dispatch(size int) bool {
	c.back.reset()
	c.fw = forward{client: c.peer, trusted: c.listener.trusts(c.peer)}
	c.stuck = c.req.hasBody() // until it was read
	c.beginLine()
	if v, ok := c.withinLimit(); !ok {
		c.srv.Meters.Limited()
		return c.answerLimited(v.Retry)
	}
	path := c.req.path
	if string(path) == "*" {
		path = slash
	}
	m := c.srv.Table.MatchOn(c.listener.Name(), c.req.name, path, &c.req)
	c.plain = false
	switch {
	case !m.Claimed && c.srv.wantsMetrics(&c.req, path, c.peer):
		c.in.discard(size)
		return c.answerMetrics()
	case m.Pool == nil:
		c.answerOwn(c.srv.notFound(&c.req, c.peer))
	case m.Redirect:
		c.answerOwn(c.req.withSlash())
	case !c.withinRates(m, path):
		c.srv.Meters.Limited()
		c.answerOwn(overRate(c.quota))
	default:
		if m.Policy == nil || !c.applyRules(m, path) {
			return c.proxy(m, size)
		}
	}
	c.in.discard(size) // not before: the answer quotes it
	return c.sendAnswer()
}

var slash = []byte("/")

// answerOwn prepares an answer that is no app's.
func (c *conn) answerOwn(a policy.Answer) {
	c.leaveApp()
	c.prepareAnswer(a)
}

// simple reports whether the head is one that lanes serve.
func (r *request) simple() bool {
	return r.minor == 1 && !r.upgrade && !r.expect && !r.chunked && r.length <= smallBody && r.path[0] == '/'
}

// clientAddr returns the nearest address that is not a trusted proxy's.
func (c *conn) clientAddr() netip.Addr {
	if !c.fw.trusted {
		return c.peer
	}
	return c.listener.clientOf(&c.req, c.peer)
}

// clientOf returns the nearest address that is not a trusted proxy's, of a request that came from a trusted one.
func (l *Listener) clientOf(r *request, proxy netip.Addr) netip.Addr {
	client := proxy
	if !r.has("x-forwarded-for") {
		return l.forwardedFor(r, proxy)
	}
	for _, f := range slices.Backward(r.fields) {
		if f.kind != kindForwardedFor {
			continue
		}
		for _, hop := range slices.Backward(bytes.Split(f.value, []byte(","))) {
			addr, err := netip.ParseAddr(string(trimSpace(hop)))
			if err != nil {
				return client
			}
			client = addr.Unmap()
			if !l.trusts(client) {
				return client
			}
		}
	}
	return client
}

// forwardedFor is clientOf for proxies that say so in Forwarded (RFC 7239).
func (l *Listener) forwardedFor(r *request, proxy netip.Addr) netip.Addr {
	client := proxy
	for _, f := range slices.Backward(r.fields) {
		if !equalFold(f.name, "forwarded") {
			continue
		}
		for _, element := range slices.Backward(bytes.Split(f.value, []byte(","))) {
			addr, ok := policy.ParseForwarded(trimSpace(element))
			if !ok {
				return client
			}
			if client = addr; !l.trusts(client) {
				return client
			}
		}
	}
	return client
}

// proxy sends the request to a backend of its app.
func (c *conn) proxy(m route.Match, size int) bool {
	c.plain = c.home != nil && c.req.simple() && !m.Pool.Mirrors() && (c.rules == nil || c.rules.Quick())
	c.fw.strip, c.fw.rules = m.Strip, c.rules
	c.head = c.req.appendTo(c.head[:0], c.fw)
	if c.rules != nil {
		c.rules.Sent()
	}
	line := c.logLine()
	c.want = c.ask(m.Pool)
	c.in.discard(size)
	c.takeSmallBody()
	c.route = m.Meter
	c.join(m.Pool)
	keep := c.admit(m.Pool)
	m.Pool.Meter.Finish()
	if line != "" {
		c.log(line, m.Pool.App)
	}
	if cap(c.head) > 2*smallBody {
		c.head = nil
	}
	return keep
}

// admit gets the request answered, unless the pool has enough to do.
func (c *conn) admit(p *pool.Pool) bool {
	if err := p.Admit(p.Meter.Start(c.began)); err != nil {
		return c.failHeld(err)
	}
	c.mirror(p)
	c.tried.Reset()
	c.lost, c.next = 0, nil
	return c.proceed(p)
}

// proceed gets an admitted request answered.
func (c *conn) proceed(p *pool.Pool) bool {
	keep := c.exchange(p)
	if c.retrying {
		c.retrying = false
		p.EndRetry()
	}
	c.back.stop()
	return keep
}

// takeSmallBody puts a body that is wholly at hand behind the head, and prepares to stream any other.
func (c *conn) takeSmallBody() {
	if !c.req.hasBody() {
		return
	}
	if n := c.req.length; !c.req.chunked && n <= smallBody && int64(c.in.len()) >= n {
		c.head = append(c.head, c.in.buffered()[:n]...)
		c.in.discard(int(n))
		c.stuck = false
		return
	}
	kind := bodyLength
	if c.req.chunked {
		kind = bodyChunked
	}
	c.back.body = newBody(kind, c.req.length, true)
	c.back.relay = relay{
		from: &c.in, body: &c.back.body, chunked: c.req.chunked, piece: pumpPiece, ready: c.back.awaitBody, limit: c.bodyLimit(),
	}
}

// pumpPiece is how much of a request's body must come within Config.BodyTimeout.
const pumpPiece = 128 << 10

// streams reports whether the request has a body that is not in head.
func (c *conn) streams() bool { return c.back.relay.body != nil }

// join counts the connection as the app's that was asked for last.
func (c *conn) join(p *pool.Pool) {
	if c.pool == p {
		return
	}
	if c.pool != nil {
		c.pool.Meter.Connect(-1)
	}
	c.pool = p
	p.Meter.Connect(1)
}

// verdict is how an attempt to get a response ended.
type verdict uint8

const (
	verdictDone   verdict = iota // answered, or nobody is left to answer
	verdictStale                 // a connection used before had ended: the same backend deserves a new one
	verdictUnsent                // nothing of the request reached the backend
	verdictLost                  // the backend was lost with the request, which may be sent again
	verdictAgain                 // it answered in a way that another backend, c.next, is to better
	verdictFailed                // it cannot be sent again; c.failure says why
)

// exchange gets the request answered and reports whether the client's connection may be used again.
func (c *conn) exchange(p *pool.Pool) bool {
	if !c.streams() {
		c.back.watch(watchAfter)
	}
	for {
		b := c.next
		if c.next = nil; b == nil {
			b = p.Choose(c.want, c.srv.Now(), &c.tried)
		}
		if b == nil {
			var err error
			if b, err = c.hold(p); err != nil {
				return c.failHeld(err)
			}
		}
		v, keep := c.attempt(b)
		if v == verdictDone {
			return keep
		}
		if keep, over := c.settle(p, b, v); over {
			return keep
		}
	}
}

// settle decides what comes after an attempt that brought no answer: over is that there is no further one.
func (c *conn) settle(p *pool.Pool, b *pool.Backend, v verdict) (keep, over bool) {
	switch {
	case v == verdictAgain:
		return false, false
	case v == verdictFailed, v == verdictLost && !c.mayRetry(p), c.expired():
		return c.failAttempt(), true
	}
	if !c.tried.Add(b) {
		return c.failAttempt(), true
	}
	if err := c.retry(p); err != nil {
		return c.failHeld(err), true
	}
	return false, false
}

// resume goes on with an admitted request of which a lane has made the first attempt.
func (c *conn) resume(p *pool.Pool, b *pool.Backend, v verdict) bool {
	c.last, c.tries = b, 1
	if keep, over := c.settle(p, b, v); over {
		return keep
	}
	return c.proceed(p)
}

// retry counts that the request is sent again, unless too many are.
func (c *conn) retry(p *pool.Pool) error {
	if !c.retrying {
		if err := p.BeginRetry(); err != nil {
			return err
		}
		c.retrying = true
	}
	c.srv.Meters.Retried()
	return nil
}

// attempt tries one backend, with a second connection when the first had ended while it was idle, and ends the
// backend's in-flight count that Pick or Hold began.
func (c *conn) attempt(b *pool.Backend) (v verdict, keep bool) {
	defer b.Done()
	c.sent = c.began
	if c.held != 0 || c.tried.Any() {
		c.sent = c.srv.Now()
	}
	v, keep = c.try(b, false)
	if v == verdictStale {
		b.CloseIdle()
		v, keep = c.try(b, true)
	}
	return v, keep
}

// hold waits for a backend. All waits of one request together are as long as Config.HoldTimeout at most.
func (c *conn) hold(p *pool.Pool) (*pool.Backend, error) {
	if !c.streams() {
		c.back.stop()
		c.back.watch(0)
	}
	if c.held == 0 {
		c.held = c.srv.Now()
	}
	left := c.within(c.srv.HoldTimeout - time.Duration(c.srv.Now()-c.held))
	if left <= 0 {
		return nil, pool.ErrTimeout
	}
	w := pool.Waiter{Want: c.want, Tried: &c.tried, Left: c.back.whenLeft(), Now: c.srv.Now}
	return p.Hold(w, left)
}

// failHeld answers a request no backend came for.
func (c *conn) failHeld(err error) bool {
	c.back.stop()
	switch {
	case errors.Is(err, pool.ErrLeft):
		c.answered(statusLeft)
		return false
	case errors.Is(err, pool.ErrGone):
		c.answerGone()
	default:
		c.answerNoBackend(err)
	}
	return c.sendAnswer()
}

// statusLeft is counted for a request whose client left before it was answered, as nginx does.
const statusLeft = 499

// answered counts the response's head.
func (c *conn) answered(status int) {
	c.status = status
	c.srv.Meters.Answered(status)
	if c.pool != nil && status != statusLeft {
		now := c.srv.Now()
		c.pool.Meter.Answered(now, status, time.Duration(now-c.began))
		c.route.Observe(status, time.Duration(now-c.began))
	}
}

// backendAnswered counts the response for its backend.
func (c *conn) backendAnswered(b *pool.Backend) {
	now := c.srv.Now()
	b.Served(now, c.resp.status)
	b.Took(c.resp.status, time.Duration(now-c.sent))
}

// logLine returns the request for the access log, or nothing when there is none.
func (c *conn) logLine() string {
	if !c.srv.Log.Enabled(context.Background(), slog.LevelDebug) {
		return ""
	}
	return string(c.req.method) + " " + string(c.req.name) + string(c.req.path)
}

func (c *conn) log(line, app string) {
	c.srv.Log.LogAttrs(context.Background(), slog.LevelDebug, "Request answered",
		slog.String("app", app), slog.String("request", line), slog.Int("status", c.status),
		slog.String("client", c.peer.String()), slog.Duration("took", time.Duration(c.srv.Now()-c.began)))
}
