package http1

import (
	"time"

	"vortex/internal/edge/accesslog"
)

// beginLine takes what the access log needs of the request's head.
func (c *conn) beginLine() {
	if c.srv.Access == nil {
		return
	}
	c.last, c.tries, c.down.moved = nil, 0, 0
	c.from = c.clientAddr()
	agent, _ := nth(c.req.fields, "user-agent", 0)
	c.line = accesslog.AppendRequest(c.line[:0], c.req.method, c.req.name, c.req.path, agent)
}

// endLine adds the request to the access log.
func (c *conn) endLine() {
	if c.srv.Access == nil || c.status == 0 {
		return
	}
	took := time.Duration(c.srv.Now() - c.began)
	o := accesslog.Outcome{
		Began: c.srv.epoch.Add(time.Duration(c.began)), Took: took, Client: c.from, Status: c.status, Bytes: c.down.moved, Tries: c.tries,
	}
	if c.last != nil {
		o.Backend, o.App = c.last.Addr, c.pool.App
	}
	if c.rules != nil {
		log := &c.rules.Rule().Log
		o.ID, o.App, o.Off, o.Sample = c.rules.ID(), c.rules.App, log.Off, log.Sample
	}
	c.srv.Access.Add(c.line, o)
}
