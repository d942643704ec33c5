package route

import (
	"bytes"
	"cmp"
	"errors"
	"slices"
	"strings"

	"vortex"
	"vortex/internal/edge/meter"
	"vortex/internal/edge/policy"
	"vortex/internal/edge/pool"
)

// localSuffix is what follows an app's name in the host it always answers on.
const localSuffix = ".localhost"

// Match is where a request goes.
type Match struct {
	Pool     *pool.Pool       // nil when no app answers
	Policy   *policy.Policy   // what else is done with the request; nil is nothing
	Meter    *meter.Responses // of the route
	Rates    []Rate           // how often it may be asked for
	Strip    int              // bytes of the path to leave out; they are told in X-Forwarded-Prefix
	Redirect bool             // the path is an app's bare prefix: the client should add a slash
	Claimed  bool             // an app claims the host, whether or not it answers on this path
}

// target is a pool and the requests it answers.
type target struct {
	pool   *pool.Pool
	meter  *meter.Responses
	policy *policy.Policy
	rates  []Rate
	when   policy.Conditions
	paths  []policy.Path // in the order they are tried
}

// pathRoute is one path below a host.
type pathRoute struct {
	path policy.Path
	*target
}

// listenerRoutes are the routing tables by listener, and never change.
type listenerRoutes struct {
	all    *routes            // of every app
	others *routes            // of the apps that name no listener
	by     map[string]*routes // of each listener that an app names
}

// of returns the table of a listener.
func (l *listenerRoutes) of(listener string) *routes {
	if len(l.by) == 0 {
		return l.all
	}
	if r := l.by[listener]; r != nil {
		return r
	}
	return l.others
}

// buildListenerRoutes makes the tables of apps, which come in the order of their names.
func buildListenerRoutes(apps []*entry) *listenerRoutes {
	l := &listenerRoutes{all: buildRoutes(apps), by: map[string]*routes{}}
	reached := func(listener string) []*entry {
		return slices.DeleteFunc(slices.Clone(apps), func(e *entry) bool {
			return len(e.app.Listeners) > 0 && !slices.Contains(e.app.Listeners, listener)
		})
	}
	for _, name := range listenersOf(apps) {
		if name == "" {
			l.others = buildRoutes(reached(name))
		} else {
			l.by[name] = buildRoutes(reached(name))
		}
	}
	return l
}

// routes is an immutable routing table.
type routes struct {
	exact    map[string][]pathRoute // by host
	wildcard map[string][]pathRoute // by the host's suffix, with its leading dot
	any      []pathRoute            // on every host
	names    map[string]*target     // every HTTP app, for <name>.localhost
	prefixes map[string]*target     // apps without hosts, for /<name>/
	only     *target                // the single HTTP app, when it has no hosts
}

// match finds the app of a request. host is in lower case, without a port and a trailing dot; path is as sent, without a query.
// head is for the routes that ask for methods and headers; nil meets none of them. It does not allocate.
//
// The first of these that knows the host decides, and within it the exact path, then the first regular expression that
// matches, then the longest path prefix, each with more conditions before fewer:
//
//  1. hosts named exactly,
//  2. wildcards, the most specific first; *.example.com matches any number of labels, and not example.com,
//  3. <name>.localhost, on which every HTTP app answers that is not Unnamed,
//  4. Unnamed apps without hosts.
//
// A host none of them knows goes on to /<name>/ of an app without hosts, and then to the only HTTP app, if it has
// no hosts. A wildcard also takes the paths that a more specific entry does not answer.
func (r *routes) match(host, path []byte, head policy.Head) Match {
	if m := r.byHost(host, path, head); m.Claimed {
		return m
	}
	if m := r.byPrefix(path, head); m.Pool != nil {
		return m
	}
	if r.only != nil && r.only.matches(path, head) {
		return r.only.match(false)
	}
	return Match{}
}

func (r *routes) byHost(host, path []byte, head policy.Head) Match {
	claimed := false
	if list, ok := r.exact[string(host)]; ok {
		claimed = true
		if t := first(list, path, head); t != nil {
			return t.match(true)
		}
	}
	for i := bytes.IndexByte(host, '.'); i >= 0 && len(r.wildcard) > 0; {
		if list, ok := r.wildcard[string(host[i:])]; ok {
			claimed = true
			if t := first(list, path, head); t != nil {
				return t.match(true)
			}
		}
		next := bytes.IndexByte(host[i+1:], '.')
		if next < 0 {
			break
		}
		i += 1 + next
	}
	if name, ok := bytes.CutSuffix(host, []byte(localSuffix)); ok {
		if t := r.names[string(name)]; t != nil {
			claimed = true
			if t.matches(path, head) {
				return t.match(true)
			}
		}
	}
	if len(r.any) > 0 {
		claimed = true
		if t := first(r.any, path, head); t != nil {
			return t.match(true)
		}
	}
	return Match{Claimed: claimed}
}

func (r *routes) byPrefix(path []byte, head policy.Head) Match {
	if len(path) < 2 || path[0] != '/' {
		return Match{}
	}
	name, rest := path[1:], []byte(nil)
	if end := bytes.IndexByte(name, '/'); end >= 0 {
		name, rest = name[:end], name[end:]
	}
	t := r.prefixes[string(name)]
	switch {
	case t == nil:
		return Match{}
	case len(rest) == 0:
		return Match{Pool: t.pool, Redirect: true}
	case !t.matches(rest, head):
		return Match{}
	}
	m := t.match(false)
	m.Strip = 1 + len(name)
	return m
}

// first returns where the first path goes that a request meets.
func first(list []pathRoute, path []byte, head policy.Head) *target {
	for i := range list {
		if list[i].path.Matches(path) && list[i].when.Met(head) {
			return list[i].target
		}
	}
	return nil
}

func (t *target) matches(path []byte, head policy.Head) bool {
	for i := range t.paths {
		if t.paths[i].Matches(path) {
			return t.when.Met(head)
		}
	}
	return false
}

func (t *target) match(claimed bool) Match {
	return Match{Pool: t.pool, Policy: t.policy, Meter: t.meter, Rates: t.rates, Claimed: claimed}
}

// buildRoutes makes the table of apps, which come in the order of their names: the first to claim a host and path keeps it.
func buildRoutes(apps []*entry) *routes {
	r := &routes{
		exact: map[string][]pathRoute{}, wildcard: map[string][]pathRoute{},
		names: map[string]*target{}, prefixes: map[string]*target{},
	}
	for _, e := range apps {
		t := &target{e.pool, e.meter, e.policy, e.rates, e.when, e.paths}
		if e.app.Unnamed {
			r.claimUnnamed(e, t)
			continue
		}
		r.names[strings.ToLower(e.app.Name)] = t
		if len(e.hosts) == 0 {
			r.prefixes[e.app.Name] = t
			if len(apps) == 1 {
				r.only = t
			}
		}
		for _, host := range e.hosts {
			r.claim(host, t)
		}
	}
	for _, byHost := range []map[string][]pathRoute{r.exact, r.wildcard, {"": r.any}} {
		for _, list := range byHost {
			slices.SortStableFunc(list, comparePathRoutes)
		}
	}
	return r
}

// claimUnnamed gives an app its hosts, or every host.
func (r *routes) claimUnnamed(e *entry, t *target) {
	for _, host := range e.hosts {
		r.claim(host, t)
	}
	if len(e.hosts) > 0 {
		return
	}
	for _, path := range t.paths {
		r.any = append(r.any, pathRoute{path, t})
	}
}

func (r *routes) claim(host string, t *target) {
	byHost := r.exact
	if suffix, ok := strings.CutPrefix(host, "*"); ok {
		byHost, host = r.wildcard, suffix
	}
	for _, path := range t.paths {
		byHost[host] = append(byHost[host], pathRoute{path, t})
	}
}

// cleanHosts brings hosts into the form match compares with.
func cleanHosts(hosts []string) []string {
	var clean []string
	for _, host := range hosts {
		host = strings.TrimSuffix(strings.ToLower(strings.TrimSpace(host)), ".")
		if host != "" && host != "*" {
			clean = append(clean, host)
		}
	}
	return clean
}

// comparePathRoutes puts what is tried first first.
func comparePathRoutes(a, b pathRoute) int {
	return cmp.Or(comparePaths(a.path, b.path), cmp.Compare(b.when.Len(), a.when.Len()))
}

// comparePaths puts exact paths before regular expressions, which stay in their order, and those before prefixes, the longest first.
func comparePaths(a, b policy.Path) int {
	if rank := cmp.Compare(rankOf(a.Match), rankOf(b.Match)); rank != 0 || a.Match == vortex.PathRegex {
		return rank
	}
	return cmp.Compare(len(b.Text), len(a.Text))
}

func rankOf(m vortex.PathMatch) int {
	return slices.Index([]vortex.PathMatch{vortex.PathExact, vortex.PathRegex, vortex.PathPrefix}, m)
}

// compilePaths brings an app's paths into the form match compares with, in the order they are tried. None is every path. One that
// cannot be read is left out and told: it matches nothing.
func compilePaths(entries []string) ([]policy.Path, error) {
	if len(entries) == 0 {
		return []policy.Path{{}}, nil
	}
	var paths []policy.Path
	var errs []error
	for _, entry := range entries {
		p, err := policy.CompilePath(entry)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		paths = append(paths, p)
	}
	slices.SortStableFunc(paths, comparePaths)
	return paths, errors.Join(errs...)
}
