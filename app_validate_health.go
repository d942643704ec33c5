package vortex

import (
	"cmp"
	"slices"
	"strings"
)

// maxPattern is how long what a TCP check sends or expects may be.
const maxPattern = 4096

// healthCheck checks a check that an agent makes. hasPort is whether there is a port to check where it names none.
func (c *checker) healthCheck(at string, h *HealthCheck, hasPort bool) {
	if !oneOf(c, at+".protocol", h.Protocol) {
		return
	}
	switch h.Protocol {
	case ProbeProtocolPUSH:
		c.add(at+".protocol", "%s is not supported by this version yet; expected HTTP, TCP, GRPC or EXEC", h.Protocol)
	case ProbeProtocolEXEC:
		if len(h.Command) == 0 || h.Command[0] == "" {
			c.add(at+".command", `expected the command to run inside the instance, such as ["/app", "check"], got none`)
		}
	case ProbeProtocolTCP, ProbeProtocolGRPC:
		c.probePort(at, h, hasPort)
	default:
		c.probePort(at, h, hasPort)
		c.httpProbe(at, h)
	}
	c.foreign(at, h)
	c.arguments(at+".command", h.Command)
	for _, f := range []struct{ name, value string }{{"send", h.Send}, {"expect", h.Expect}, {"service", h.Service}} {
		if len(f.value) > maxPattern {
			c.add(at+"."+f.name, "expected at most %d bytes, got %d", maxPattern, len(f.value))
		}
	}
	c.probeTimes(at, h)
}

// probePort checks that there is a port to connect to.
func (c *checker) probePort(at string, h *HealthCheck, hasPort bool) {
	if h.Port != nil && *h.Port == 0 {
		c.add(at+".port", "expected a port from 1 to 65535, got 0; leave it out for the first of spec.ports")
	} else if h.Port == nil && !hasPort {
		c.add(at+".port", "expected a port, because spec.ports has none; add it or use protocol: EXEC")
	}
}

// foreign refuses what only a check by another protocol would look at.
func (c *checker) foreign(at string, h *HealthCheck) {
	protocol := cmp.Or(h.Protocol, ProbeProtocolHTTP)
	for _, f := range []struct {
		name  string
		given bool
		only  ProbeProtocol
	}{
		{"path", h.Path != "", ProbeProtocolHTTP},
		{"method", h.Method != "", ProbeProtocolHTTP},
		{"headers", len(h.Headers) > 0, ProbeProtocolHTTP},
		{"body", h.Body != "", ProbeProtocolHTTP},
		{"expectedStatusCodes", len(h.ExpectedStatusCodes) > 0, ProbeProtocolHTTP},
		{"send", h.Send != "", ProbeProtocolTCP},
		{"expect", h.Expect != "", ProbeProtocolTCP},
		{"service", h.Service != "", ProbeProtocolGRPC},
	} {
		if f.given && protocol != f.only {
			c.add(at+"."+f.name, "%s means nothing to a check by %s; set protocol: %s or remove it", f.name, protocol, f.only)
		}
	}
	if len(h.Command) > 0 && protocol != ProbeProtocolEXEC {
		c.add(at+".command", "expected no command with this protocol; set protocol: EXEC or remove it")
	}
}

var probeMethods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

func (c *checker) httpProbe(at string, h *HealthCheck) {
	if h.Path != "" && (h.Path[0] != '/' || strings.ContainsFunc(h.Path, unprintable)) {
		c.add(at+".path", `expected a path such as "/health", got %q`, h.Path)
	}
	if h.Method != "" && !slices.Contains(probeMethods, h.Method) {
		c.add(at+".method", "expected one of %s, got %q", strings.Join(probeMethods, ", "), h.Method)
	}
	for i, header := range h.Headers {
		at := item(at+".headers", i)
		if header.Name == "" || strings.ContainsFunc(header.Name, notTag) {
			c.add(at+".name", `expected the name of a header such as "X-Probe", got %q`, header.Name)
		}
		if strings.ContainsFunc(header.Value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
			c.add(at+".value", "expected a value of one line, got %q", header.Value)
		}
	}
	for i, code := range h.ExpectedStatusCodes {
		if code < 100 || code > 599 {
			c.add(item(at+".expectedStatusCodes", i), "expected a status code from 100 to 599, got %d", code)
		}
	}
}

func (c *checker) probeTimes(at string, h *HealthCheck) {
	if d := h.InitialDelaySeconds; d != nil && !(*d >= 0 && *d <= maxSeconds) {
		c.add(at+".initialDelaySeconds", "expected a number from 0 to %d (a day), got %v", maxSeconds, *d)
	}
	c.time(at+".periodSeconds", h.PeriodSeconds)
	c.time(at+".timeoutSeconds", h.TimeoutSeconds)
	for _, f := range []struct {
		name  string
		value *uint32
	}{{"failureThreshold", h.FailureThreshold}, {"successThreshold", h.SuccessThreshold}} {
		if f.value != nil && (*f.value < 1 || *f.value > 100) {
			c.add(at+"."+f.name, "expected a number from 1 to 100, got %d", *f.value)
		}
	}
}

// time refuses what is no length of time, as a number of seconds.
func (c *checker) time(at string, n *float64) {
	if n != nil && !(*n >= 0.001 && *n <= maxSeconds) {
		c.add(at, "expected a number from 0.001 to %d (a day), got %v", maxSeconds, *n)
	}
}

// Problems returns everything that is wrong with a check that an edge makes of backends, whose port it is about unless it names another. at
// is the path of the check.
func (x *HealthCheck) Problems(at string) []Problem {
	var c checker
	if x.Protocol == ProbeProtocolEXEC || x.Protocol == ProbeProtocolPUSH {
		c.add(at+".protocol", "expected HTTP, TCP or GRPC, got %s: an edge can run no command inside a backend", x.Protocol)
	} else {
		c.healthCheck(at, x, true)
	}
	return c.problems
}

// judgement checks what routes and pools have in common.
func (c *checker) judgement(at string, panicPercent *uint32, o *Outlier, circuit *Circuit) {
	if panicPercent != nil && *panicPercent > 100 {
		c.add(at+"panicPercent", "expected a percentage from 0 to 100, got %d", *panicPercent)
	}
	if o != nil {
		c.outlier(at+"outlier.", o)
	}
	if circuit != nil {
		c.circuit(at+"circuit.", circuit)
	}
}

func (c *checker) outlier(at string, o *Outlier) {
	if d := o.SuccessRateDeviations; d != nil && !(*d >= 0 && *d <= 100) {
		c.add(at+"successRateDeviations", "expected a number from 0 to 100, got %v", *d)
	}
	c.time(at+"intervalSeconds", o.IntervalSeconds)
	c.time(at+"ejectionSeconds", o.EjectionSeconds)
	c.time(at+"maxEjectionSeconds", o.MaxEjectionSeconds)
	if p := o.MaxEjectedPercent; p != nil && (*p < 1 || *p > 100) {
		c.add(at+"maxEjectedPercent", "expected a percentage from 1 to 100, got %d", *p)
	}
	for _, f := range []struct {
		name  string
		value *uint32
	}{{"minBackends", o.MinBackends}, {"minRequests", o.MinRequests}} {
		if f.value != nil && *f.value == 0 {
			c.add(at+f.name, "expected at least 1, got 0; leave it out for the default")
		}
	}
}

func (c *checker) circuit(at string, l *Circuit) {
	c.limit(at+"maxConnections", l.MaxConnections)
	c.limit(at+"maxRequests", l.MaxRequests)
	c.limit(at+"maxRetries", l.MaxRetries)
	if b := l.Backend; b != nil {
		c.limit(at+"backend.maxConnections", b.MaxConnections)
		c.limit(at+"backend.maxRequests", b.MaxRequests)
	}
}

func (c *checker) limit(at string, n *uint32) {
	if n != nil && *n == 0 {
		c.add(at, "expected at least 1, got 0; leave it out for no limit")
	}
}
