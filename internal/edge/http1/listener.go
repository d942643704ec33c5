package http1

import (
	"net/netip"
	"sync/atomic"
)

// Listener is what holds for the connections that come in at one place. Use NewListener. It may be changed while they are served.
type Listener struct {
	settings atomic.Pointer[listenerSettings]
	closed   atomic.Bool
}

type listenerSettings struct {
	name    string
	trusted []netip.Prefix
}

// NewListener returns a Listener with its settings, as Set takes them.
func NewListener(name string, trusted []netip.Prefix) *Listener {
	l := &Listener{}
	l.Set(name, trusted)
	return l
}

// Set changes the name that routes know the listener by, and the proxies before it whose X-Forwarded-For is believed.
func (l *Listener) Set(name string, trusted []netip.Prefix) {
	l.settings.Store(&listenerSettings{name, trusted})
}

// Name is what routes call the listener.
func (l *Listener) Name() string { return l.settings.Load().name }

func (l *Listener) trusts(a netip.Addr) bool {
	for _, prefix := range l.settings.Load().trusted {
		if prefix.Contains(a) {
			return true
		}
	}
	return false
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
