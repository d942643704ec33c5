// Package l4 is the edge's engine for TCP and UDP: it opens ports, sends each connection and each client's datagrams to a backend, and
// carries bytes both ways without looking at them.
//
// A Service is a port, or a range of them, that leads to one app. The loop of package edge tells which there are; Run
// opens and closes what that means:
//
//	s := l4.New(l4.Config{Fleet: fleet, Now: clock})
//	s.Set("db", []l4.Service{{App: "db", First: 5432, Last: 5432, Endpoints: endpoints}})
//	err := s.Run(ctx)
//
// It guarantees:
//   - a port that cannot be opened is told once, tried again, and disturbs no other; one that goes away keeps its connections;
//   - each side's end of sending is passed on by itself, and so is a reset;
//   - a connection is counted in flight on its backend from before it is chosen until both sides have ended, and a UDP session
//     until it was silent for long enough;
//   - memory per connection does not grow with what it carries, and UDP sessions are bounded.
//
// TLS is passed through, never ended: of a connection on a port that several names share, the ClientHello is read and passed on as
// it was. It never changes a byte of what it carries, but for the PROXY protocol header it is asked to put before.
package l4

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"vortex/internal/edge/limit"
	"vortex/internal/edge/pool"
)

// Defaults of Config and Service.
const (
	DefaultConnectTimeout = 2 * time.Second
	DefaultHoldTimeout    = 5 * time.Second
	DefaultSkipDead       = time.Second
	DefaultHeadTimeout    = 10 * time.Second
	DefaultIdleTimeout    = 10 * time.Minute
	DefaultSessionTimeout = time.Minute
	DefaultMaxSessions    = 10_000
	DefaultRetryOpen      = 5 * time.Second
)

// Config of a Server. Zero values are the defaults above.
type Config struct {
	Fleet   *pool.Fleet    // required
	Now     func() int64   // required: the engine's clock, in nanoseconds
	Host    string         // the address to listen on; "" is every address
	Trusted []netip.Prefix // proxies before the edge, whose PROXY protocol is believed
	Limiter *limit.Rule    // of connections and UDP sessions per client address; nil is no limit
	Log     *slog.Logger   // nil discards

	MaxConnections int           // TCP connections at the same time; 0 is no limit
	HoldTimeout    time.Duration // a connection waits this long for a backend; negative is not at all
	SkipDead       time.Duration // a backend that refused a connection is left out this long
	HeadTimeout    time.Duration // a client may take this long for a PROXY header or ClientHello that decides where it goes
	RetryOpen      time.Duration // between two tries to open a port that could not be

	Failed    func(Failure)    // called once for a port that cannot be opened; must not block; nil is nothing
	Contested func(Contest)    // called once for every claim that two apps begin to share; must not block; nil is nothing
	Opened    func(PortStatus) // called for every port that was opened; must not block; nil is nothing
}

func (c *Config) setDefaults() {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	setDefault(&c.HoldTimeout, DefaultHoldTimeout)
	setDefault(&c.SkipDead, DefaultSkipDead)
	setDefault(&c.HeadTimeout, DefaultHeadTimeout)
	setDefault(&c.RetryOpen, DefaultRetryOpen)
	if c.Failed == nil {
		c.Failed = func(Failure) {}
	}
	if c.Contested == nil {
		c.Contested = func(Contest) {}
	}
	if c.Opened == nil {
		c.Opened = func(PortStatus) {}
	}
}

func setDefault[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

// Failure is a port that could not be opened.
type Failure struct {
	App      string
	Protocol Protocol
	Port     uint16
	Err      error
}

// Contest is a port, and a server name of it, that two apps claim. The one whose name comes first keeps it.
type Contest struct {
	Protocol      Protocol
	Port          uint16
	Name          string // "" is every name
	Winner, Loser string
}

// Server opens ports and serves them. Use New.
type Server struct {
	Config

	dirty chan struct{} // one slot: what is wanted may differ from what is open

	mu       sync.Mutex
	apps     map[string][]*service
	ports    map[portKey]*port
	contests map[Contest]bool
	backends map[backendKey]*Traffic

	tcp     connSet
	udp     *udpEngine
	closing atomic.Bool
}

// New returns a Server that opens nothing before Run.
func New(c Config) *Server {
	c.setDefaults()
	return &Server{
		Config: c, dirty: make(chan struct{}, 1),
		apps: map[string][]*service{}, ports: map[portKey]*port{},
		contests: map[Contest]bool{}, backends: map[backendKey]*Traffic{},
		udp: newUDPEngine(c.Now),
	}
}

// Set takes in what an app has of ports; none is no more. When it returns, connections no longer go to backends that the services
// do not name.
func (s *Server) Set(app string, services []Service) {
	s.mu.Lock()
	s.set(app, services)
	s.plan()
	s.mu.Unlock()
	s.wake()
}

// Reset takes in the services of all apps: one that is not named has none.
func (s *Server) Reset(apps map[string][]Service) {
	s.mu.Lock()
	for app := range s.apps {
		if len(apps[app]) == 0 {
			s.set(app, nil)
		}
	}
	for app, services := range apps {
		s.set(app, services)
	}
	s.plan()
	s.mu.Unlock()
	s.wake()
}

func (s *Server) wake() {
	select {
	case s.dirty <- struct{}{}:
	default:
	}
}

// set brings an app's pools up to its services.
func (s *Server) set(app string, services []Service) {
	old := s.apps[app]
	next := make([]*service, 0, len(services))
	for _, want := range services {
		i := slices.IndexFunc(old, func(o *service) bool { return o.sameShape(&want) })
		var svc *service
		if i >= 0 {
			svc = old[i].with(want)
			old = slices.Delete(slices.Clone(old), i, i+1)
		} else {
			svc = s.newService(want)
		}
		svc.fill(s.Fleet)
		next = append(next, svc)
	}
	for _, gone := range old {
		gone.Endpoints = nil
		gone.fill(s.Fleet)
	}
	if len(next) == 0 {
		delete(s.apps, app)
	} else {
		s.apps[app] = next
	}
	s.forgetBackends(app)
}

// plan brings the routes of every port up to the services.
func (s *Server) plan() {
	claims := map[portKey][]target{}
	for _, app := range slices.Sorted(maps.Keys(s.apps)) {
		for _, svc := range s.apps[app] {
			for i := range svc.size() {
				key := portKey{svc.Protocol, svc.First + uint16(i), cmp.Or(svc.Host, s.Host)}
				claims[key] = append(claims[key], target{svc, svc.poolAt(i)})
			}
		}
	}
	found := map[Contest]bool{}
	for key, list := range claims {
		p := s.ports[key]
		if p == nil {
			p = &port{portKey: key, server: s}
			s.ports[key] = p
		}
		routes := buildRoutes(list, func(winner, loser, name string) {
			found[Contest{key.Protocol, key.Number, name, winner, loser}] = true
		})
		routes.head = s.HeadTimeout
		for _, t := range list {
			if trusted := t.service.Trusted; trusted != nil {
				routes.trusted = append(routes.trusted, trusted...)
			} else {
				routes.trusted = append(routes.trusted, s.Trusted...)
			}
		}
		p.app = list[0].service.App
		p.routes.Store(routes)
	}
	for key, p := range s.ports {
		if claims[key] == nil {
			p.routes.Store(nil)
		}
	}
	for c := range found {
		if !s.contests[c] {
			s.Contested(c)
		}
	}
	s.contests = found
}

// Held returns the connections to an app that wait for a backend of the services' own pools.
func (s *Server) Held(app string) (n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, svc := range s.apps[app] {
		for _, p := range svc.pools {
			if p != svc.Pool {
				n += p.Held()
			}
		}
	}
	return n
}

// Run opens and closes ports as they are wanted, until ctx ends. Connections go on: Shutdown waits for them.
func (s *Server) Run(ctx context.Context) error {
	var serving sync.WaitGroup
	serving.Go(func() { s.sweep(ctx) })
	for {
		retry := s.reconcile(ctx, &serving)
		select {
		case <-ctx.Done():
			s.closing.Store(true)
			s.closePorts()
			serving.Wait()
			return nil
		case <-s.dirty:
		case <-retry:
		}
	}
}

// reconcile closes the ports nobody wants and opens those that are not open. The channel is ready when one that could not be
// should be tried again.
func (s *Server) reconcile(ctx context.Context, serving *sync.WaitGroup) <-chan time.Time {
	s.mu.Lock()
	var unwanted, closed []*port
	for key, p := range s.ports {
		switch {
		case p.routes.Load() == nil:
			unwanted = append(unwanted, p)
			delete(s.ports, key)
		case !p.open:
			closed = append(closed, p)
		}
	}
	s.mu.Unlock()
	for _, p := range unwanted {
		p.close()
	}
	slices.SortFunc(closed, func(a, b *port) int { return a.compare(b.portKey) })
	failed := false
	for _, p := range closed {
		err := p.listen(ctx, serving)
		failed = failed || err != nil
		s.tell(ctx, p, err)
	}
	if !failed {
		return nil
	}
	return time.After(s.RetryOpen)
}

// tell says once that a port could not be opened, and that it could be at last.
func (s *Server) tell(ctx context.Context, p *port, err error) {
	s.mu.Lock()
	before, app := p.err, p.app
	p.open, p.err = err == nil, err
	status := p.status()
	s.mu.Unlock()
	switch {
	case err == nil:
		s.Log.InfoContext(ctx, "Port opened", "app", app, "protocol", p.Protocol.String(), "port", p.Number)
		s.Opened(status)
	case before == nil:
		s.Log.WarnContext(ctx, "Port not opened", "app", app, "protocol", p.Protocol.String(), "port", p.Number, "err", err)
		s.Failed(Failure{App: app, Protocol: p.Protocol, Port: p.Number, Err: err})
	}
}

// closePorts stops accepting everywhere.
func (s *Server) closePorts() {
	s.mu.Lock()
	open := slices.Collect(maps.Values(s.ports))
	s.mu.Unlock()
	for _, p := range open {
		p.close()
	}
}

// quiet is for how long a connection must have carried nothing to be cut at a shutdown at once.
const quiet = 5 * time.Second

// Shutdown lets connections finish until ctx ends, then cuts what is left; those that have been silent for a while are cut at once. Run
// must have ended. It returns ctx's cause when a connection in use was cut.
func (s *Server) Shutdown(ctx context.Context) error {
	s.udp.close()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		s.tcp.cutIdle(s.Now(), quiet)
		if s.tcp.len() == 0 {
			s.tcp.wait()
			return nil
		}
		select {
		case <-ticker.C:
			continue
		case <-ctx.Done():
		}
		s.tcp.cutAll()
		s.tcp.wait()
		return context.Cause(ctx)
	}
}

// sweepInterval is how often connections are looked at for having been idle for too long.
const sweepInterval = time.Second

func (s *Server) sweep(ctx context.Context) {
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.tcp.cutIdle(s.Now(), 0)
		}
	}
}

// trusts reports whether a proxy is believed.
func (r *routes) trusts(a netip.Addr) bool {
	a = a.Unmap()
	return slices.ContainsFunc(r.trusted, func(p netip.Prefix) bool { return p.Contains(a) })
}

// PortStatus is one port as it is now.
type PortStatus struct {
	App      string // the first that claims it
	Protocol Protocol
	Host     string // "" is every address
	Port     uint16
	Open     bool
	Err      string // why it is not open
	Counts   Counts
}

// Status returns every port in order.
func (s *Server) Status() []PortStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]PortStatus, 0, len(s.ports))
	for _, p := range s.ports {
		list = append(list, p.status())
	}
	slices.SortFunc(list, func(a, b PortStatus) int {
		return portKey{a.Protocol, a.Port, a.Host}.compare(portKey{b.Protocol, b.Port, b.Host})
	})
	return list
}

// errNoBackend is a connection that found none.
var errNoBackend = errors.New("no backend took the connection")
