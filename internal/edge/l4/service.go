package l4

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"vortex/internal/edge/pool"
)

// Protocol is what a port speaks.
type Protocol byte

// The protocols.
const (
	TCP Protocol = iota
	UDP
)

// String returns the protocol as people write it.
func (p Protocol) String() string {
	if p == UDP {
		return "udp"
	}
	return "tcp"
}

// Acceptance says what a port makes of the PROXY protocol before a connection.
type Acceptance byte

const (
	// AcceptNever takes every byte as the client's own.
	AcceptNever Acceptance = iota
	// AcceptTrusted expects a header from trusted proxies, and takes every byte of others as their own.
	AcceptTrusted
	// AcceptRequired refuses everybody but trusted proxies, and those without a header.
	AcceptRequired
)

// Service is a port of the edge, or a range of them, that leads to one app.
type Service struct {
	App         string
	Host        string // the address to listen on; "" is Config.Host
	Protocol    Protocol
	First, Last uint16 // the port, or the range
	// Spread leads each port of the range to a port of its own: the n-th to the n-th from each endpoint's on. Otherwise all
	// of them lead to the endpoints as they are.
	Spread    bool
	Settings  pool.Settings // how it balances
	Health    pool.Health   // how its backends are judged
	Endpoints []pool.Endpoint
	// Pool is where all of it leads instead of Endpoints: somebody else's, who fills it.
	Pool *pool.Pool

	// Names and ALPN are the connections it takes of a port that others take from too: those that ask for one of the names,
	// such as db.example.com or *.example.com, and offer one of the protocols. None is all.
	Names []string
	ALPN  []string

	Accept    Acceptance     // of the PROXY protocol; where services share a port the strictest counts
	Trusted   []netip.Prefix // who is believed; nil is Config.Trusted
	SendProxy int            // the version of the PROXY protocol sent to backends; 0 is none

	ConnectTimeout time.Duration // TCP; 0 is DefaultConnectTimeout
	IdleTimeout    time.Duration // nothing came either way; 0 is DefaultIdleTimeout, for UDP DefaultSessionTimeout
	MaxSessions    int           // UDP: clients per port at the same time; 0 is DefaultMaxSessions
}

// service is a Service with its pools.
type service struct {
	Service
	pools  []*pool.Pool // one, or with Spread one for each port
	waking *atomic.Bool // a backend is waited for on behalf of UDP clients
}

func (s *Server) newService(want Service) *service {
	svc := (&service{waking: &atomic.Bool{}}).with(want)
	n := 1
	if svc.Spread {
		n = svc.size()
	}
	for range n {
		if want.Pool != nil {
			break
		}
		svc.pools = append(svc.pools, s.Fleet.New(want.App))
	}
	return svc
}

// with returns the service as it is wanted now, with the pools it has.
func (s *service) with(want Service) *service {
	setDefault(&want.ConnectTimeout, DefaultConnectTimeout)
	if want.Protocol == UDP {
		setDefault(&want.IdleTimeout, DefaultSessionTimeout)
	}
	setDefault(&want.IdleTimeout, DefaultIdleTimeout)
	setDefault(&want.MaxSessions, DefaultMaxSessions)
	want.Last = max(want.Last, want.First)
	next := &service{Service: want, pools: s.pools, waking: s.waking}
	if want.Pool != nil {
		next.pools = []*pool.Pool{want.Pool}
	}
	return next
}

// wakeBackend waits for a backend as a TCP connection would, so that an app that was scaled to none is started. The datagram that asked
// is lost: clients of UDP ask again.
func (s *service) wakeBackend(server *Server, p *pool.Pool) {
	if server.HoldTimeout < 0 || !s.waking.CompareAndSwap(false, true) {
		return
	}
	go func() { // it ends with HoldTimeout
		defer s.waking.Store(false)
		if b, err := p.Hold(pool.Waiter{Tried: &pool.Tried{}, Now: server.Now}, server.HoldTimeout); err == nil {
			b.Done()
		}
	}()
}

// sameShape reports whether the pools of s are those of want.
func (s *service) sameShape(want *Service) bool {
	return s.Protocol == want.Protocol && s.First == want.First && s.Last == max(want.Last, want.First) && s.Spread == want.Spread &&
		s.Host == want.Host && (s.Pool == nil) == (want.Pool == nil) &&
		slices.Equal(s.Names, want.Names) && slices.Equal(s.ALPN, want.ALPN)
}

func (s *service) size() int { return int(s.Last) - int(s.First) + 1 }

// poolAt is the pool of the port so many above the first.
func (s *service) poolAt(offset int) *pool.Pool {
	if len(s.pools) > 1 {
		return s.pools[offset]
	}
	return s.pools[0]
}

// fill gives the pools their backends.
func (s *service) fill(fleet *pool.Fleet) {
	if s.Pool != nil {
		return
	}
	for i, p := range s.pools {
		endpoints := s.Endpoints
		if i > 0 {
			endpoints = slices.Clone(endpoints)
			for j, e := range endpoints {
				endpoints[j].Addr = netip.AddrPortFrom(e.Addr.Addr(), e.Addr.Port()+uint16(i))
			}
		}
		p.SetHealth(s.Health)
		fleet.Fill(p, s.Settings, endpoints)
	}
}

// Pool is one of the services' pools, for whoever judges backends.
type Pool struct {
	*pool.Pool

	Protocol Protocol
	Spread   bool // it is one of many ports of a range, on which nobody may listen yet
}

// Pools returns where the services lead, in the order of their apps: pools of their own, and with those that somebody else fills the whole.
func (s *Server) Pools() (own, others []Pool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, app := range slices.Sorted(maps.Keys(s.apps)) {
		for _, svc := range s.apps[app] {
			for _, p := range svc.pools {
				if svc.Pool == nil {
					own = append(own, Pool{p, svc.Protocol, svc.Spread})
				} else {
					others = append(others, Pool{p, svc.Protocol, svc.Spread})
				}
			}
		}
	}
	return own, others
}

// portKey is what a port is known by.
type portKey struct {
	Protocol Protocol
	Number   uint16
	Host     string
}

func (k portKey) compare(o portKey) int {
	return cmp.Or(cmp.Compare(k.Number, o.Number), cmp.Compare(k.Protocol, o.Protocol), cmp.Compare(k.Host, o.Host))
}
