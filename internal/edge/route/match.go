package route

import (
	"bytes"
	"cmp"
	"slices"
	"strings"

	"vortex/internal/edge/pool"
)

// localSuffix is what follows an app's name in the host it always answers on.
const localSuffix = ".localhost"

// Match is where a request goes.
type Match struct {
	Pool     *pool.Pool // nil when no app answers
	Strip    int        // bytes of the path to leave out; they are told in X-Forwarded-Prefix
	Redirect bool       // the path is an app's bare prefix: the client should add a slash
	Claimed  bool       // an app claims the host, whether or not it answers on this path
}

// target is a pool and the path prefixes it answers on.
type target struct {
	pool  *pool.Pool
	paths []string // without a trailing slash, longest first; "" matches every path
}

// prefixRoute is one path prefix below a host.
type prefixRoute struct {
	path string
	pool *pool.Pool
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
	exact    map[string][]prefixRoute // by host
	wildcard map[string][]prefixRoute // by the host's suffix, with its leading dot
	any      []prefixRoute            // on every host
	names    map[string]*target       // every HTTP app, for <name>.localhost
	prefixes map[string]*target       // apps without hosts, for /<name>/
	only     *target                  // the single HTTP app, when it has no hosts
}

// match finds the app of a request. host is in lower case, without a port and a trailing dot; path is as sent, without a query.
// It does not allocate.
//
// The first of these that knows the host decides, and within it the longest path prefix:
//
//  1. hosts named exactly,
//  2. wildcards, the most specific first; *.example.com matches any number of labels, and not example.com,
//  3. <name>.localhost, on which every HTTP app answers that is not Unnamed,
//  4. Unnamed apps without hosts.
//
// A host none of them knows goes on to /<name>/ of an app without hosts, and then to the only HTTP app, if it has
// no hosts. A wildcard also takes the paths that a more specific entry does not answer.
func (r *routes) match(host, path []byte) Match {
	if m := r.byHost(host, path); m.Claimed {
		return m
	}
	if m := r.byPrefix(path); m.Pool != nil {
		return m
	}
	if r.only != nil && r.only.matches(path) {
		return Match{Pool: r.only.pool}
	}
	return Match{}
}

func (r *routes) byHost(host, path []byte) Match {
	claimed := false
	if list, ok := r.exact[string(host)]; ok {
		claimed = true
		if p := longest(list, path); p != nil {
			return Match{Pool: p, Claimed: true}
		}
	}
	for i := bytes.IndexByte(host, '.'); i >= 0 && len(r.wildcard) > 0; {
		if list, ok := r.wildcard[string(host[i:])]; ok {
			claimed = true
			if p := longest(list, path); p != nil {
				return Match{Pool: p, Claimed: true}
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
			if t.matches(path) {
				return Match{Pool: t.pool, Claimed: true}
			}
		}
	}
	if len(r.any) > 0 {
		return Match{Pool: longest(r.any, path), Claimed: true}
	}
	return Match{Claimed: claimed}
}

func (r *routes) byPrefix(path []byte) Match {
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
	case !t.matches(rest):
		return Match{}
	}
	return Match{Pool: t.pool, Strip: 1 + len(name)}
}

func longest(list []prefixRoute, path []byte) *pool.Pool {
	for i := range list {
		if below(path, list[i].path) {
			return list[i].pool
		}
	}
	return nil
}

func (t *target) matches(path []byte) bool {
	for _, prefix := range t.paths {
		if below(path, prefix) {
			return true
		}
	}
	return false
}

// below reports whether path is prefix or lies below it, at a segment's boundary.
func below(path []byte, prefix string) bool {
	if len(path) < len(prefix) || string(path[:len(prefix)]) != prefix {
		return false
	}
	return len(path) == len(prefix) || prefix == "" || path[len(prefix)] == '/'
}

// buildRoutes makes the table of apps, which come in the order of their names: the first to claim a host and path keeps it.
func buildRoutes(apps []*entry) *routes {
	r := &routes{
		exact: map[string][]prefixRoute{}, wildcard: map[string][]prefixRoute{},
		names: map[string]*target{}, prefixes: map[string]*target{},
	}
	for _, e := range apps {
		t := &target{e.pool, e.paths}
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
	for _, byHost := range []map[string][]prefixRoute{r.exact, r.wildcard, {"": r.any}} {
		for _, list := range byHost {
			slices.SortStableFunc(list, func(a, b prefixRoute) int { return cmp.Compare(len(b.path), len(a.path)) })
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
		r.any = append(r.any, prefixRoute{path, t.pool})
	}
}

func (r *routes) claim(host string, t *target) {
	byHost := r.exact
	if suffix, ok := strings.CutPrefix(host, "*"); ok {
		byHost, host = r.wildcard, suffix
	}
	for _, path := range t.paths {
		byHost[host] = append(byHost[host], prefixRoute{path, t.pool})
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

// cleanPaths brings path prefixes into the form match compares with. None is every path.
func cleanPaths(paths []string) []string {
	var clean []string
	for _, path := range paths {
		clean = append(clean, strings.TrimRight("/"+strings.TrimLeft(path, "/"), "/"))
	}
	if len(clean) == 0 {
		return []string{""}
	}
	slices.SortFunc(clean, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	return slices.Compact(clean)
}
