package vortex

import (
	"slices"
	"strings"
)

const maxReplicas = 100_000 // of one app, to catch slips of the finger

func (c *checker) scaling(s *Scaling) {
	oneOf(c, "scaling.mode", s.Mode)
	if s.Replicas != nil && s.Mode != ScalingModeManual {
		c.add("scaling.replicas", "expected mode: manual with a fixed number of replicas, got mode: auto; "+
			"set mode: manual, or use minReplicas and maxReplicas")
	}
	c.replicas("scaling.replicas", s.Replicas)
	c.replicas("scaling.minReplicas", s.MinReplicas)
	c.replicas("scaling.maxReplicas", s.MaxReplicas)
	if s.MaxReplicas != nil && *s.MaxReplicas == 0 {
		c.add("scaling.maxReplicas", "expected at least 1, got 0; stop the app to run none of it")
	} else if s.MinReplicas != nil && s.MaxReplicas != nil && *s.MinReplicas > *s.MaxReplicas {
		c.add("scaling.maxReplicas", "expected at least minReplicas, which is %d, got %d", *s.MinReplicas, *s.MaxReplicas)
	}
	c.positive("scaling.targetRPSPerReplica", s.TargetRPSPerReplica)
	c.positive("scaling.maxP95LatencyMs", s.MaxP95LatencyMs)
	c.percent("scaling.maxCPUPercent", s.MaxCPUPercent)
	c.percent("scaling.maxMemoryPercent", s.MaxMemoryPercent)
	if s.MaxConnPerReplica != nil && *s.MaxConnPerReplica == 0 {
		c.add("scaling.maxConnPerReplica", "expected at least 1, got 0; leave it out for no limit")
	}
	c.percent("scaling.scaleOutThresholdPct", s.ScaleOutThresholdPct)
	c.percent("scaling.scaleInThresholdPct", s.ScaleInThresholdPct)
	if out, in := s.ScaleOutThresholdPct, s.ScaleInThresholdPct; out != nil && in != nil && *in >= *out {
		c.add("scaling.scaleInThresholdPct", "expected less than scaleOutThresholdPct, which is %v, got %v", *out, *in)
	}
	c.seconds("scaling.windowSeconds", s.WindowSeconds)
	c.seconds("scaling.cooldownSeconds", s.CooldownSeconds)
	c.seconds("scaling.stabilizationWindowSeconds", s.StabilizationWindowSeconds)
}

func (c *checker) replicas(at string, n *uint32) {
	if n != nil && *n > maxReplicas {
		c.add(at, "expected at most %d, got %d", maxReplicas, *n)
	}
}

func (c *checker) seconds(at string, n *uint32) {
	if n != nil && *n > maxSeconds {
		c.add(at, "expected at most %d (a day), got %d", maxSeconds, *n)
	}
}

// positive refuses 0, negative numbers, infinity and what is no number.
func (c *checker) positive(at string, n *float64) {
	if n != nil && !(*n > 0 && *n <= 1e12) {
		c.add(at, "expected a number above 0, got %v", *n)
	}
}

func (c *checker) percent(at string, n *float64) {
	if n != nil && !(*n >= 1 && *n <= 100) {
		c.add(at, "expected a percentage from 1 to 100, got %v", *n)
	}
}

func (c *checker) healthCheck(a *App) {
	h := a.HealthCheck
	if !oneOf(c, "healthCheck.protocol", h.Protocol) {
		return
	}
	switch h.Protocol {
	case ProbeProtocolGRPC, ProbeProtocolPUSH:
		c.add("healthCheck.protocol", "%s is not supported by this version yet; expected HTTP, TCP or EXEC", h.Protocol)
	case ProbeProtocolEXEC:
		if len(h.Command) == 0 || h.Command[0] == "" {
			c.add("healthCheck.command", `expected the command to run inside the instance, such as ["/app", "check"], got none`)
		}
		c.onlyHTTP(h)
	case ProbeProtocolTCP:
		c.probePort(a)
		c.onlyHTTP(h)
	default:
		c.probePort(a)
		c.httpProbe(h)
	}
	if len(h.Command) > 0 && h.Protocol != ProbeProtocolEXEC {
		c.add("healthCheck.command", "expected no command with this protocol; set protocol: EXEC or remove it")
	}
	c.arguments("healthCheck.command", h.Command)
	c.probeTimes(h)
}

// probePort checks that there is a port to connect to.
func (c *checker) probePort(a *App) {
	h := a.HealthCheck
	if h.Port != nil && *h.Port == 0 {
		c.add("healthCheck.port", "expected a port from 1 to 65535, got 0; leave it out for the first of spec.ports")
	} else if h.Port == nil && a.PrimaryPort() == 0 {
		c.add("healthCheck.port", "expected a port, because spec.ports has none; add it or use protocol: EXEC")
	}
}

// onlyHTTP refuses what only an HTTP check would look at.
func (c *checker) onlyHTTP(h *HealthCheck) {
	for _, f := range []struct {
		name  string
		given bool
	}{
		{"path", h.Path != ""},
		{"method", h.Method != ""},
		{"headers", len(h.Headers) > 0},
		{"body", h.Body != ""},
		{"expectedStatusCodes", len(h.ExpectedStatusCodes) > 0},
	} {
		if f.given {
			c.add("healthCheck."+f.name, "%s means nothing to a check by %s; set protocol: HTTP or remove it", f.name, h.Protocol)
		}
	}
}

var probeMethods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

func (c *checker) httpProbe(h *HealthCheck) {
	if h.Path != "" && (h.Path[0] != '/' || strings.ContainsFunc(h.Path, unprintable)) {
		c.add("healthCheck.path", `expected a path such as "/health", got %q`, h.Path)
	}
	if h.Method != "" && !slices.Contains(probeMethods, h.Method) {
		c.add("healthCheck.method", "expected one of %s, got %q", strings.Join(probeMethods, ", "), h.Method)
	}
	for i, header := range h.Headers {
		at := item("healthCheck.headers", i)
		if header.Name == "" || strings.ContainsFunc(header.Name, notTag) {
			c.add(at+".name", `expected the name of a header such as "X-Probe", got %q`, header.Name)
		}
		if strings.ContainsFunc(header.Value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
			c.add(at+".value", "expected a value of one line, got %q", header.Value)
		}
	}
	for i, code := range h.ExpectedStatusCodes {
		if code < 100 || code > 599 {
			c.add(item("healthCheck.expectedStatusCodes", i), "expected a status code from 100 to 599, got %d", code)
		}
	}
}

func (c *checker) probeTimes(h *HealthCheck) {
	if d := h.InitialDelaySeconds; d != nil && !(*d >= 0 && *d <= maxSeconds) {
		c.add("healthCheck.initialDelaySeconds", "expected a number from 0 to %d (a day), got %v", maxSeconds, *d)
	}
	for _, f := range []struct {
		name  string
		value *float64
	}{{"periodSeconds", h.PeriodSeconds}, {"timeoutSeconds", h.TimeoutSeconds}} {
		if f.value != nil && !(*f.value >= 0.001 && *f.value <= maxSeconds) {
			c.add("healthCheck."+f.name, "expected a number from 0.001 to %d (a day), got %v", maxSeconds, *f.value)
		}
	}
	for _, f := range []struct {
		name  string
		value *uint32
	}{{"failureThreshold", h.FailureThreshold}, {"successThreshold", h.SuccessThreshold}} {
		if f.value != nil && (*f.value < 1 || *f.value > 100) {
			c.add("healthCheck."+f.name, "expected a number from 1 to 100, got %d", *f.value)
		}
	}
}

func (c *checker) rollout(r *RolloutPolicy) {
	if oneOf(c, "rollout.strategy", r.Strategy) && (r.Strategy == RolloutStrategyCanary || r.Strategy == RolloutStrategyBlueGreen) {
		c.add("rollout.strategy", "%s is not supported by this version yet; expected rolling or recreate", r.Strategy)
	}
	c.replicas("rollout.maxSurge", r.MaxSurge)
	c.replicas("rollout.maxUnavailable", r.MaxUnavailable)
	if r.MaxSurge != nil && *r.MaxSurge == 0 && r.MaxUnavailable != nil && *r.MaxUnavailable == 0 {
		c.add("rollout.maxUnavailable", "expected maxSurge or maxUnavailable to be at least 1, got 0 for both: nothing could be replaced")
	}
}
