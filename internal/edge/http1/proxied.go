package http1

import (
	"errors"
	"net/http"
	"os"
	"time"

	"vortex"
	"vortex/internal/edge/proxyproto"
)

// beginProxied begins a connection of a trusted proxy, which says first who its client is. It reports whether another request may follow.
func (c *conn) beginProxied() bool {
	if err := c.readProxied(); err != nil {
		c.began = c.srv.Now()
		return c.refuse(err)
	}
	if !c.count() {
		c.closing, c.stuck = true, true
		c.prepareCrowded()
		return c.sendAnswer()
	}
	if c.in.len() == 0 && !c.ending() && c.goHome() {
		return false
	}
	return c.serveNext()
}

// readProxied takes the header of the PROXY protocol. From there on the client is the one that it names, and is trusted as that one is.
func (c *conn) readProxied() error {
	if err := c.awaitFirstByte(); err != nil {
		return err
	}
	if c.tcp.SetReadDeadline(time.Now().Add(c.srv.HeaderTimeout)) != nil {
		return errLeft
	}
	for {
		h, size, err := proxyproto.Parse(c.in.buffered())
		switch {
		case err == nil:
			c.in.discard(size)
			c.believe(h)
			return nil
		case errors.Is(err, proxyproto.ErrShort):
		case errors.Is(err, proxyproto.ErrNone) && c.listener.settings.Load().AcceptProxy == vortex.ProxyAcceptanceOptional:
			return nil
		default:
			return proxiedError{err}
		}
		switch err := c.in.fill(max(c.srv.MaxHeaderBytes, proxyproto.MaxHeader)); {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			return errSlow
		default:
			return errLeft
		}
	}
}

// believe takes over who the client is. A proxy that speaks for itself is its own client.
func (c *conn) believe(h proxyproto.Header) {
	if !h.Local && h.Transport == proxyproto.TCP {
		c.peer = h.Source.Addr().Unmap()
	}
}

// proxiedError is a beginning that is no header of the PROXY protocol where one must be.
type proxiedError struct{ error }

// prepareStranger collects the answer to a client that is no trusted proxy, where nobody else is served.
func (c *conn) prepareStranger() {
	c.prepare(http.StatusForbidden, problem{
		Error: "only trusted proxies that speak the PROXY protocol are served here", Code: "FORBIDDEN",
		Details: "Ask the proxy before this address instead.",
	}, "")
}
