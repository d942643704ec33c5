package http1

import (
	"net/netip"
	"slices"
	"sync/atomic"

	"vortex"
)

// Listener is what holds for the connections that come in at one place. Use NewListener. It may be changed while they are served.
type Listener struct {
	settings atomic.Pointer[ListenerSettings]
	closed   atomic.Bool
}

// ListenerSettings are what may change about a Listener.
type ListenerSettings struct {
	Name    string         // what routes call it
	Trusted []netip.Prefix // proxies before it, whose X-Forwarded-For is believed
	// AcceptProxy says whether trusted proxies may, or must, begin with a header of the PROXY protocol; "" is not. When they must, nobody
	// else is served.
	AcceptProxy vortex.ProxyAcceptance
}

// NewListener returns a Listener with its settings.
func NewListener(s ListenerSettings) *Listener {
	l := &Listener{}
	l.Set(s)
	return l
}

// Set changes the settings. They hold for connections that are open, but for what those have said already.
func (l *Listener) Set(s ListenerSettings) { l.settings.Store(&s) }

// Name is what routes call the listener.
func (l *Listener) Name() string { return l.settings.Load().Name }

func (l *Listener) trusts(a netip.Addr) bool { return l.settings.Load().trusts(a) }

func (s *ListenerSettings) trusts(a netip.Addr) bool {
	return slices.ContainsFunc(s.Trusted, func(p netip.Prefix) bool { return p.Contains(a) })
}

// greeting is how a connection begins.
type greeting uint8

const (
	greetsNot     greeting = iota // with a request
	greetsProxied                 // with what a trusted proxy says about its client
	greetsWrongly                 // not at all: it is no proxy's, and others are not served
)

// greets tells how a connection from an address begins.
func (l *Listener) greets(a netip.Addr) greeting {
	s := l.settings.Load()
	switch {
	case s.AcceptProxy == "":
		return greetsNot
	case s.trusts(a):
		return greetsProxied
	case s.AcceptProxy == vortex.ProxyAcceptanceRequired:
		return greetsWrongly
	}
	return greetsNot
}

// retire ends the connections that came in at a listener as soon as no request is on them.
func (s *Server) retire(l *Listener) {
	l.closed.Store(true)
	s.lanes.retire(l)
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if c.listener == l {
			c.retire()
		}
	}
}
