package l4

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"vortex/internal/edge/pool"
)

// target is where a port's connections or datagrams go.
type target struct {
	service *service
	pool    *pool.Pool
}

// admit counts a UDP session in flight, which finish ends, unless the pool takes no more.
func (t target) admit(now int64) error {
	inFlight := t.pool.Meter.Start(now)
	t.pool.Meter.Connect(1)
	err := t.pool.Admit(inFlight)
	if err != nil {
		t.finish()
	}
	return err
}

// finish ends what admit began.
func (t target) finish() {
	t.pool.Meter.Connect(-1)
	t.pool.Meter.Finish()
}

// routes is what one port does, and never changes.
type routes struct {
	exact    map[string][]target // by the name a client asks for
	wildcard map[string][]target // by the name's suffix, with its leading dot
	rest     []target            // for every other name and for none; the last one may be for every protocol
	peek     bool                // the target depends on a ClientHello
	accept   Acceptance
	trusted  []netip.Prefix
	head     time.Duration // a client may take that long to say what the target depends on
}

// buildRoutes makes a port's routes of the services that claim it, which come in the order of their apps' names: the first to claim
// a name and protocol keeps it.
func buildRoutes(claims []target, contested func(winner, loser, name string)) *routes {
	r := &routes{exact: map[string][]target{}, wildcard: map[string][]target{}}
	for _, t := range claims {
		s := t.service
		r.accept = max(r.accept, s.Accept)
		r.peek = r.peek || len(s.Names) > 0 || len(s.ALPN) > 0
		names := s.Names
		if len(names) == 0 {
			names = []string{""}
		}
		for _, name := range names {
			list := r.list(name)
			if i := slices.IndexFunc(list, func(o target) bool { return overlap(o.service.ALPN, s.ALPN) }); i >= 0 {
				contested(list[i].service.App, s.App, name)
				continue
			}
			r.set(name, append(list, t))
		}
	}
	for _, lists := range []map[string][]target{r.exact, r.wildcard, {"": r.rest}} {
		for _, list := range lists { // those that name protocols decide first
			slices.SortStableFunc(list, func(a, b target) int {
				return cmp.Compare(min(len(b.service.ALPN), 1), min(len(a.service.ALPN), 1))
			})
		}
	}
	return r
}

func (r *routes) list(name string) []target {
	if suffix, ok := strings.CutPrefix(name, "*"); ok {
		return r.wildcard[suffix]
	}
	if name == "" {
		return r.rest
	}
	return r.exact[name]
}

func (r *routes) set(name string, list []target) {
	if suffix, ok := strings.CutPrefix(name, "*"); ok {
		r.wildcard[suffix] = list
	} else if name == "" {
		r.rest = list
	} else {
		r.exact[name] = list
	}
}

// overlap reports whether two services would take the same connections: of one protocol, or both of every protocol.
func overlap(a, b []string) bool {
	if len(a) == 0 || len(b) == 0 {
		return len(a) == len(b)
	}
	return slices.ContainsFunc(a, func(p string) bool { return slices.Contains(b, p) })
}

// match finds the target of a ClientHello: the name as it is, then wildcards, the most specific first, then what takes every name. A
// wildcard matches any number of labels. Within a name those that ask for a protocol come before the one that does not. ok is
// false when nothing takes it.
func (r *routes) match(h hello) (t target, ok bool) {
	if h.name != "" {
		if t, ok = choose(r.exact[h.name], h); ok {
			return t, true
		}
		for i := strings.IndexByte(h.name, '.'); i >= 0; {
			if t, ok = choose(r.wildcard[h.name[i:]], h); ok {
				return t, true
			}
			next := strings.IndexByte(h.name[i+1:], '.')
			if next < 0 {
				break
			}
			i += 1 + next
		}
	}
	return choose(r.rest, h)
}

func choose(list []target, h hello) (target, bool) {
	for _, t := range list {
		if len(t.service.ALPN) == 0 || slices.ContainsFunc(t.service.ALPN, h.offers) {
			return t, true
		}
	}
	return target{}, false
}
