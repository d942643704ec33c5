package http1

import (
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"vortex"
	"vortex/internal/edge/limit"
	"vortex/internal/edge/policy"
	"vortex/internal/edge/route"
)

// maxTurned is how many connections are told at once why they are turned away. More are closed without a word.
const maxTurned = 64

// admit lets a connection in, or refuses and closes it. One that begins with the PROXY protocol is counted when it has said who its client is.
func (s *Server) admit(c *conn) bool {
	switch c.listener.greets(c.peer) {
	case greetsProxied:
		c.first = (*conn).beginProxied
		return true
	case greetsWrongly:
		s.turnAway(c, (*conn).prepareStranger)
		return false
	case greetsNot:
	}
	if c.count() {
		return true
	}
	s.turnAway(c, (*conn).prepareCrowded)
	return false
}

// count counts a connection for its client's address, and reports false when that has as many as it may. Proxies that are trusted stand for many
// clients and are not counted.
func (c *conn) count() bool {
	if c.listener.trusts(c.peer) {
		return true
	}
	if c.counted = c.srv.crowds.Enter(limit.Address(c.peer)); !c.counted {
		c.srv.Meters.Limited()
	}
	return c.counted
}

// turnAway closes a connection that is not served, and says why where it can.
func (s *Server) turnAway(c *conn, prepare func(*conn)) {
	if s.turned.Add(1) > maxTurned {
		s.turned.Add(-1)
		closeQuietly(c.tcp)
		return
	}
	go func() {
		defer s.turned.Add(-1)
		defer closeQuietly(c.tcp)
		c.closing, c.began = true, s.Now()
		prepare(c)
		c.logRefused()
		c.tell()
	}()
}

// dismiss counts off a connection that was let in.
func (s *Server) dismiss(c *conn) {
	if c.counted {
		s.crowds.Leave(limit.Address(c.peer))
	}
}

// prepareCrowded collects the answer to a client with too many connections.
func (c *conn) prepareCrowded() {
	c.prepare(http.StatusTooManyRequests, problem{
		Error: "too many connections from your address", Code: codeRateLimit,
		Details: fmt.Sprintf("At most %d at once are served; close some, or use them for more than one request.", c.srv.limits.Load().MaxClientConns),
	}, "Retry-After: 1\r\n")
}

// tell sends what was prepared to a client that is not served.
func (c *conn) tell() {
	if c.tcp.SetDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	if c.out.flush() == nil {
		c.linger()
	}
}

// isLast reports whether no request may follow so many on a connection.
func (s *Server) isLast(served int) bool {
	most := s.limits.Load().MaxRequests
	return most > 0 && served >= most
}

// codeRateLimit is the API's code for what was asked for too often.
const codeRateLimit = "RATE_LIMIT_EXCEEDED"

// withinLimit counts the request for its client's address.
func (c *conn) withinLimit() (v limit.Verdict, ok bool) {
	r := c.srv.Limit
	if r == nil {
		return v, true
	}
	v = r.Allow(limit.Address(c.clientAddr()), c.srv.unix(c.began))
	return v, v.OK
}

// withinRates counts the request for each of its route's rates, and for none of them when one refuses it. What is left of the tightest is
// kept for the response's header.
func (c *conn) withinRates(m route.Match, path []byte) (ok bool) {
	if len(m.Rates) == 0 {
		return true
	}
	c.quota, ok = asker{&c.req, path[m.Strip:], c.clientAddr(), c.srv.unix(c.began)}.within(m.Rates)
	return ok
}

// asker is a request as rates count it.
type asker struct {
	head   *request
	path   []byte // as the app sees it
	client netip.Addr
	now    int64 // in nanoseconds since 1970
}

// within counts the request for each of its route's rates, and for none of them when one refuses it. It returns what is left of the tightest, or
// what the one that refuses says.
func (a asker) within(rates []route.Rate) (quota limit.Verdict, ok bool) {
	for i := range rates {
		r := &rates[i]
		if !r.Counts(a.path, a.head) {
			continue
		}
		v := r.Rule.Allow(a.key(r), a.now)
		if v.OK {
			if v.Tighter(quota) {
				quota = v
			}
			continue
		}
		for j := range rates[:i] {
			if before := &rates[j]; before.Counts(a.path, a.head) {
				before.Rule.Return(a.key(before), a.now)
			}
		}
		return v, false
	}
	return quota, true
}

// key is who the request counts for. One without the header that is asked for counts for its client's address.
func (a asker) key(r *route.Rate) limit.Key {
	switch r.Per {
	case vortex.RateKeyRoute:
		return limit.Key{}
	case vortex.RateKeyHeader:
		if value, ok := a.head.Field(r.Header, 0); ok {
			return limit.Value(value)
		}
	case vortex.RateKeyClient:
	}
	return limit.Address(a.client)
}

// overRate refuses a request that its route's rates do not allow.
func overRate(quota limit.Verdict) policy.Answer {
	seconds := ceilSeconds(quota.Retry)
	return policy.Answer{
		Status: http.StatusTooManyRequests, Error: "too many requests", Code: codeRateLimit,
		Details: fmt.Sprintf("At most %d in %v are answered. Try again in %d seconds.", quota.Limit, quota.Window, seconds),
		Fields:  fmt.Sprintf("Retry-After: %d\r\n", seconds) + string(appendQuota(nil, &quota)),
	}
}

// appendQuota tells the client what is left of the route's rates, in the fields of draft-ietf-httpapi-ratelimit-headers.
func appendQuota(b []byte, quota *limit.Verdict) []byte {
	if quota.Limit == 0 {
		return b
	}
	b = append(b, "RateLimit-Limit: "...)
	b = appendInt(b, int64(quota.Limit))
	b = append(b, "\r\nRateLimit-Remaining: "...)
	b = appendInt(b, int64(quota.Remaining))
	b = append(b, "\r\nRateLimit-Reset: "...)
	b = appendInt(b, ceilSeconds(quota.Reset))
	b = append(b, "\r\nRateLimit-Policy: "...)
	b = appendInt(b, int64(quota.Limit))
	b = append(b, ";w="...)
	b = appendInt(b, ceilSeconds(quota.Window))
	return append(b, '\r', '\n')
}

func ceilSeconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

// awaitBody bounds the next wait for the client's body: it must go on, and come at a rate on the whole. A large body of known length is moved in
// pieces, each of which must come in time. Once the response has begun, the two sides may be talking.
func (b *background) awaitBody() error {
	limits := b.conn.srv.limits.Load()
	patience := b.conn.srv.BodyTimeout
	if b.relay.moved > 0 && b.from.IsZero() {
		b.from = time.Now()
	}
	if limits.MinBodyRate > 0 && !b.from.IsZero() && !b.relay.bulky() && !b.conn.isResponding() {
		due := max(limits.BodyGrace, 0) + time.Duration(float64(b.relay.moved)/float64(limits.MinBodyRate)*float64(time.Second))
		patience = min(patience, max(due-time.Since(b.from), time.Nanosecond))
	}
	return b.deadline(patience)
}

func (c *conn) isResponding() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.responding
}
