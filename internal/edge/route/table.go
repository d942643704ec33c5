// Package route decides which Pool answers a request, by host and path. The Pool (package pool) picks the Backend.
//
// It knows no connections: hosts and paths are bytes, and what else a route asks of a request it looks up by a field's name. Any engine, whatever protocol it speaks and
// however it waits for sockets, calls it in the same way:
//
//	m := table.Match(host, path)
//	b := m.Pool.Pick(key, now, &tried) // nil: m.Pool.Hold
//	defer b.Done()
//
// It guarantees that matching neither locks nor allocates, and that what Drain returns is exact: once
// it names a revision, no pick goes to a backend that was removed at that revision or before, and those
// still answering an earlier pick are named as busy.
//
// It never probes backends: which ones are healthy is for the router records to say.
package route

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"vortex"
	"vortex/internal/edge/limit"
	"vortex/internal/edge/meter"
	"vortex/internal/edge/policy"
	"vortex/internal/edge/pool"
)

// App is what an app's router record says to the edge.
type App struct {
	Name     string
	HTTP     bool // it speaks HTTP; others are kept and never matched
	Hosts    []string
	Paths    []string
	Methods  []string             // only requests with one of these are the app's; none is all
	Headers  []vortex.HeaderMatch // only requests with all of these
	Rates    []vortex.RateLimit   // how often it may be asked
	Rules    []vortex.RouteRule   // what else is done with them; the first that matches holds
	Settings pool.Settings        // how its pool spreads requests
	Health   pool.Health          // how its pool judges backends
	Mirror   Mirror
	Backends []pool.Endpoint

	Listeners []string // the names of the listeners it is reached on; none is all
	Pool      string   // the pool's name: apps that give the same one share it, and give the same backends; "" is one of its own
	Unnamed   bool     // it is not reached by its name, but without hosts on every host
}

// poolName is the name of the app's pool.
func (a *App) poolName() string { return cmp.Or(a.Pool, a.Name) }

// Mirror names the app that gets copies of some requests. The zero value is none.
type Mirror struct {
	App   string
	Share float64 // of the requests, from 0 to 1
}

// Change is what happened to one app. A nil App is its removal.
type Change struct {
	Name string
	App  *App
}

// Config of a Table.
type Config struct {
	pool.Config

	Linger    time.Duration               // a pool that no app has any more answers this long who was on the way to it; 0 is not at all
	Limiter   *limit.Limiter              // counts for the apps' Rates; nil is one of the table's own
	Contested func(Contest)               // called once for every route that two apps begin to claim; must not block; nil is none
	Invalid   func(app string, err error) // called with what of an app's route cannot be read; must not block; nil is none
}

// Contest is a route that two apps claim. The one whose name comes first keeps it.
type Contest struct{ Host, Path, Winner, Loser string }

// Table is the routing table. Use NewTable. Matching is safe at any time; changes are serialized by the Table.
type Table struct {
	config Config
	routes atomic.Pointer[listenerRoutes]

	fleet *pool.Fleet

	mu       sync.Mutex
	apps     map[string]*entry
	pools    map[string]*shared
	mirrored map[string]*entry // those whose requests go to another app too
	unused   []farewell        // pools given up since routes were rebuilt last
	revision uint64
	contests map[Contest]bool
}

// entry is one app as it was applied last.
type entry struct {
	app    App
	hosts  []string // clean
	paths  []policy.Path
	when   policy.Conditions
	policy *policy.Policy
	rates  []Rate
	pool   *pool.Pool
	meter  *meter.Responses
}

// shared is a pool and how many apps it answers for.
type shared struct {
	name string
	pool *pool.Pool
	apps int
	left int // how many times the last app has left it
}

// farewell is one time that the last app has left a pool.
type farewell struct {
	pool *shared
	time int // its left
}

// final reports whether no app has come back since. Whoever was on the way when the last one left again has a farewell of its own to wait for.
func (f farewell) final() bool { return f.pool.apps == 0 && f.pool.left == f.time }

// NewTable returns an empty Table.
func NewTable(c Config) *Table {
	if c.Contested == nil {
		c.Contested = func(Contest) {}
	}
	if c.Invalid == nil {
		c.Invalid = func(string, error) {}
	}
	if c.Drained == nil {
		c.Drained = func() {}
	}
	if c.Limiter == nil {
		c.Limiter = limit.New()
	}
	t := &Table{
		config: c, fleet: pool.NewFleet(c.Config),
		apps: map[string]*entry{}, pools: map[string]*shared{}, mirrored: map[string]*entry{},
	}
	t.routes.Store(buildListenerRoutes(nil))
	return t
}

// PoolOf returns an app's pool, nil when there is no such app.
func (t *Table) PoolOf(app string) *pool.Pool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.apps[app]; e != nil {
		return e.pool
	}
	return nil
}

// Fleet is where the table's pools are from, for pools beside it that drain with them.
func (t *Table) Fleet() *pool.Fleet { return t.fleet }

// Match finds the app that answers a request; see routes.match for the order. host is in lower case, without
// port and trailing dot; path is as sent, without its query.
func (t *Table) Match(host, path []byte) Match { return t.MatchOn("", host, path, nil) }

// MatchOn is Match for a request that came in on the listener of a name, with the head that routes may ask for methods and headers.
func (t *Table) MatchOn(listener string, host, path []byte, head policy.Head) Match {
	return t.routes.Load().of(listener).match(host, path, head)
}

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
			moved = t.drop(c.Name)
		} else {
			moved, dropped = t.put(*c.App)
		}
		rebuild = rebuild || moved
		removed = removed || dropped
	}
	if rebuild {
		t.rebuild()
	}
	for _, e := range t.mirrored {
		t.mirror(e)
	}
	return t.retire() || removed
}

// retire takes the backends from the pools that no app has any more, now that no route leads to them. It reports whether there were any.
func (t *Table) retire() (removed bool) {
	unused := t.unused
	t.unused = nil
	if len(unused) == 0 {
		return false
	}
	if t.config.Linger <= 0 {
		return t.retireAll(unused)
	}
	time.AfterFunc(t.config.Linger, func() {
		t.mu.Lock()
		removed := t.retireAll(unused)
		t.mu.Unlock()
		if removed {
			t.config.Drained()
		}
	})
	return false
}

func (t *Table) retireAll(unused []farewell) (removed bool) {
	for _, f := range unused {
		if f.final() {
			delete(t.pools, f.pool.name)
			removed = t.fleet.Retire(f.pool.pool) || removed
		}
	}
	return removed
}

// mirrors takes in whether an app's requests go to another one too.
func (t *Table) mirrors(old, next *entry) {
	delete(t.mirrored, next.app.Name)
	if next.app.Mirror.App != "" {
		t.mirrored[next.app.Name] = next
	} else if old != nil && old.app.Mirror.App != "" {
		next.pool.Mirror(nil, 0)
	}
}

// mirror points an app's mirror at the pool its name means now.
func (t *Table) mirror(e *entry) {
	m := e.app.Mirror
	if to := t.apps[m.App]; to != nil && to.app.HTTP && to != e {
		e.pool.Mirror(to.pool, m.Share)
		return
	}
	e.pool.Mirror(nil, 0)
}

// put makes one app as given. It reports whether routes must be rebuilt and whether backends were removed.
func (t *Table) put(app App) (moved, dropped bool) {
	e := t.apps[app.Name]
	next := t.compile(app, e)
	next.pool = t.acquire(app.poolName())
	next.meter = t.config.Meters.Route(app.Name)
	t.apps[app.Name] = next
	next.pool.SetHealth(app.Health)
	dropped = t.fleet.Fill(next.pool, app.Settings, app.Backends)
	t.mirrors(e, next)
	if e == nil {
		return true, dropped
	}
	t.release(e.app.poolName())
	return next.movedFrom(e), dropped
}

// compile makes an app's entry. What did not change since old is taken over: a policy remembers who has proved their password.
func (t *Table) compile(app App, old *entry) *entry {
	next := &entry{app: app, hosts: cleanHosts(app.Hosts)}
	if old != nil && old.sameRules(&app) {
		next.paths, next.when, next.policy, next.rates = old.paths, old.when, old.policy, old.rates
		return next
	}
	var errs [4]error
	next.paths, errs[0] = compilePaths(app.Paths)
	next.when, errs[1] = policy.CompileConditions(app.Methods, app.Headers)
	next.policy, errs[2] = policy.Compile(app.Rules)
	next.rates, errs[3] = t.compileRates(&app, old)
	if errs[1] != nil {
		next.paths = nil // conditions that cannot be read are not met
	}
	if err := errors.Join(errs[:]...); err != nil {
		t.config.Invalid(app.Name, err)
	}
	return next
}

// sameRules reports whether the same is done with the same requests as before.
func (e *entry) sameRules(app *App) bool {
	return slices.Equal(e.app.Paths, app.Paths) && slices.Equal(e.app.Methods, app.Methods) &&
		reflect.DeepEqual(e.app.Headers, app.Headers) && reflect.DeepEqual(e.app.Rules, app.Rules) &&
		reflect.DeepEqual(e.app.Rates, app.Rates)
}

// movedFrom reports whether other requests reach the app, or its pool is another one, than before.
func (e *entry) movedFrom(old *entry) bool {
	return e.app.HTTP != old.app.HTTP || e.app.Unnamed != old.app.Unnamed || e.pool != old.pool ||
		!slices.Equal(e.hosts, old.hosts) || !old.sameRules(&e.app) || !slices.Equal(e.app.Listeners, old.app.Listeners)
}

// acquire returns the pool of a name for one more app.
func (t *Table) acquire(name string) *pool.Pool {
	s := t.pools[name]
	if s == nil {
		s = &shared{name: name, pool: t.fleet.New(name)}
		t.pools[name] = s
	}
	s.apps++
	return s.pool
}

// release gives up a pool for one app.
func (t *Table) release(name string) {
	s := t.pools[name]
	if s.apps--; s.apps == 0 {
		s.left++
		t.unused = append(t.unused, farewell{s, s.left})
	}
}

// drop removes one app, and reports whether it was there.
func (t *Table) drop(name string) bool {
	e := t.apps[name]
	if e == nil {
		return false
	}
	delete(t.apps, name)
	t.config.Meters.ForgetRoute(name)
	delete(t.mirrored, name)
	t.dropRates(e.rates, nil)
	t.release(e.app.poolName())
	return true
}

func (t *Table) rebuild() {
	var apps []*entry
	for _, e := range t.apps {
		if e.app.HTTP {
			apps = append(apps, e)
		}
	}
	slices.SortFunc(apps, func(a, b *entry) int { return strings.Compare(a.app.Name, b.app.Name) })
	t.routes.Store(buildListenerRoutes(apps))
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
	type claim struct{ listener, host, path, conditions string }
	winners := map[claim]string{}
	found := map[Contest]bool{}
	names := listenersOf(apps)
	for _, e := range apps {
		conditions := e.app.conditions()
		reached := e.app.Listeners
		if len(reached) == 0 {
			reached = names
		}
		for _, listener := range reached {
			for _, host := range e.hosts {
				for _, path := range e.paths {
					c := claim{listener, host, path.String(), conditions}
					winner, taken := winners[c]
					switch {
					case !taken:
						winners[c] = e.app.Name
					case winner != e.app.Name:
						found[Contest{Host: host, Path: c.path, Winner: winner, Loser: e.app.Name}] = true
					}
				}
			}
		}
	}
	return found
}

// conditions returns what an app asks of requests besides host and path, as a text to compare.
func (a *App) conditions() string {
	if len(a.Methods)+len(a.Headers) == 0 {
		return ""
	}
	return fmt.Sprintf("%q %+v", a.Methods, a.Headers)
}

// listenersOf returns the names of the listeners that apps name, and "" for all the others.
func listenersOf(apps []*entry) []string {
	names := []string{""}
	for _, e := range apps {
		names = append(names, e.app.Listeners...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Drain returns the revision the table is at and, in order, the instances removed up to it that still
// have requests in flight. Those without are forgotten.
func (t *Table) Drain() (revision uint64, busy []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	busy = t.fleet.Busy()
	if len(busy) > 0 {
		busy = t.unlistPresent(busy)
	}
	return t.revision, busy
}

// unlistPresent takes out the instances that are backends again, at another address.
func (t *Table) unlistPresent(busy []string) []string {
	for _, e := range t.apps {
		for _, b := range e.pool.Backends() {
			if i, ok := slices.BinarySearch(busy, b.Instance); ok {
				busy = slices.Delete(busy, i, i+1)
			}
		}
	}
	return busy
}

// Rebalance takes in what time changes about the shares of backends, and reports whether it is to be called again in a moment.
func (t *Table) Rebalance() (again bool) { return t.fleet.Rebalance() }

// SetZone changes where the edge is.
func (t *Table) SetZone(zone string) { t.fleet.SetZone(zone, t.Pools()) }

// Sweep closes the connections that were idle for longer than age.
func (t *Table) Sweep(now int64, age time.Duration) {
	for _, p := range t.Pools() {
		for _, b := range p.Backends() {
			b.CloseOlder(now, age)
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
	return slices.Sorted(maps.Keys(t.routes.Load().all.names))
}

// Pools returns the pools in the order of their names.
func (t *Table) Pools() []*pool.Pool {
	t.mu.Lock()
	defer t.mu.Unlock()
	pools := make([]*pool.Pool, 0, len(t.pools))
	for _, name := range slices.Sorted(maps.Keys(t.pools)) {
		pools = append(pools, t.pools[name].pool)
	}
	return pools
}

// Applied is an app as it was applied last, with its pool.
type Applied struct {
	App

	Pool *pool.Pool // what App.Pool names
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
