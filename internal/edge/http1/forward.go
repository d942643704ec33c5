package http1

import (
	"errors"
	"net"
	"time"

	"vortex/internal/edge/policy"
	"vortex/internal/edge/pool"
)

// failure is why a request could not be answered by its app.
type failure uint8

const (
	failConnection failure = iota // the backend's connection ended
	failTimeout                   // it did not answer in time
	failResponse                  // what it answered is no HTTP
	failBody                      // the client's body is malformed
	failSlowBody                  // the client's body did not go on
	failLargeBody                 // the client's body is larger than the route's rules allow
)

// try sends the request to one backend and, when that answers, the response to the client. fresh demands a new connection.
func (c *conn) try(b *pool.Backend, fresh bool) (v verdict, keep bool) {
	c.failure, c.last = failConnection, b
	c.tries++
	u, err := c.srv.connect(b, fresh || c.rule().Proxy != "", c.connectTimeout())
	if err != nil {
		if isDead(err) {
			b.Failed(c.srv.Now())
			b.MarkDead(c.srv.Now() + int64(c.srv.SkipDead))
		}
		return verdictUnsent, false
	}
	c.setUpstream(u)
	defer c.setUpstream(nil)
	if c.back.gone.Load() {
		closeQuietly(u.tcp)
		return c.leave()
	}
	if n, err := u.tcp.Write(c.introduced()); err != nil {
		return c.lose(u, n == 0)
	}
	if c.streams() {
		c.back.relay.to = &u.out
		c.back.pump(u)
	} else if err := u.tcp.SetReadDeadline(time.Now().Add(c.responseTimeout())); err != nil {
		return c.lose(u, false)
	}
	return c.receive(u)
}

// receive reads responses until the final one, and sends them on.
func (c *conn) receive(u *upstream) (v verdict, keep bool) {
	for interim := 0; ; interim++ {
		head, err := u.readHead(c.srv.MaxHeaderBytes, interim == 0)
		if err != nil {
			return c.failReceive(u, err)
		}
		if err := c.resp.parse(head); err != nil {
			return c.failReceive(u, err)
		}
		switch {
		case c.resp.status == 101 && c.req.upgrade && c.req.minor == 1 && !c.streams():
			return c.tunnel(u, len(head))
		case c.resp.status == 101:
			return c.failReceive(u, malformed("the backend switched protocols unasked"))
		case c.resp.status >= 200 && c.rules != nil && c.triesAgain(u, len(head)):
			return verdictAgain, false
		case c.resp.status >= 200:
			return c.respond(u, len(head))
		case interim == maxInterim:
			return c.failReceive(u, malformed("the backend sends interim responses without end"))
		}
		if err := c.inform(); err != nil {
			return c.failReceive(u, err)
		}
		u.in.discard(len(head))
	}
}

// maxInterim is how many interim responses a request may have.
const maxInterim = 100

// inform passes on an interim response, when the client can have one: HTTP/1.0 knows none, and 100 is for those that asked.
func (c *conn) inform() error {
	if c.req.minor == 0 || c.resp.status == 100 && !c.req.expect {
		return nil
	}
	c.out.buf = append(c.resp.appendTo(c.out.buf[:0], nil, policy.Compression{}), '\r', '\n')
	return c.out.flush()
}

// failReceive ends an attempt that brought no final response.
func (c *conn) failReceive(u *upstream, err error) (v verdict, keep bool) {
	switch {
	case errors.Is(err, errEarly):
		return c.lose(u, false)
	case errors.Is(err, errNoAnswer):
		c.failure = failTimeout
	case isMalformed(err):
		c.failure = failResponse
	}
	c.drop(u)
	if c.back.gone.Load() {
		return c.leave()
	}
	if c.blameBody() {
		return verdictFailed, false
	}
	u.backend.Failed(c.srv.Now())
	if c.failure == failTimeout && c.retriesTimeouts() {
		return verdictLost, false
	}
	return verdictFailed, false
}

// lose ends an attempt whose connection ended before any byte of a response. unsent is when the backend cannot have seen the request.
func (c *conn) lose(u *upstream, unsent bool) (v verdict, keep bool) {
	c.drop(u)
	switch {
	case c.back.gone.Load():
		return c.leave()
	case c.blameBody():
		return verdictFailed, false
	case u.reused && c.back.relay.moved == 0 && (unsent || c.req.kind != methodUnsafe):
		return verdictStale, false
	}
	u.backend.Failed(c.srv.Now())
	switch {
	case c.back.relay.moved > 0:
		return verdictFailed, false
	case unsent:
		return verdictUnsent, false
	case c.req.kind != methodUnsafe:
		return verdictLost, false
	}
	return verdictFailed, false
}

// drop closes a backend's connection and takes the receive buffer back.
func (c *conn) drop(u *upstream) {
	closeQuietly(u.tcp)
	if c.streams() {
		c.back.stop()
	}
}

// leave ends a request whose client is gone.
func (c *conn) leave() (v verdict, keep bool) {
	c.answered(statusLeft)
	return verdictDone, false
}

// blameBody reports whether the attempt failed for what the client sent, or did not send.
func (c *conn) blameBody() bool {
	failed, ok := errors.AsType[*relayError](c.back.err)
	switch {
	case !ok || failed.sending || !c.back.faulty:
		return false
	case errors.Is(failed.err, errBodyTooLarge):
		c.failure = failLargeBody
	case isMalformed(failed.err):
		c.failure = failBody
	default:
		c.failure = failSlowBody
	}
	return true
}

// respond sends the final response, whose head is the next size bytes received.
func (c *conn) respond(u *upstream, size int) (v verdict, keep bool) {
	kind := c.resp.bodyKind(c.req.kind == methodHead)
	persistent := c.resp.persistent(kind)
	chunked, coding := c.beginResponse(u.backend, kind)
	u.in.discard(size)
	c.answered(c.resp.status)
	c.backendAnswered(u.backend)
	c.body = newBody(kind, c.resp.length, false)
	if err := c.clearDeadline(u); err != nil {
		c.drop(u)
		return verdictDone, false
	}
	c.down = relay{from: &u.in, to: &c.out, body: &c.body, chunked: chunked}
	if c.rules != nil {
		c.timeBody(u)
	}
	err := c.runBody(coding)
	c.back.stop()
	c.setUpstream(nil) // from here on it may be another request's
	if c.streams() {
		c.stuck = c.back.err != nil
	}
	if err != nil {
		closeQuietly(u.tcp)
		c.spoil(kind)
		return verdictDone, false
	}
	if !persistent || c.rule().Proxy != "" || c.stuck || u.in.len() > 0 || c.back.gone.Load() || c.srv.closing.Load() {
		closeQuietly(u.tcp)
	} else {
		u.backend.PutIdle(u, c.srv.Now())
	}
	if c.stuck {
		c.linger()
	}
	return verdictDone, c.reusable() && !c.closing
}

// spoil makes the end of a connection an unclean one when a cut response could be taken for whole otherwise.
func (c *conn) spoil(kind bodyKind) {
	if c.req.minor == 1 || kind != bodyChunked && kind != bodyClose {
		return
	}
	if tcp, ok := c.tcp.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // a connection it fails on is broken already
	}
}

// beginResponse collects the response's head and reports whether its body goes in chunks, and how it is compressed.
func (c *conn) beginResponse(from *pool.Backend, kind bodyKind) (chunked bool, coding policy.Coding) {
	r := &c.resp
	z := c.compression(kind)
	b := c.appendRules(c.appendSession(r.appendTo(c.out.buf[:0], c.rules, z), from), z)
	unframed := kind == bodyChunked || kind == bodyClose || z.Coding != 0
	if unframed && c.req.minor == 0 {
		c.closing = true // the end of the connection is the only end it can have
	}
	b, chunked = r.appendFraming(b, kind, c.req.minor, z.Coding != 0)
	b = c.appendConnection(appendQuota(b, &c.quota))
	c.out.buf = append(b, '\r', '\n')
	return chunked, z.Coding
}

// appendConnection tells the client whether it may send another request.
func (c *conn) appendConnection(b []byte) []byte {
	if !c.reusableAfter() {
		c.closing = true
		return append(b, "Connection: close\r\n"...)
	}
	if c.req.minor == 0 {
		return append(b, "Connection: keep-alive\r\n"...)
	}
	return b
}

// reusableAfter is whether the connection will be reusable if a body that is on its way is read to its end.
func (c *conn) reusableAfter() bool {
	if c.srv.isLast(c.served) {
		return false
	}
	if c.closing || c.req.close || c.ending() || c.stuck && !c.streams() {
		return false
	}
	return c.req.minor == 1 || c.req.keepAlive
}

// clearDeadline lets the response's body take as long as it likes.
func (c *conn) clearDeadline(u *upstream) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.responding = true
	return u.tcp.SetReadDeadline(time.Time{})
}

// awaitResponse bounds how long the response may take once a streamed body has reached its end.
func (c *conn) awaitResponse(u *upstream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.responding {
		_ = u.tcp.SetReadDeadline(time.Now().Add(c.responseTimeout())) // fails when closed, which reading will tell
	}
}
