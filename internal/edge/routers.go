package edge

import (
	"context"
	"errors"
	"iter"
	"net/netip"
	"syscall"
	"time"

	"vortex"
	"vortex/internal/edge/pool"
	"vortex/internal/edge/route"
)

// Routers is where router records come from.
type Routers interface {
	// WatchRouters yields the state, as an update with Reset, and then every change in the order of the
	// revisions, until ctx ends. An update is whole: with it applied, every change up to its Revision is, so the changes
	// of one transaction come together. A watch that has to list again yields another Reset. After an error
	// the sequence ends; the edge keeps what it has and watches again.
	WatchRouters(ctx context.Context) iter.Seq2[RouterUpdate, error]
}

// RouterUpdate brings the routers up to a revision.
type RouterUpdate struct {
	Revision uint64
	Reset    bool // Changes are the whole state: what they do not name is gone
	Changes  []RouterChange
	Nodes    []NodeChange // what became known of nodes; with Reset those that are not named are in order
}

// NodeChange is what became of a node. The backends on one that is suspected or given up get no requests from that moment on. What was sent
// to one that is given up is answered by others, where it may be sent twice, or else with 502 at once.
type NodeChange struct {
	Node  string
	Gone  bool // it is suspected or given up
	Given bool // it is given up
}

// RouterChange is what happened to one app's router record.
type RouterChange struct {
	App    string               // the client_id
	Router *vortex.RouterRecord // nil: the record was deleted

	Listeners []string // names of the listeners it is reached on; none is all
	Pool      string   // its pool's name: routers that give the same one share it, and have the same backends; "" is one of its own
	Unnamed   bool     // it is not reached by its app's name, but without hosts on every host
}

const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// watch applies router records until ctx ends. Without the store the last known ones stay in force.
func (e *Edge) watch(ctx context.Context) {
	pause := firstRetry
	for ctx.Err() == nil {
		for update, err := range e.routers.WatchRouters(ctx) {
			if err != nil {
				if ctx.Err() == nil {
					e.log.WarnContext(ctx, "Routers not watched, the last known ones stay in force", "err", err)
					e.unwatched.Store(true)
				}
				break
			}
			pause = firstRetry
			e.unwatched.Store(false)
			e.Take(ctx, update)
		}
		if !sleep(ctx, pause) {
			return
		}
		pause = min(2*pause, lastRetry)
	}
}

// Take applies one update. The loop does so by itself; this is for whoever feeds an Edge by hand.
func (e *Edge) Take(ctx context.Context, u RouterUpdate) {
	e.taking.Lock() // a revision is published only when the ports have it too
	defer e.taking.Unlock()
	if len(u.Changes) > 0 {
		e.advanced.Store(true)
	}
	if u.Reset || len(u.Nodes) > 0 {
		e.setNodes(u.Nodes, u.Reset)
	}
	defer signal(e.checks)
	if u.Reset {
		apps := make([]route.App, 0, len(u.Changes))
		for _, change := range u.Changes {
			if change.Router != nil {
				apps = append(apps, e.changed(ctx, change))
			}
		}
		e.table.Reset(apps, u.Revision)
		e.takePorts(apps, u)
		e.synced.Store(true)
		signal(e.drained)
		return
	}
	changes := make([]route.Change, 0, len(u.Changes))
	apps := make([]route.App, 0, len(u.Changes))
	for _, change := range u.Changes {
		c := route.Change{Name: change.App}
		if change.Router != nil {
			apps = append(apps, e.changed(ctx, change))
			c.App = &apps[len(apps)-1]
		}
		changes = append(changes, c)
	}
	e.table.Update(changes, u.Revision)
	e.takePorts(apps, u)
}

// Apply takes in one app's router at a revision. The loop does so by itself; this is for whoever feeds an Edge by hand.
func (e *Edge) Apply(r vortex.RouterRecord, revision uint64) {
	e.Take(context.Background(), RouterUpdate{Revision: revision, Changes: []RouterChange{{App: r.ClientID, Router: &r}}})
}

// Remove takes in that an app's router was deleted at a revision.
func (e *Edge) Remove(app string, revision uint64) {
	e.Take(context.Background(), RouterUpdate{Revision: revision, Changes: []RouterChange{{App: app}}})
}

// changed translates what became of an app.
func (e *Edge) changed(ctx context.Context, c RouterChange) route.App {
	app := e.app(ctx, *c.Router)
	app.Listeners, app.Pool, app.Unnamed = c.Listeners, c.Pool, c.Unnamed
	return app
}

// app translates a record. A backend whose address cannot be read is left out, and said so.
func (e *Edge) app(ctx context.Context, r vortex.RouterRecord) route.App {
	app := route.App{
		Name: r.ClientID, HTTP: r.Type == "" || r.Type == vortex.AppTypeHTTP,
		Hosts: r.Hosts, Paths: r.Paths, Settings: balancing(r), Health: judging(r.Health),
		Methods: r.Methods, Headers: r.Headers, Rates: r.Rate, Rules: r.Rules,
	}
	if r.Mirror != nil {
		app.Mirror = route.Mirror{App: r.Mirror.App, Share: r.Mirror.Percent / 100}
	}
	for _, b := range r.Backends {
		addr, err := netip.ParseAddr(b.Address)
		if err != nil || b.Port == 0 {
			e.log.ErrorContext(ctx, "Backend left out, it has no usable address",
				"app", r.ClientID, "instance", b.Instance, "address", b.Address, "port", b.Port)
			continue
		}
		endpoint := pool.Endpoint{Instance: b.Instance, Addr: netip.AddrPortFrom(addr, b.Port), Node: b.Node, Zone: b.Zone}
		if b.Weight != nil {
			if *b.Weight == 0 {
				continue
			}
			endpoint.Weight = *b.Weight
		}
		if b.Release != nil {
			endpoint.Release = *b.Release
		}
		app.Backends = append(app.Backends, endpoint)
	}
	return app
}

// sleep waits, and reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// explainListen says what to do about an address that cannot be listened on.
func explainListen(address string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return vortex.Errorf(vortex.Precondition,
			"the edge cannot listen on %s: another program does; stop it or choose another address: %w", address, err)
	case errors.Is(err, syscall.EACCES):
		return vortex.Errorf(vortex.Denied,
			"the edge may not listen on %s: ports below 1024 need root or CAP_NET_BIND_SERVICE: %w", address, err)
	}
	return vortex.Errorf(vortex.Invalid, "the edge cannot listen on %s: %w", address, err)
}
