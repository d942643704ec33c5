package http1

import (
	"bytes"
	"net/netip"
	"time"

	"vortex/internal/edge/accesslog"
	"vortex/internal/edge/policy"
	"vortex/internal/edge/pool"
)

// appendLine appends what the access log needs of a request's head.
func (r *request) appendLine(b []byte) []byte {
	agent, _ := nth(r.fields, "user-agent", 0)
	return accesslog.AppendRequest(b, r.method, r.name, r.path, agent)
}

// answer is how a request ended, for the access log.
type answer struct {
	began   int64
	took    time.Duration
	client  netip.Addr
	status  int
	bytes   int64
	app     string // of the backend
	backend *pool.Backend
	tries   int
	rules   *policy.Exchange
}

// addLine adds a request to the access log.
func (s *Server) addLine(line []byte, a *answer) {
	o := accesslog.Outcome{
		Began: s.epoch.Add(time.Duration(a.began)), Took: a.took, Client: a.client, Status: a.status, Bytes: a.bytes, Tries: a.tries,
	}
	if a.backend != nil {
		o.Backend, o.App = a.backend.Addr, a.app
	}
	if a.rules != nil {
		log := &a.rules.Rule().Log
		o.ID, o.App, o.Off, o.Sample = a.rules.ID(), a.rules.App, log.Off, log.Sample
	}
	s.Access.Add(line, o)
}

// beginLine takes what the access log needs of the request's head.
func (c *conn) beginLine() {
	if c.srv.Access == nil {
		return
	}
	c.last, c.tries, c.down.moved = nil, 0, 0
	c.from = c.clientAddr()
	c.line = c.req.appendLine(c.line[:0])
}

// endLine adds the request to the access log.
func (c *conn) endLine() {
	if c.srv.Access == nil || c.status == 0 {
		return
	}
	a := answer{
		began: c.began, took: time.Duration(c.srv.Now() - c.began), client: c.from, status: c.status, bytes: c.down.moved,
		backend: c.last, tries: c.tries, rules: c.rules,
	}
	if c.pool != nil {
		a.app = c.pool.App
	}
	c.srv.addLine(c.line, &a)
}

// logRefused adds a head that was refused to the access log, with what is known of it.
func (c *conn) logRefused() {
	if c.srv.Access == nil {
		return
	}
	agent, _ := nth(c.req.fields, "user-agent", 0)
	host := c.req.name
	if len(host) == 0 {
		host, _ = nth(c.req.fields, "host", 0)
	}
	path, _, _ := bytes.Cut(c.req.target, []byte("?"))
	c.line = accesslog.AppendRequest(c.line[:0], c.req.method, host, path, agent)
	c.last, c.tries, c.from = nil, 0, c.peer
	c.endLine()
}
