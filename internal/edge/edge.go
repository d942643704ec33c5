// Package edge is the load balancer: it takes in router records, sends requests to the apps' backends, and says what it sees.
//
// A Listener's engine (package http1) reads requests; package route finds the app's Route, its Pool and a Backend; package meter
// counts; package limit refuses clients that ask too often. The loop here ties them to the store: it applies router records as they
// come, publishes each app's traffic every second, and publishes which router revision is applied and which removed instances still
// have requests in flight. That last record is what lets a rollout stop an instance without losing a request. Ports of TCP
// and UDP are package l4's.
//
// It guarantees that what is served survives the store: when routers can no longer be watched, the last known ones stay
// in force, and the edge checks the backends by itself. It never starts or stops anything.
//
//	e := edge.New(edge.Config{ID: "node-1", Listen: []string{":8000"}}, routers, publisher)
//	err := e.Run(ctx)
package edge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"vortex"
	"vortex/internal/edge/accesslog"
	"vortex/internal/edge/http1"
	"vortex/internal/edge/l4"
	"vortex/internal/edge/limit"
	"vortex/internal/edge/meter"
	"vortex/internal/edge/pool"
	"vortex/internal/edge/probe"
	"vortex/internal/edge/route"
)

// Defaults of Config.
const (
	DefaultListen          = ":8000"
	DefaultShutdownTimeout = 30 * time.Second
	DefaultMetricsInterval = time.Second
)

// idleAge is for how long an idle connection to a backend is kept, and sweepInterval how often that is looked at.
const (
	idleAge       = 60 * time.Second
	sweepInterval = 15 * time.Second
)

// clientRule is the name of the limit that holds for every client address, on every edge. No app's begins like it.
const clientRule = "*"

// Config of an Edge. Zero values are defaults, except for ID.
type Config struct {
	ID      string // names this edge in vortex:edge:<id> and vortex:metrics:<app>:<id>; required
	Node    string // the node it runs on
	Zone    string // the node's; "" prefers no backends; SetZone changes it
	Address string // where it is reached, for people

	Listen    []string       // addresses for HTTP; none is DefaultListen, unless SetListeners was called before Run
	Listeners []net.Listener // served besides Listen, or instead of its default
	Limit     limit.Config   // requests per client address
	Trusted   []netip.Prefix // proxies before the edge, whose X-Forwarded-For is believed
	// AcceptProxy says whether they may, or must, begin HTTP connections with a header of the PROXY protocol; "" is not.
	AcceptProxy vortex.ProxyAcceptance

	Metrics   http.Handler     // answers GET /metrics of loopback clients when no app claims the host
	Access    *accesslog.Log   // a line for each request; Run writes it; nil is none
	Log       *slog.Logger     // nil discards; at debug it has the access log
	Away      func() bool      // reports whether the store is known not to answer; nil is never
	Contested func(Contest)    // called once for every route that two apps begin to claim; must not block; nil is nothing
	Quotas    Quotas           // other edges, to hold limits with; nil is none
	Accepting func([]net.Addr) // called once Run listens, with the addresses; nil is nothing

	PortHost           string            // the address that ports of TCP and UDP are opened on; "" is every address
	MaxPortConnections int               // TCP connections on them at the same time; 0 is no limit
	PortFailed         func(PortFailure) // called once for every port that cannot be opened; must not block; nil is nothing
	PortContested      func(PortContest) // called once for every port that two apps begin to claim; must not block; nil is nothing

	HoldTimeout     time.Duration // a request waits this long for a backend; 0 is http1.DefaultHoldTimeout, negative not at all
	MaxHeld         int           // requests of one app that wait for a backend; 0 is pool.DefaultMaxHeld
	ShutdownTimeout time.Duration // requests in flight may take this long once Run is to end; SetShutdownTimeout changes it
	Linger          time.Duration // a pool that was taken away still answers this long who was on the way to it; 0 is not at all
	MetricsInterval time.Duration // between an app's metrics records
	RenewInterval   time.Duration // after which what the edge says of itself is written again; 0 is DefaultRenewInterval

	ClientLimits ClientLimits // what clients of HTTP may do; SetClientLimits changes it
	HTTP         http1.Config // timeouts and limits of the engine; what is named above is set by New
}

// Validate returns everything that is wrong with the configuration.
func (c Config) Validate() error {
	var errs []error
	if c.ID == "" {
		errs = append(errs, errors.New("the edge has no id"))
	}
	for _, address := range c.Listen {
		if _, _, err := net.SplitHostPort(address); err != nil {
			errs = append(errs, fmt.Errorf("listen address %q: %w", address, err))
		}
	}
	return errors.Join(errs...)
}

// Edge is the loop. Use New.
type Edge struct {
	config    Config
	routers   Routers
	publisher Publisher
	log       *slog.Logger

	table   *route.Table
	meters  *meter.Set
	limiter *limit.Limiter
	clients *limit.Rule // what every client address may ask for
	server  *http1.Server
	prober  *probe.Prober
	ports   *l4.Server
	taking  sync.Mutex // held while an update is taken in
	nodes   gone

	patience  atomic.Int64 // how long requests in flight may take at the end
	synced    atomic.Bool
	advanced  atomic.Bool   // routers changed since the metrics' last round
	drained   chan struct{} // one slot: what EdgeRecord says may have changed
	demand    chan struct{} // one slot: a request waits for a backend
	shifting  chan struct{} // one slot: time changes the shares of backends
	checks    chan struct{} // one slot: what is to be checked may have changed
	unwatched atomic.Bool   // the routers cannot be watched
	published map[string]published

	listeners listeners
}

// New returns an Edge that does nothing before Run.
func New(c Config, routers Routers, publisher Publisher) *Edge {
	if c.ShutdownTimeout == 0 {
		c.ShutdownTimeout = DefaultShutdownTimeout
	}
	if c.MetricsInterval == 0 {
		c.MetricsInterval = DefaultMetricsInterval
	}
	if c.RenewInterval == 0 {
		c.RenewInterval = DefaultRenewInterval
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	e := &Edge{
		config: c, routers: routers, publisher: publisher, log: c.Log,
		meters: &meter.Set{}, limiter: limit.New(),
		drained: make(chan struct{}, 1), demand: make(chan struct{}, 1), shifting: make(chan struct{}, 1),
		checks: make(chan struct{}, 1), prober: probe.New(probe.Config{Log: c.Log}),
		published: map[string]published{},
	}
	e.SetShutdownTimeout(c.ShutdownTimeout)
	e.clients = e.limiter.Rule(clientRule, c.Limit)
	e.table = route.NewTable(route.Config{
		Limiter: e.limiter,
		Config: pool.Config{
			Meters: e.meters, MaxHeld: c.MaxHeld,
			Drained: func() { signal(e.drained) }, Held: func() { signal(e.demand) },
			Now: func() int64 { return e.server.Now() }, Panicked: e.panicked, Ejected: e.ejected,
			Zone: c.Zone, Shifting: func() { signal(e.shifting) },
		},
		Linger: c.Linger, Contested: e.contested,
		Invalid: func(app string, err error) {
			e.log.Error("Route cannot be read, it lets nothing through", "app", app, "err", err)
		},
	})
	h := c.HTTP
	h.Limits = c.ClientLimits
	h.Table, h.Meters, h.Limit, h.Metrics, h.Log, h.Trusted = e.table, e.meters, e.clients, c.Metrics, c.Log, c.Trusted
	h.Access, h.HoldTimeout = c.Access, c.HoldTimeout
	e.server = http1.New(h)
	e.ports = e.newPorts()
	return e
}

// Contest is a route that two apps claim, and which of them has it.
type Contest = route.Contest

// contested tells operators of a route that two apps claim.
func (e *Edge) contested(c Contest) {
	e.log.Warn("Route contested", "host", c.Host, "path", c.Path, "app", c.Winner, "loser", c.Loser)
	if e.config.Contested != nil {
		e.config.Contested(c)
	}
}

// signal fills a one-slot channel; one signal stands for many.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// SetShutdownTimeout changes how long requests in flight may take once Run is to end.
func (e *Edge) SetShutdownTimeout(d time.Duration) { e.patience.Store(int64(d)) }

// SetZone changes where the edge is, for pools that prefer backends of their zone.
func (e *Edge) SetZone(zone string) { e.table.SetZone(zone) }

// SetLimit changes the rate limit for every request from now on.
func (e *Edge) SetLimit(c limit.Config) { e.clients.Set(c) }

// Run serves until ctx ends, then lets requests in flight finish. It returns nil when it was told to end.
func (e *Edge) Run(ctx context.Context) error {
	if err := e.config.Validate(); err != nil {
		return err
	}
	if err := e.openConfigured(ctx); err != nil {
		return err
	}
	background, end := context.WithCancel(context.WithoutCancel(ctx)) // publishes until the last request has ended
	defer end()
	var loops sync.WaitGroup
	loops.Go(func() { e.publishDrain(background) })
	loops.Go(func() { e.publishMetrics(background) })
	loops.Go(func() { e.sweep(background) })
	loops.Go(func() { e.review(background) })
	loops.Go(func() { e.check(background) })
	loops.Go(func() { e.rebalance(background) })
	loops.Go(func() { e.watch(background) })
	if e.config.Quotas != nil {
		loops.Go(func() { e.publishQuota(background) })
		loops.Go(func() { e.watchQuotas(background) })
	}
	loops.Go(func() { e.writeAccess(background) })

	open, closePorts := context.WithCancel(ctx)
	defer closePorts()
	var ports sync.WaitGroup
	ports.Go(func() { _ = e.ports.Run(open) }) // it has no error but the end of its context

	err := e.serve(ctx)
	closePorts()
	ports.Wait()
	e.shutdown(ctx)
	end()
	loops.Wait()
	e.table.CloseIdle()
	if err != nil {
		return fmt.Errorf("serve http: %w", err)
	}
	return nil
}

// shutdown waits for requests in flight after ctx has ended.
func (e *Edge) shutdown(ctx context.Context) {
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Duration(e.patience.Load()))
	defer cancel()
	var both sync.WaitGroup
	both.Go(func() {
		if err := e.ports.Shutdown(patience); err != nil {
			e.log.WarnContext(ctx, "Connections cut at shutdown", "err", err)
		}
	})
	if err := e.server.Shutdown(patience); err != nil {
		e.log.WarnContext(ctx, "Requests cut at shutdown", "err", err)
	}
	both.Wait()
}

// writeAccess writes the access log, if there is one.
func (e *Edge) writeAccess(ctx context.Context) {
	if e.config.Access == nil {
		return
	}
	if err := e.config.Access.Run(ctx); err != nil {
		e.log.ErrorContext(ctx, "Access log not closed", "err", err)
	}
}

// sweep closes connections to backends that nobody has used for a while: a safety net, the only thing here that polls.
func (e *Edge) sweep(ctx context.Context) {
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			e.table.Sweep(e.server.Now(), idleAge)
		}
	}
}
