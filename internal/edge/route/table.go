// Package route decides where a request goes: Table finds the app's Pool by host and path, the Pool's
// Balancer picks a Backend, and removed backends drain.
//
// It knows neither HTTP nor connections: hosts and paths are bytes, idle connections are things to close. Any
// engine, whatever protocol it speaks and however it waits for sockets, calls it in the same way:
//
//	m := table.Match(host, path)
//	b := m.Pool.Pick(key, now, &tried) // nil: m.Pool.Hold
//	defer b.Done()
//
// It guarantees that matching and picking neither lock nor allocate, and that what Drain returns is exact: once
// it names a revision, no pick goes to a backend that was removed at that revision or before, and those
// still answering an earlier pick are named as busy.
//
// It never probes backends: which ones are healthy is for the router records to say.
package route

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"vortex/internal/edge/meter"
)

// App is what an app's router record says to the edge.
type App struct {
	Name     string
	HTTP     bool // it speaks HTTP; others are kept and never matched
	Hosts    []string
	Paths    []string
	Balance  Balance
	Backends []Endpoint
}

// Endpoint is where one instance listens.
type Endpoint struct {
	Instance string
	Addr     netip.AddrPort
	Node     string
	Release  uint64
}

// Change is what happened to one app. A nil App is its removal.
type Change struct {
	Name string
	App  *App
}

// Config of a Table.
type Config struct {
	Meters  *meter.Set
	MaxHeld int    // requests of one app that wait for a backend; 0 is DefaultMaxHeld
	Drained func() // called when what Drain returns may have changed; must not block; nil is none
	Held    func() // called when a request begins to wait for a backend; must not block; nil is none

	Contested func(Contest) // called once for every route that two apps begin to claim; must not block; nil is none
}

// Contest is a route that two apps claim. The one whose name comes first keeps it.
type Contest struct{ Host, Path, Winner, Loser string }

// Table is the routing table. Use NewTable. Matching is safe at any time; changes are serialized by the Table.
type Table struct {
	config Config
	routes atomic.Pointer[routes]

	mu       sync.Mutex
	apps     map[string]*entry
	revision uint64
	draining map[*Backend]struct{}
	contests map[Contest]bool
}

// entry is one app as it was applied last.
type entry struct {
	app          App
	hosts, paths []string // clean
	pool         *Pool
}

// NewTable returns an empty Table.
func NewTable(c Config) *Table {
	if c.Meters == nil {
		c.Meters = &meter.Set{}
	}
	if c.MaxHeld <= 0 {
		c.MaxHeld = DefaultMaxHeld
	}
	if c.Drained == nil {
		c.Drained = func() {}
	}
	if c.Contested == nil {
		c.Contested = func(Contest) {}
	}
	if c.Held == nil {
		c.Held = func() {}
	}
	t := &Table{config: c, apps: map[string]*entry{}, draining: map[*Backend]struct{}{}}
	t.routes.Store(buildRoutes(nil))
	return t
}

// Match finds the app that answers a request; see routes.match for the order. host is in lower case, without
// port and trailing dot; path is as sent, without its query.
func (t *Table) Match(host, path []byte) Match { return t.routes.Load().match(host, path) }

// Apply takes in an app's router at a revision.
func (t *Table) Apply(app App, revision uint64) {
	t.Update([]Change{{Name: app.Name, App: &app}}, revision)
}

// Remove takes in that an app has no router any more.
func (t *Table) Remove(name string, revision uint64) {
	t.Update([]Change{{Name: name}}, revision)
}

// Update takes in changes that bring the table up to a revision: every change up to it must have been given by then.
func (t *Table) Update(changes []Change, revision uint64) {
	t.mu.Lock()
	removed := t.apply(changes)
	t.revision = max(t.revision, revision)
	t.mu.Unlock()
	if removed {
		t.config.Drained()
	}
}

// Reset takes in the whole state at a revision: an app that is not among apps is removed.
func (t *Table) Reset(apps []App, revision uint64) {
	t.mu.Lock()
	changes := make([]Change, 0, len(apps))
	named := make(map[string]bool, len(apps))
	for i := range apps {
		named[apps[i].Name] = true
		changes = append(changes, Change{Name: apps[i].Name, App: &apps[i]})
	}
	for name := range t.apps {
		if !named[name] {
			changes = append(changes, Change{Name: name})
		}
	}
	t.apply(changes)
	t.revision = revision // even back: a restored store counts on from where it was
	t.mu.Unlock()
	t.config.Drained()
}

// apply makes changes and reports whether any backend was removed.
func (t *Table) apply(changes []Change) (removed bool) {
	rebuild := false
	for _, c := range changes {
		var moved, dropped bool
		if c.App == nil {
			moved, dropped = t.drop(c.Name)
		} else {
			moved, dropped = t.put(*c.App)
		}
		rebuild = rebuild || moved
		removed = removed || dropped
	}
	if rebuild {
		t.rebuild()
	}
	return removed
}

// put makes one app as given. It reports whether routes must be rebuilt and whether backends were removed.
func (t *Table) put(app App) (moved, dropped bool) {
	e := t.apps[app.Name]
	next := &entry{app: app, hosts: cleanHosts(app.Hosts), paths: cleanPaths(app.Paths)}
	if e == nil {
		next.pool = t.newPool(app.Name)
		moved = true
	} else {
		next.pool = e.pool
		moved = e.app.HTTP != app.HTTP || !slices.Equal(e.hosts, next.hosts) || !slices.Equal(e.paths, next.paths)
	}
	t.apps[app.Name] = next
	return moved, t.fill(next.pool, app.Balance, app.Backends, false)
}

// drop removes one app.
func (t *Table) drop(name string) (moved, dropped bool) {
	e := t.apps[name]
	if e == nil {
		return false, false
	}
	delete(t.apps, name)
	dropped = t.fill(e.pool, RoundRobin, nil, true)
	t.config.Meters.Forget(name)
	return true, dropped
}

func (t *Table) newPool(name string) *Pool {
	p := &Pool{
		App: name, Meter: t.config.Meters.App(name),
		maxHeld: int64(t.config.MaxHeld), onHold: t.config.Held,
	}
	p.members.Store(&members{replaced: make(chan struct{})})
	return p
}

// fill gives a pool its backends, keeping those that stay, and reports whether any was removed. The order
// matters: the new members stand before an old backend is marked, so that a pick that meets the mark finds them, and the mark
// is set before Drain can count, so that no pick slips between.
func (t *Table) fill(p *Pool, balance Balance, endpoints []Endpoint, gone bool) (removed bool) {
	old := p.members.Load()
	next := &members{gone: gone, replaced: make(chan struct{}), backends: make([]*Backend, 0, len(endpoints))}
	kept := make(map[*Backend]bool, len(endpoints))
	for _, endpoint := range endpoints {
		b := t.backend(old.backends, endpoint)
		if !kept[b] {
			kept[b] = true
			next.backends = append(next.backends, b)
		}
	}
	next.balancer = newBalancer(balance, next.backends, &p.turn)
	p.members.Store(next)
	for _, b := range old.backends {
		if !kept[b] {
			b.remove()
			t.draining[b] = struct{}{}
			removed = true
		}
	}
	close(old.replaced)
	return removed
}

// backend returns the backend of an endpoint: the pool's own, one that drains and is wanted again, or a new one.
func (t *Table) backend(present []*Backend, e Endpoint) *Backend {
	same := func(b *Backend) bool { return b.Instance == e.Instance && b.Addr == e.Addr }
	if i := slices.IndexFunc(present, same); i >= 0 {
		return present[i]
	}
	for b := range t.draining {
		if same(b) {
			delete(t.draining, b)
			b.revive()
			return b
		}
	}
	return &Backend{Instance: e.Instance, Addr: e.Addr, Node: e.Node, Release: e.Release, drained: t.config.Drained}
}

func (t *Table) rebuild() {
	var apps []*entry
	for _, e := range t.apps {
		if e.app.HTTP {
			apps = append(apps, e)
		}
	}
	slices.SortFunc(apps, func(a, b *entry) int { return strings.Compare(a.app.Name, b.app.Name) })
	t.routes.Store(buildRoutes(apps))
	now := contests(apps)
	for c := range now {
		if !t.contests[c] {
			t.config.Contested(c)
		}
	}
	t.contests = now
}

// contests finds the routes that several apps claim; apps are in the order of their names.
func contests(apps []*entry) map[Contest]bool {
	type claim struct{ host, path string }
	winners := map[claim]string{}
	found := map[Contest]bool{}
	for _, e := range apps {
		for _, host := range e.hosts {
			for _, path := range e.paths {
				c := claim{host, path}
				winner, taken := winners[c]
				switch {
				case !taken:
					winners[c] = e.app.Name
				case winner != e.app.Name:
					found[Contest{Host: host, Path: path + "/", Winner: winner, Loser: e.app.Name}] = true
				}
			}
		}
	}
	return found
}

// Drain returns the revision the table is at and, in order, the instances removed up to it that still
// have requests in flight. Those without are forgotten.
func (t *Table) Drain() (revision uint64, busy []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	listed := map[string]bool{}
	for b := range t.draining {
		if b.InFlight() > 0 {
			listed[b.Instance] = true
		}
	}
	t.forgetDrained()
	if len(listed) > 0 {
		t.unlistPresent(listed)
	}
	for instance := range listed {
		busy = append(busy, instance)
	}
	slices.Sort(busy)
	return t.revision, busy
}

// forgetDrained drops the removed backends nothing is in flight on. One that a pick is just backing out of is left to the next call.
func (t *Table) forgetDrained() {
	for b := range t.draining {
		if b.InFlight() == 0 {
			delete(t.draining, b)
		}
	}
}

// unlistPresent takes out the instances that are backends again, at another address.
func (t *Table) unlistPresent(listed map[string]bool) {
	for _, e := range t.apps {
		for _, b := range e.pool.Backends() {
			delete(listed, b.Instance)
		}
	}
}

// Sweep closes the connections that were idle for longer than age.
func (t *Table) Sweep(now int64, age time.Duration) {
	for _, p := range t.Pools() {
		for _, b := range p.Backends() {
			b.idle.closeOlder(now, age)
		}
	}
}

// CloseIdle closes every idle connection.
func (t *Table) CloseIdle() {
	for _, p := range t.Pools() {
		for _, b := range p.Backends() {
			b.CloseIdle()
		}
	}
}

// Names returns the names of the HTTP apps in order.
func (t *Table) Names() []string {
	return slices.Sorted(maps.Keys(t.routes.Load().names))
}

// Pools returns the pools of all apps in the order of their names.
func (t *Table) Pools() []*Pool {
	apps := t.Apps()
	pools := make([]*Pool, len(apps))
	for i := range apps {
		pools[i] = apps[i].Pool
	}
	return pools
}

// Applied is an app as it was applied last, with its pool.
type Applied struct {
	App
	Pool *Pool
}

// Apps returns all apps in the order of their names.
func (t *Table) Apps() []Applied {
	t.mu.Lock()
	apps := make([]Applied, 0, len(t.apps))
	for _, e := range t.apps {
		apps = append(apps, Applied{e.app, e.pool})
	}
	t.mu.Unlock()
	slices.SortFunc(apps, func(a, b Applied) int { return strings.Compare(a.Name, b.Name) })
	return apps
}
