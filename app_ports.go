package vortex

import (
	"slices"
	"strconv"
	"strings"
)

// ParsePorts reads a port or a range of them: "5432" or "7000-7010".
func ParsePorts(s string) (first, last uint16, err error) {
	from, to, isRange := strings.Cut(s, "-")
	if first, err = parsePort(from); err == nil && isRange {
		last, err = parsePort(to)
	} else {
		last = first
	}
	if err != nil || last < first {
		return 0, 0, Errorf(Invalid, `expected a port from 1 to 65535 such as "5432", or a range such as "7000-7010", got %q`, s)
	}
	return first, last, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err == nil && (n == 0 || s != strconv.FormatUint(n, 10)) {
		err = strconv.ErrRange
	}
	return uint16(n), err
}

// transport returns how the edge passes a port on: TCP or UDP, "" for one that requests go to by host and path.
func (a *App) transport(p Port) PortProtocol {
	switch {
	case a.Spec.Type == AppTypeWorker:
		return ""
	case p.Protocol == PortProtocolTCP, p.Protocol == PortProtocolUDP:
		return p.Protocol
	case a.Spec.Type == AppTypeTCP:
		return PortProtocolTCP
	}
	return ""
}

// MainPort is the container port that backends are known by: the primary one, or the first of an app that has UDP alone.
// It is 0 when there is none.
func (a *App) MainPort() uint16 {
	if port := a.PrimaryPort(); port != 0 || len(a.Spec.Ports) == 0 {
		return port
	}
	return a.Spec.Ports[0].ContainerPort
}

// EdgePorts returns the ports of TCP and UDP that every edge opens for the app, in the order of the spec. Where the spec leaves
// the number to the cluster, Port is 0. The spec must be valid.
func (a *App) EdgePorts() []RouterPort {
	var ports []RouterPort
	for _, p := range a.Spec.Ports {
		protocol := a.transport(p)
		if protocol == "" {
			continue
		}
		r := RouterPort{Protocol: protocol, ContainerPort: p.ContainerPort, ContainerEndPort: p.EndPort, Name: p.Name, Forward: p.Forward}
		if p.ContainerPort == a.MainPort() && protocol == a.mainTransport() {
			r.Primary = new(true)
		}
		if first, last, err := ParsePorts(p.EdgePort); err == nil {
			r.SetPorts(first, last)
		}
		ports = append(ports, r)
	}
	return ports
}

// mainTransport is what MainPort speaks.
func (a *App) mainTransport() PortProtocol {
	if a.PrimaryPort() == 0 {
		return PortProtocolUDP
	}
	return PortProtocolTCP
}

// SetPorts sets the port, or the range.
func (r *RouterPort) SetPorts(first, last uint16) {
	r.Port, r.EndPort = first, nil
	if last != first {
		r.EndPort = &last
	}
}

// LastPort is the last of the range, or the port itself.
func (r *RouterPort) LastPort() uint16 {
	if r.EndPort != nil {
		return *r.EndPort
	}
	return r.Port
}

// Size is how many ports the range has that the instances listen on.
func (r *RouterPort) Size() int {
	if r.ContainerEndPort == nil {
		return 1
	}
	return int(*r.ContainerEndPort) - int(r.ContainerPort) + 1
}

// String is the port as people write it: 5432/tcp or 7000-7010/udp.
func (r *RouterPort) String() string {
	s := strconv.Itoa(int(r.Port))
	if r.EndPort != nil {
		s += "-" + strconv.Itoa(int(*r.EndPort))
	}
	return s + "/" + strings.ToLower(string(r.Protocol))
}

// maxPortRange is how many ports a range may have.
const maxPortRange = 1000

// passedOn checks what a port says about how the edge passes it on.
func (c *checker) passedOn(s *AppSpec, at string, p Port) {
	app := App{Spec: *s}
	if p.EndPort == nil && p.EdgePort == "" && p.Forward == nil {
		return
	}
	protocol := app.transport(p)
	if protocol == "" {
		c.add(at, "expected endPort, edgePort and forward only for a port of protocol TCP or UDP that the edge passes on, got %s in an app of type %s",
			p.Protocol, s.Type)
		return
	}
	size := 1
	if p.EndPort != nil {
		size = int(*p.EndPort) - int(p.ContainerPort) + 1
		if size < 2 || size > maxPortRange {
			c.add(at+".endPort", "expected the last port of a range of 2 to %d that begins at containerPort %d, got %d", maxPortRange, p.ContainerPort, *p.EndPort)
		}
	}
	if p.EdgePort != "" {
		first, last, err := ParsePorts(p.EdgePort)
		n := int(last) - int(first) + 1
		switch {
		case err != nil:
			c.err(at+".edgePort", err)
		case n > maxPortRange:
			c.add(at+".edgePort", "expected at most %d ports, got %d", maxPortRange, n)
		case p.EndPort != nil && n != size:
			c.add(at+".edgePort", "expected %d ports, as many as from containerPort to endPort, got %d", size, n)
		}
	}
	if p.Forward != nil {
		c.forward(at+".forward", protocol, p.Forward)
	}
}

func (c *checker) forward(at string, protocol PortProtocol, f *Forward) {
	oneOf(c, at+".proxyProtocol", f.ProxyProtocol)
	oneOf(c, at+".acceptProxyProtocol", f.AcceptProxyProtocol)
	if protocol == PortProtocolUDP {
		if len(f.ServerNames)+len(f.Alpn) > 0 || f.ProxyProtocol != "" || f.AcceptProxyProtocol != "" || f.ConnectTimeoutSeconds != nil {
			c.add(at, "expected idleTimeoutSeconds and maxSessions only for UDP: the rest is of TCP connections")
		}
	} else if f.MaxSessions != nil {
		c.add(at+".maxSessions", "expected it for UDP only; TCP connections are bounded by the node")
	}
	names := map[string]string{}
	for i, name := range f.ServerNames {
		c.host(item(at+".serverNames", i), name)
		c.unique(names, name, item(at+".serverNames", i), "")
	}
	for i, name := range f.Alpn {
		if name == "" || len(name) > 255 {
			c.add(item(at+".alpn", i), "expected a protocol such as h2, got %q", name)
		}
	}
	c.bounds(at, f)
}

// bounds checks the times and counts of a port's forwarding.
func (c *checker) bounds(at string, f *Forward) {
	for name, seconds := range map[string]*float64{"connectTimeoutSeconds": f.ConnectTimeoutSeconds, "idleTimeoutSeconds": f.IdleTimeoutSeconds} {
		if seconds != nil && (!(*seconds > 0) || *seconds > 7*24*3600) {
			c.add(at+"."+name, "expected more than 0 and at most a week, got %v", *seconds)
		}
	}
	if f.MaxSessions != nil && *f.MaxSessions == 0 {
		c.add(at+".maxSessions", "expected at least 1, got 0; leave it out for the default")
	}
}

// overlapping checks that no two ports ask for the same port of the edge.
func (c *checker) overlapping(s *AppSpec) {
	type claim struct {
		first, last uint16
		udp         bool
		at          string
	}
	var claims []claim
	for i, p := range s.Ports {
		first, last, err := ParsePorts(p.EdgePort)
		if err != nil {
			continue
		}
		this := claim{first, last, p.Protocol == PortProtocolUDP, item("spec.ports", i)}
		j := slices.IndexFunc(claims, func(o claim) bool { return o.udp == this.udp && first <= o.last && o.first <= last })
		if j >= 0 && (p.Forward == nil || len(p.Forward.ServerNames) == 0) {
			c.add(this.at+".edgePort", "%s stands in %s already; each must be there once", p.EdgePort, claims[j].at)
		}
		claims = append(claims, this)
	}
}
