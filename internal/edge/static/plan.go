package static

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"

	"vortex"
	"vortex/internal/edge"
	"vortex/internal/kind/ksl"
)

// poolFields are the names of what a pool and a route both may say: with a pool of its own a route says it, else the pool does.
var poolFields = sync.OnceValue(func() (names []string) {
	schema, err := ksl.Parse("schema/vortex.ksl", vortex.Schema())
	if err != nil {
		panic("static: the schema that is built in: " + err.Error())
	}
	pool, _ := schema.Type("EdgePool")
	route, _ := schema.Type("Route")
	for _, f := range pool.Fields {
		if _, ok := route.Field(f.Name); ok {
			names = append(names, f.Name)
		}
	}
	return names
})

// poolSettings is what a pool says, as a route.
func poolSettings(p *vortex.EdgePool) (r vortex.Route, err error) {
	return r, settle(&r, p)
}

// settle gives a route what its pool says.
func settle(r *vortex.Route, p *vortex.EdgePool) error {
	all := fields(p)
	for name := range all {
		if !slices.Contains(poolFields(), name) {
			delete(all, name)
		}
	}
	data, err := json.Marshal(all)
	if err != nil {
		return fmt.Errorf("encode pool: %w", err)
	}
	return json.Unmarshal(data, r)
}

// plan is what a file means for the edge, with the addresses that its names have now.
type plan struct {
	listeners []edge.Listener
	routers   edge.RouterUpdate
}

// plan makes a plan. addresses returns what a name stands for, key is that of sessions where the file has none.
func (f *File) plan(addresses func(name string) []netip.Addr, key []byte) (plan, error) {
	p := plan{routers: edge.RouterUpdate{Reset: true}}
	byName := map[string]string{}
	for i := range f.Listeners {
		l := &f.Listeners[i]
		if isStream(l) {
			continue
		}
		out := edge.Listener{Name: l.Address, Address: l.Address, AcceptProxy: l.AcceptProxyProtocol}
		for _, text := range l.Trusted {
			prefix, err := parsePrefix(text)
			if err != nil {
				return p, err
			}
			out.Trusted = append(out.Trusted, prefix)
		}
		byName[l.Name] = l.Address // which stays the same when only the name changes
		p.listeners = append(p.listeners, out)
	}
	for i := range f.Routes {
		r := &f.Routes[i]
		settings, backends, check := r.Route, r.Backends, r.Check
		if pool := f.pool(r.Pool); pool != nil {
			backends, check = pool.Backends, pool.Check
			if err := settle(&settings, pool); err != nil {
				return p, fmt.Errorf("route %s: %w", r.Name, err)
			}
		}
		record := vortex.RouterRecord{
			ClientID: r.Name, Type: vortex.AppTypeHTTP, StickyKey: f.sessionKey(key), Backends: endpoints(backends, addresses),
		}
		record.SetRoute(&settings)
		if check != nil {
			if record.Health == nil {
				record.Health = &vortex.PoolHealth{}
			}
			record.Health.HealthCheck, record.Health.Checker = check, vortex.HealthCheckerEdge // there is nobody else
		}
		change := edge.RouterChange{App: r.Name, Router: &record, Pool: r.Pool, Unnamed: true}
		for _, name := range r.Listeners {
			change.Listeners = append(change.Listeners, byName[name])
		}
		p.routers.Changes = append(p.routers.Changes, change)
	}
	for _, s := range f.streams() {
		p.routers.Changes = append(p.routers.Changes, f.stream(&s.EdgeStream, addresses))
	}
	return p, nil
}

// endpoints are the backends at the addresses that their names have.
func endpoints(backends []vortex.EdgeBackend, addresses func(name string) []netip.Addr) []vortex.Backend {
	out := []vortex.Backend{}
	seen := map[netip.AddrPort]bool{}
	for _, b := range backends {
		host, text, err := splitBackend(b.Address)
		if err != nil {
			continue // it was checked
		}
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			continue
		}
		ips, name := []netip.Addr{}, ""
		if ip, err := netip.ParseAddr(host); err == nil {
			ips = append(ips, ip)
		} else {
			ips, name = addresses(host), host
		}
		for _, ip := range ips {
			at := netip.AddrPortFrom(ip.Unmap(), uint16(port))
			if seen[at] {
				continue // two names of one address
			}
			seen[at] = true
			out = append(out, vortex.Backend{
				Instance: cmp.Or(instance(name, text, ip), at.String()), Address: ip.Unmap().String(), Port: uint16(port),
				Weight: b.Weight, Zone: b.Zone, Release: b.Release,
			})
		}
	}
	return out
}

// instance names a backend that is one of a name's addresses; "" without a name.
func instance(name, port string, ip netip.Addr) string {
	if name == "" {
		return ""
	}
	return net.JoinHostPort(name, port) + "@" + ip.Unmap().String()
}
