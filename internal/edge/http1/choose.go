package http1

import "vortex/internal/edge/pool"

// ask gathers what the request says about which backend should answer it. The head is gone when one is picked.
func (c *conn) ask(p *pool.Pool) pool.Want {
	ask := p.Ask()
	if ask.Hashes() {
		ask.Client(c.clientAddr())
	}
	if ask.Reads() {
		for i := range c.req.fields {
			ask.Field(c.req.fields[i].name, c.req.fields[i].value)
		}
	}
	return ask.Want()
}

// appendSession appends the cookie that keeps the client at the backend which answers.
func (c *conn) appendSession(b []byte, from *pool.Backend) []byte {
	return c.pool.AppendCookie(b, c.want, from, c.fw.secure)
}
