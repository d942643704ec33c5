package edge

import "vortex/internal/edge/meter"

// Status is what the edge is doing at a moment.
type Status struct {
	Synced   bool // the routers were taken in at least once
	Revision uint64
	Busy     []string // removed instances with requests in flight
	Apps     []AppStatus
}

// AppStatus is one app as the edge sees it.
type AppStatus struct {
	App       string
	HTTP      bool
	Hosts     []string
	Paths     []string
	Listeners []string // none is all
	Pool      string
	Balance   string
	Held      int64 // requests waiting for a backend
	Panics    bool  // all backends are used because too few are healthy
	Traffic   meter.Sample
	Backends  []BackendStatus
}

// BackendStatus is one backend as the edge sees it.
type BackendStatus struct {
	Instance string
	Address  string // IP and port
	Node     string
	Zone     string
	Release  uint64
	Weight   uint32
	InFlight int64
	Served   uint64 // requests answered
	Failed   uint64 // attempts without an answer: refused, reset, too late
	Errors   uint64 // answers of 500 and above
	Out      string // why it gets no requests, unless its pool panics: refused, node, check or ejected; "" when it does
	Detail   string // … for people
	Idle     int    // connections kept for later
}

// Status returns what the edge is doing now.
func (e *Edge) Status() Status {
	revision, busy := e.table.Drain()
	s := Status{Synced: e.synced.Load(), Revision: revision, Busy: busy}
	now, idle := e.server.Now(), e.server.Idle()
	for _, app := range e.table.Apps() {
		a := AppStatus{
			App: app.Name, HTTP: app.HTTP, Hosts: app.Hosts, Paths: app.Paths, Listeners: app.Listeners, Pool: app.Pool.App, Balance: string(app.Settings.Balance),
			Held: app.Pool.Held(), Panics: app.Pool.Panicking(now), Traffic: app.Pool.Meter.Peek(now),
		}
		for _, b := range app.Pool.Backends() {
			c := b.Counts(now)
			a.Backends = append(a.Backends, BackendStatus{
				Instance: b.Instance, Address: b.Addr.String(), Node: b.Node, Zone: b.Zone, Release: b.Release, Weight: b.Weight(),
				InFlight: c.InFlight, Served: c.Served, Failed: c.Failed, Errors: c.Errors,
				Out: string(c.Out), Detail: c.OutDetail, Idle: c.Idle + idle[b],
			})
		}
		s.Apps = append(s.Apps, a)
	}
	return s
}
