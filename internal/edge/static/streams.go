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

// stream is a port of TCP or UDP, or a range, as either section of the file says it.
type stream struct {
	vortex.EdgeStream

	at     string // where it stands in the file
	listen string // the field that says where it listens
}

// isStream reports whether a listener is of TCP or UDP.
func isStream(l *vortex.EdgeListener) bool {
	return l.Protocol == vortex.ListenerProtocolTCP || l.Protocol == vortex.ListenerProtocolUDP
}

// streams returns the listeners of TCP and UDP, and then the section streams.
func (f *File) streams() (list []stream) {
	for i := range f.Listeners {
		l := &f.Listeners[i]
		if !isStream(l) {
			continue
		}
		list = append(list, stream{at: item("listeners", i), listen: "address", EdgeStream: vortex.EdgeStream{
			Name: l.Name, Listen: l.Address, Protocol: vortex.PortProtocol(strings.ToUpper(string(l.Protocol))),
			Pool: l.Pool, Backends: l.Backends, SamePort: l.SamePort, Trusted: l.Trusted, Forward: l.Forward,
		}})
	}
	for i := range f.Streams {
		list = append(list, stream{at: item("streams", i), listen: "listen", EdgeStream: f.Streams[i]})
	}
	return list
}

// checkStreams checks the ports of TCP and UDP. They share the routes' names: what is counted and shown goes by them.
func (f *File) checkStreams() {
	names, taken := map[string]int{}, map[string]string{}
	for i := range f.Streams {
		f.checkName(item("streams", i), f.Streams[i].Name, names, i)
		f.checkTrusted(item("streams", i), f.Streams[i].Trusted)
	}
	for _, s := range f.streams() {
		if slices.ContainsFunc(f.Routes, func(r vortex.EdgeRoute) bool { return r.Name == s.Name }) {
			f.add(s.at+".name", "the name %q is a route's already; each name must be there once", s.Name)
		}
		if s.listen == "address" {
			taken[s.Name] = s.at
		} else if first, ok := taken[s.Name]; ok {
			f.add(s.at+".name", "the name %q is %s's already; each name must be there once", s.Name, first)
		}
		f.checkListen(&s)
		f.checkStreamTarget(&s)
	}
}

// checkStreamTarget checks which backends answer a port.
func (f *File) checkStreamTarget(s *stream) {
	switch {
	case s.Pool != "" && len(s.Backends) > 0:
		f.add(s.at+".backends", "expected a pool or backends, got both")
	case s.Pool == "" && len(s.Backends) == 0 && s.listen == "address":
		f.add(s.at, "expected the pool that it is passed on to, as in pool: NAME, or backends")
	case s.Pool == "":
		f.checkBackends(s.at+".backends", s.Backends)
	case f.pool(s.Pool) == nil:
		f.add(s.at+".pool", "there is no pool %q%s", s.Pool, f.known(s.Pool, f.poolNames()))
	}
}

// checkListen checks where a stream listens and how it is passed on.
func (f *File) checkListen(s *stream) {
	at := s.at
	const expected = `an address such as ":5432" or "127.0.0.1:7000-7010"`
	protocol := cmp.Or(s.Protocol, vortex.PortProtocolTCP)
	if protocol != vortex.PortProtocolTCP && protocol != vortex.PortProtocolUDP {
		f.add(at+".protocol", "expected TCP or UDP, got %q", protocol)
		return
	}
	host, ports, err := net.SplitHostPort(s.Listen)
	if err != nil {
		f.add(at+"."+s.listen, "expected %s, got %q", expected, s.Listen)
		return
	}
	if _, err := netip.ParseAddr(host); err != nil && host != "" {
		f.add(at+"."+s.listen, "expected %s, got %q; a name cannot be listened on, give its IP", expected, s.Listen)
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
			rest = s.listen
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
