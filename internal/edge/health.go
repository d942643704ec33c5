package edge

import (
	"context"
	"sync"
	"time"

	"vortex"
	"vortex/internal/edge/pool"
	"vortex/internal/edge/probe"
)

const (
	reviewInterval = time.Second           // how often pools judge their outliers and see what time has changed
	checksSettle   = 20 * time.Millisecond // changes of what is to be checked that come together are taken in together
	awayGrace      = time.Second           // the store may be away this long before the edge checks backends by itself
)

// review judges the pools' backends by how they did, until ctx ends.
func (e *Edge) review(ctx context.Context) {
	ticker := time.NewTicker(reviewInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			now := e.server.Now()
			for _, p := range e.pools() {
				p.Review(now)
			}
		}
	}
}

// check makes the health checks that are the edge's to make, until ctx ends: those of the pools that want it, and those of all while
// nobody says who is healthy because the store is away.
func (e *Edge) check(ctx context.Context) {
	var probing sync.WaitGroup
	defer probing.Wait()
	probing.Go(func() { _ = e.prober.Run(ctx) }) // which returns nil only
	ticker := time.NewTicker(reviewInterval)
	defer ticker.Stop()
	var away time.Time // since when
	alone := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.checks:
			if !sleep(ctx, checksSettle) {
				return
			}
		case now := <-ticker.C:
			switch {
			case !e.storeAway():
				away = time.Time{}
			case away.IsZero():
				away = now
			}
			lasting := !away.IsZero() && now.Sub(away) >= awayGrace
			if lasting == alone {
				continue
			}
			alone = lasting
			e.tellAlone(ctx, alone)
		}
		e.prober.Sync(wanted(e.pools(), e.silent(), alone))
	}
}

// storeAway reports whether the store does not answer, as far as is known.
func (e *Edge) storeAway() bool {
	return e.unwatched.Load() || e.config.Away != nil && e.config.Away()
}

func (e *Edge) tellAlone(ctx context.Context, alone bool) {
	if alone {
		e.log.WarnContext(ctx, "Store away, the edge checks the backends by itself")
		return
	}
	e.log.InfoContext(ctx, "Store back, the agents' checks decide again")
}

// wanted are the checks that the edge is to make of the pools' backends: of all while it is alone. Of those that are silent there must
// be a check to make.
func wanted(pools []*pool.Pool, silent map[*pool.Pool]bool, alone bool) []probe.Want {
	var wants []probe.Want
	for _, p := range pools {
		h := p.Health()
		if !h.Checked && !alone || h.Check == nil && silent[p] {
			continue
		}
		check := vortex.HealthCheck{Protocol: vortex.ProbeProtocolTCP}
		if h.Check != nil {
			check = *h.Check
		}
		wants = append(wants, probe.Want{Check: check.WithDefaults(0), Backends: p.Backends()})
	}
	return wants
}

// setNodes takes in what became known of nodes.
func (e *Edge) setNodes(changes []NodeChange, reset bool) {
	e.nodes.mu.Lock()
	defer e.nodes.mu.Unlock()
	if reset {
		clear(e.nodes.stored)
	}
	nodes := make(map[string]bool, len(changes))
	for _, c := range changes {
		setOrDelete(&e.nodes.stored, c.Node, c.Gone)
		nodes[c.Node] = c.Gone || e.nodes.own[c.Node]
	}
	for node := range e.nodes.own {
		nodes[node] = true
	}
	e.table.Fleet().SetNodes(nodes, reset, e.pools())
	for _, c := range changes {
		if c.Given {
			e.server.Sever(c.Node)
		}
	}
}

// Suspect takes in that this machine's own detector takes a node to be silent, or no more. It does not wait for the store, and the
// store's word alone does not lift it.
func (e *Edge) Suspect(node string, silent bool) {
	e.nodes.mu.Lock()
	defer e.nodes.mu.Unlock()
	setOrDelete(&e.nodes.own, node, silent)
	e.table.Fleet().SetNodes(map[string]bool{node: silent || e.nodes.stored[node]}, false, e.pools())
}

// gone are the nodes that get no requests.
type gone struct {
	mu     sync.Mutex
	stored map[string]bool // by the store's word
	own    map[string]bool // by this machine's detector
}

func setOrDelete(set *map[string]bool, key string, in bool) {
	if !in {
		delete(*set, key)
		return
	}
	if *set == nil {
		*set = map[string]bool{}
	}
	(*set)[key] = true
}

// judging translates how a record says to judge backends.
func judging(h *vortex.PoolHealth) pool.Health {
	if h == nil {
		return pool.Health{}
	}
	return pool.Health{
		PanicPercent: orOff(h.PanicPercent), Outlier: outlier(h.Outlier), Circuit: circuit(h.Circuit),
		Check: h.HealthCheck, Checked: h.Checker == vortex.HealthCheckerEdge,
	}
}

func outlier(o *vortex.Outlier) *pool.Outlier {
	if o == nil {
		return nil
	}
	out := &pool.Outlier{
		Fives: orOff(o.Consecutive5xx), Failures: orOff(o.ConsecutiveFailures),
		MinHosts: orOff(o.MinBackends), MinVolume: orOff(o.MinRequests), MaxPercent: orOff(o.MaxEjectedPercent),
		Interval: seconds(o.IntervalSeconds), Ejection: seconds(o.EjectionSeconds), MaxEjection: seconds(o.MaxEjectionSeconds),
	}
	if d := o.SuccessRateDeviations; d != nil {
		out.Deviations = *d
		if *d == 0 {
			out.Deviations = -1
		}
	}
	return out
}

func circuit(c *vortex.Circuit) *pool.Circuit {
	if c == nil {
		return nil
	}
	out := &pool.Circuit{
		Connections: limitOf(c.MaxConnections), Requests: limitOf(c.MaxRequests), Retries: limitOf(c.MaxRetries),
		Pending: int64(orOff(c.MaxPending)),
	}
	if b := c.Backend; b != nil {
		out.BackendConnections, out.BackendRequests = limitOf(b.MaxConnections), limitOf(b.MaxRequests)
	}
	return out
}

// orOff is 0, which is the default, for what is absent, and negative for 0, which switches off.
func orOff(n *uint32) int {
	switch {
	case n == nil:
		return 0
	case *n == 0:
		return -1
	}
	return int(*n)
}

func limitOf(n *uint32) int64 {
	if n == nil {
		return 0
	}
	return int64(*n)
}

func seconds(s *float64) time.Duration {
	if s == nil {
		return 0
	}
	return time.Duration(*s * float64(time.Second))
}

// panicked tells operators, once, that a pool uses backends it does not think healthy.
func (e *Edge) panicked(p pool.Panic) {
	if p.Begins {
		e.log.Warn("Pool panics, it uses all of its backends", "app", p.App, "healthy", p.Healthy, "backends", p.Usable)
		return
	}
	e.log.Info("Pool calm again", "app", p.App, "healthy", p.Healthy, "backends", p.Usable)
}

// ejected tells operators that a backend is left out for a while.
func (e *Edge) ejected(x pool.Ejection) {
	e.log.Warn("Backend ejected", "app", x.App, "instance", x.Backend.Instance, "address", x.Backend.Addr.String(),
		"reason", x.Reason, "for", x.For)
}
