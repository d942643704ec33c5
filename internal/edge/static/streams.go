package static

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"strings"

	"vortex"
	"vortex/internal/edge"
)

// checkStreams checks the ports of TCP and UDP. They share the routes' names: what is counted and shown goes by them.
func (f *File) checkStreams() {
	names := map[string]int{}
	for i := range f.Streams {
		s, at := &f.Streams[i], item("streams", i)
		f.checkName(at, s.Name, names, i)
		if slices.ContainsFunc(f.Routes, func(r vortex.EdgeRoute) bool { return r.Name == s.Name }) {
			f.add(at+".name", "the name %q is a route's already; each name must be there once", s.Name)
		}
		f.checkListen(at, s)
		switch {
		case s.Pool != "" && len(s.Backends) > 0:
			f.add(at+".backends", "expected a pool or backends, got both")
		case s.Pool == "":
			f.checkBackends(at+".backends", s.Backends)
		case f.pool(s.Pool) == nil:
			f.add(at+".pool", "there is no pool %q%s", s.Pool, f.known(s.Pool, f.poolNames()))
		}
		for j, text := range s.Trusted {
			if _, err := parsePrefix(text); err != nil {
				f.add(item(at+".trusted", j), `expected an address or a prefix such as "10.0.0.0/8", got %q`, text)
			}
		}
	}
}

// checkListen checks where a stream listens and how it is passed on.
func (f *File) checkListen(at string, s *vortex.EdgeStream) {
	const expected = `an address such as ":5432" or "127.0.0.1:7000-7010"`
	protocol := cmp.Or(s.Protocol, vortex.PortProtocolTCP)
	if protocol != vortex.PortProtocolTCP && protocol != vortex.PortProtocolUDP {
		f.add(at+".protocol", "expected TCP or UDP, got %q", protocol)
		return
	}
	host, ports, err := net.SplitHostPort(s.Listen)
	if err != nil {
		f.add(at+".listen", "expected %s, got %q", expected, s.Listen)
		return
	}
	if _, err := netip.ParseAddr(host); err != nil && host != "" {
		f.add(at+".listen", "expected %s, got %q; a name cannot be listened on, give its IP", expected, s.Listen)
	}
	app := vortex.App{
		Metadata: vortex.Metadata{Name: "stream"},
		Spec: vortex.AppSpec{Type: vortex.AppTypeTCP, Image: "none", Ports: []vortex.Port{
			{ContainerPort: 80, Protocol: protocol, EdgePort: ports, Forward: s.Forward},
		}},
	}
	for _, p := range app.Problems() {
		rest, ok := strings.CutPrefix(p.Path, "spec.ports[0].")
		if rest == "edgePort" {
			rest = "listen"
		}
		if ok {
			f.add(at+"."+rest, "%s", p.Msg)
		}
	}
}

// stream is what a stream means for the edge.
func (f *File) stream(s *vortex.EdgeStream, addresses func(name string) []netip.Addr) edge.RouterChange {
	settings, backends := vortex.Route{}, s.Backends
	record := vortex.RouterRecord{ClientID: s.Name, Type: vortex.AppTypeTCP}
	if pool := f.pool(s.Pool); pool != nil {
		backends = pool.Backends
		if settle(&settings, pool) == nil { // it was checked
			record.SetRoute(&settings)
		}
	}
	record.Backends = endpoints(backends, addresses)
	host, ports, _ := net.SplitHostPort(s.Listen)
	port := vortex.RouterPort{Protocol: cmp.Or(s.Protocol, vortex.PortProtocolTCP), Primary: new(true), Host: host, Trusted: s.Trusted, Forward: s.Forward}
	if first, last, err := vortex.ParsePorts(ports); err == nil {
		port.SetPorts(first, last)
		if s.SamePort != nil && *s.SamePort {
			port.ContainerEndPort = new(last - first)
		}
	}
	record.Ports = []vortex.RouterPort{port}
	return edge.RouterChange{App: s.Name, Router: &record, Unnamed: true}
}
