package http1

import (
	"io"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"vortex/internal/edge/policy"
	"vortex/internal/edge/pool"
	"vortex/internal/edge/uring"
)

// backendConn is a lane's connection to a backend. It always waits for what comes, so that an idle one which the backend closes is
// known at once.
type backendConn struct {
	socket

	backend  *pool.Backend
	client   *client // whose request it carries; nil while idle
	address  uring.Address
	in       []byte // received and not used: the beginning of a head, or of a chunk's
	reused   bool   // it has carried a request before
	joined   bool   // it is connected
	taken    uint64 // the round in which its request was written
	lasting  bool   // the backend lets the connection be used again
	orphaned []byte // a request on its way whose client has gone
}

// laneMaxIdle is how many idle connections a lane keeps with one backend, and laneIdleAge for how long.
const (
	laneMaxIdle = 128
	laneIdleAge = 60 * time.Second
)

// takeIdle returns the idle connection used last, or nil.
func (l *lane) takeIdle(b *pool.Backend) *backendConn {
	list := l.idle[b]
	if len(list) == 0 {
		return nil
	}
	u := list[len(list)-1]
	list[len(list)-1] = nil
	l.idle[b] = list[:len(list)-1]
	u.reused = true
	return u
}

// putIdle keeps a connection for later.
func (l *lane) putIdle(u *backendConn) {
	list := l.idle[u.backend]
	if len(list) >= laneMaxIdle || u.backend.Removed() || l.srv.closing.Load() {
		u.close()
		return
	}
	l.idle[u.backend] = append(list, u)
	u.expire(laneIdleAge)
	l.lookBy(l.now + removedEvery)
	u.receive(true)
}

// dropIdle forgets an idle connection and closes it.
func (l *lane) dropIdle(u *backendConn) {
	list := l.idle[u.backend]
	if i := slices.Index(list, u); i >= 0 {
		l.idle[u.backend] = slices.Delete(list, i, i+1)
	}
	u.close()
}

// removedEvery is how often it is looked whether backends of idle connections were removed.
const removedEvery = int64(time.Second)

// dropRemoved closes the idle connections with backends that nobody names any more.
func (l *lane) dropRemoved() {
	for b, list := range l.idle {
		if len(list) > 0 && !b.Removed() {
			l.lookBy(l.now + removedEvery)
			continue
		}
		delete(l.idle, b)
		for _, u := range list {
			u.close()
		}
	}
}

// dial connects for a client's request.
func (l *lane) dial(c *client) {
	u := &backendConn{backend: c.backend, client: c, address: uring.AddressOf(c.backend.Addr)}
	fd, err := unix.Socket(u.address.Family(), unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		c.unsent(err)
		return
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // slower without, no more
	l.open(&u.socket, fd, u)
	c.up = u
	u.underway++
	if c.rules == nil {
		u.expire(l.srv.ConnectTimeout)
	} else {
		u.expireSoon(c.connectTimeout())
	}
	l.ring.Connect(fd, &u.address, u.user(opConnect))
}

// connected implements owner.
func (u *backendConn) connected(err error) {
	if err != nil {
		u.client.unsent(err)
		return
	}
	u.joined = true
	u.receive(true)
	u.request()
}

// request sends the client's request.
func (u *backendConn) request() {
	u.taken = u.lane.round
	if c := u.client; c.rules == nil {
		u.expire(u.lane.srv.ResponseTimeout)
	} else {
		u.expireSoon(c.responseTimeout())
	}
	u.send(u.client.request)
}

// sent implements owner.
func (u *backendConn) sent(err error) {
	if c := u.client; err != nil && c != nil && !c.answering {
		c.unwritten(u.reused)
	}
}

// released implements owner.
func (u *backendConn) released() {
	u.lane.giveBack(u.orphaned)
	u.orphaned = nil
}

// expired implements owner.
func (u *backendConn) expired() {
	c := u.client
	switch {
	case c == nil:
		u.lane.dropIdle(u)
	case !u.joined:
		c.unsent(unix.ETIMEDOUT)
	case c.answering:
		c.abandon()
	default:
		c.late()
	}
}

// received implements owner.
func (u *backendConn) received(data []byte, err error) {
	c := u.client
	switch {
	case c == nil: // nobody has asked for anything
		u.lane.dropIdle(u)
	case u.taken == u.lane.round && u.reused: // it was there before the request went out
		c.lost(true)
	case len(data) == 0:
		c.ended(u, err)
	case len(u.in) > 0:
		u.in = append(u.in, data...)
		c.answer(u, u.in)
	default:
		c.answer(u, data)
	}
}

// keep keeps what cannot be used yet, which may be a part of in.
func (u *backendConn) keep(rest []byte) {
	if len(rest) == 0 {
		u.in = nil
		return
	}
	u.in = append(u.in[:0], rest...)
}

// ended takes in that the backend's side has ended.
func (c *client) ended(u *backendConn, err error) {
	switch {
	case !c.answering && len(u.in) == 0:
		c.lost(u.reused)
	case !c.answering:
		c.fail(failConnection)
	case c.body.kind == bodyClose && err == nil:
		u.lasting = false
		c.complete = true
		c.out = c.appendEnd(c.outBuffer())
		c.passOn(u)
	default:
		c.abandon() // the client sees by the framing that the answer is not whole
	}
}

func (c *client) outBuffer() []byte {
	if c.out == nil {
		c.out = c.lane.buffer()
	}
	return c.out
}

// answer takes in what the backend answers; buf is valid until it returns.
func (c *client) answer(u *backendConn, buf []byte) {
	for !c.answering {
		end := headEnd(buf, 0)
		if end < 0 {
			c.awaitMore(u, buf)
			return
		}
		r := &c.lane.resp
		if r.parse(buf[:end]) != nil || r.status == 101 {
			c.fail(failResponse)
			return
		}
		if r.status < 200 {
			if c.interim++; c.interim > maxInterim {
				c.fail(failResponse)
				return
			}
			if r.status != 100 { // which is for those that asked
				c.out = append(r.appendTo(c.outBuffer(), nil, policy.Compression{}), '\r', '\n')
			}
		} else {
			if c.rules != nil && c.triesAgain(r) {
				return
			}
			c.beginAnswer(u, r)
		}
		buf = buf[end:]
	}
	c.relay(u, buf)
}

// awaitMore waits for the rest of a head.
func (c *client) awaitMore(u *backendConn, buf []byte) {
	if len(buf) > c.lane.srv.MaxHeaderBytes || len(c.out) > c.lane.srv.MaxHeaderBytes {
		c.fail(failResponse)
		return
	}
	u.keep(buf)
	if len(c.out) > 0 {
		c.flush()
		return
	}
	u.receive(false)
}

// beginAnswer collects the final response's head.
func (c *client) beginAnswer(u *backendConn, r *response) {
	l := c.lane
	kind := r.bodyKind(c.kind == methodHead)
	u.lasting = r.persistent(kind)
	u.deadline = 0
	c.last = c.last || c.halved || l.ending(c.listener)
	b := c.pool.AppendCookie(r.appendTo(c.outBuffer(), c.rules, policy.Compression{}), c.want, u.backend, false)
	if c.rules != nil {
		b = c.rules.AppendResponse(c.rules.Compress(r.status, r.length, r).AppendTo(b, r))
	}
	b, c.chunked = r.appendFraming(b, kind, 1, false)
	if c.extra != nil {
		b = appendQuota(b, &c.extra.quota)
	}
	if c.last {
		b = append(b, "Connection: close\r\n"...)
	}
	c.out = append(b, '\r', '\n')
	c.answering = true
	c.body = newBody(kind, r.length, false)
	c.answered(r.status)
	u.backend.Served(l.now, r.status)
	u.backend.Took(r.status, time.Duration(l.now-c.began))
}

// relay passes on what has come of the body.
func (c *client) relay(u *backendConn, buf []byte) {
	in := &c.lane.in
	*in = reader{buf: buf, w: len(buf)}
	out := c.outBuffer()
	for {
		data, err := c.body.step(in)
		if err == io.EOF { //nolint:errorlint // step returns it bare
			c.complete = true
			out = c.appendEnd(out)
			u.lasting = u.lasting && in.len() == 0
			break
		}
		if err != nil {
			c.out = out
			c.abandon()
			return
		}
		if len(data) == 0 {
			break
		}
		out = c.appendPiece(out, data)
		if c.extra != nil {
			c.extra.bytes += int64(len(data))
		}
		in.discard(len(data))
	}
	c.out = out
	u.keep(in.buffered())
	if len(out) == 0 {
		c.awaitBody(u)
		return
	}
	c.passOn(u)
}

// passOn sends what was collected. After the last of it the backend's connection is free.
func (c *client) passOn(u *backendConn) {
	u.deadline = 0 // the client may take its time
	if c.complete {
		c.up, u.client = nil, nil
		if u.lasting && u.underway == 0 {
			u.in = nil
			c.lane.putIdle(u)
		} else {
			u.orphaned = c.request
			c.request = nil
			u.close()
		}
	}
	c.flush()
}

func (c *client) appendPiece(b, data []byte) []byte {
	if !c.chunked {
		return append(b, data...)
	}
	b = strconv.AppendInt(b, int64(len(data)), 16)
	b = append(b, '\r', '\n')
	b = append(b, data...)
	return append(b, '\r', '\n')
}

func (c *client) appendEnd(b []byte) []byte {
	if !c.chunked {
		return b
	}
	b = append(b, "0\r\n"...)
	b = append(b, c.body.trailers...)
	return append(b, '\r', '\n')
}
