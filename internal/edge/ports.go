package edge

import (
	"net/netip"
	"slices"

	"vortex"
	"vortex/internal/edge/l4"
	"vortex/internal/edge/pool"
	"vortex/internal/edge/route"
)

// PortFailure is a port of TCP or UDP that could not be opened.
type PortFailure = l4.Failure

// PortContest is a port of TCP or UDP, or a server name of it, that two apps claim, and which of them has it.
type PortContest = l4.Contest

// newPorts returns the engine of TCP and UDP.
func (e *Edge) newPorts() *l4.Server {
	c := e.config
	return l4.New(l4.Config{
		Fleet: e.table.Fleet(), Now: e.server.Now, Host: c.PortHost, Trusted: c.Trusted, Log: e.log, Limiter: e.clients,
		HoldTimeout: c.HoldTimeout, MaxConnections: c.MaxPortConnections, Failed: c.PortFailed,
		Contested: func(x l4.Contest) {
			e.log.Warn("Port contested", "port", x.Port, "name", x.Name, "app", x.Winner, "loser", x.Loser)
			if c.PortContested != nil {
				c.PortContested(x)
			}
		},
	})
}

// Ports returns the ports of TCP and UDP as they are now.
func (e *Edge) Ports() []l4.PortStatus { return e.ports.Status() }

// takePorts opens and closes ports as an update says that the table has taken in.
func (e *Edge) takePorts(apps []route.App, u RouterUpdate) {
	services := make(map[string][]l4.Service, len(u.Changes))
	for _, change := range u.Changes {
		if change.Router == nil {
			services[change.App] = nil
			continue
		}
		i := slices.IndexFunc(apps, func(a route.App) bool { return a.Name == change.Router.ClientID })
		services[change.Router.ClientID] = e.services(&apps[i], change.Router)
	}
	if u.Reset {
		e.ports.Reset(services)
		return
	}
	for app, list := range services {
		e.ports.Set(app, list)
	}
}

// services translates what a router record says of ports. One that leads to where the app's requests would go shares their pool.
func (e *Edge) services(app *route.App, r *vortex.RouterRecord) []l4.Service {
	var services []l4.Service
	for i := range r.Ports {
		p := &r.Ports[i]
		if p.Port == 0 {
			continue
		}
		s := l4.Service{
			App: app.Name, Host: p.Host, First: p.Port, Last: p.LastPort(), Spread: p.ContainerEndPort != nil,
			Settings: app.Settings, Health: app.Health,
		}
		s.Settings.Sticky, s.Settings.Hash = nil, pool.HashKey{} // there are no cookies and headers
		if p.Protocol == vortex.PortProtocolUDP {
			s.Protocol = l4.UDP
		}
		primary := p.Primary != nil && *p.Primary
		if primary && !s.Spread {
			s.Pool = e.table.PoolOf(app.Name)
		}
		s.Endpoints = slices.Clone(app.Backends)
		if !primary {
			for j, b := range s.Endpoints {
				s.Endpoints[j].Addr = netip.AddrPortFrom(b.Addr.Addr(), p.ContainerPort)
			}
		}
		s.Health.Check = checkElsewhere(app, r, s.Spread)
		for _, text := range p.Trusted {
			s.Trusted = append(s.Trusted, prefixOf(text))
		}
		if p.Forward != nil {
			forward(&s, p.Forward)
		}
		services = append(services, s)
	}
	return services
}

// checkElsewhere is an app's check for the pools of its other ports: what it asks is asked where the app answers it. Of the ports of a
// range nobody may listen on most, so that what takes connections is the app's first port.
func checkElsewhere(app *route.App, r *vortex.RouterRecord, spread bool) *vortex.HealthCheck {
	check := app.Health.Check
	if check == nil && spread && takesConnections(app, r) {
		check = &vortex.HealthCheck{Protocol: vortex.ProbeProtocolTCP}
	}
	if check == nil || check.Port != nil || len(app.Backends) == 0 {
		return check
	}
	there := *check
	port := app.Backends[0].Addr.Port()
	there.Port = &port
	return &there
}

// takesConnections reports whether there is TCP where an app's backends are.
func takesConnections(app *route.App, r *vortex.RouterRecord) bool {
	return app.HTTP || slices.ContainsFunc(r.Ports, func(p vortex.RouterPort) bool {
		return p.Primary != nil && *p.Primary && p.Protocol != vortex.PortProtocolUDP
	})
}

// pools returns every pool with backends to judge: the table's, and those of ports that have their own.
func (e *Edge) pools() []*pool.Pool {
	pools := e.table.Pools()
	own, _ := e.ports.Pools()
	for _, p := range own {
		pools = append(pools, p.Pool)
	}
	return pools
}

// silent returns the pools of which nobody can be asked whether they take connections: those where only UDP leads, and ports of
// a range.
func (e *Edge) silent() map[*pool.Pool]bool {
	own, others := e.ports.Pools()
	silent, asked := map[*pool.Pool]bool{}, map[*pool.Pool]bool{}
	for _, p := range slices.Concat(own, others) {
		if p.Protocol == l4.UDP || p.Spread {
			silent[p.Pool] = true
		} else {
			asked[p.Pool] = true
		}
	}
	for _, app := range e.table.Apps() {
		if app.HTTP {
			asked[app.Pool] = true
		}
	}
	for p := range asked {
		delete(silent, p)
	}
	return silent
}

// prefixOf reads a prefix, or an address as the prefix of itself alone; what is neither is nobody.
func prefixOf(text string) netip.Prefix {
	if addr, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(addr, addr.BitLen())
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}
	}
	return prefix.Masked()
}

// forward translates how a port passes on what comes.
func forward(s *l4.Service, f *vortex.Forward) {
	s.Names, s.ALPN = f.ServerNames, f.Alpn
	switch f.ProxyProtocol {
	case vortex.ProxyVersionV1:
		s.SendProxy = 1
	case vortex.ProxyVersionV2:
		s.SendProxy = 2
	}
	switch f.AcceptProxyProtocol {
	case vortex.ProxyAcceptanceOptional:
		s.Accept = l4.AcceptTrusted
	case vortex.ProxyAcceptanceRequired:
		s.Accept = l4.AcceptRequired
	}
	s.ConnectTimeout, s.IdleTimeout = seconds(f.ConnectTimeoutSeconds), seconds(f.IdleTimeoutSeconds)
	if f.MaxSessions != nil {
		s.MaxSessions = int(*f.MaxSessions)
	}
}

// held returns the requests and connections to an app that wait for a backend.
func (e *Edge) held(p *pool.Pool) int64 { return p.Held() + e.ports.Held(p.App) }
