package vortex

import (
	"math"
	"slices"
	"time"
)

// What a spec means where it is silent. The accessors below apply these values; nothing else does.
const (
	DefaultCPUMillis           = 100              // requested thousandths of a core
	DefaultMemoryBytes         = 64 << 20         // requested
	DefaultStopGrace           = 10 * time.Second // from SIGTERM to SIGKILL
	DefaultLostAfter           = time.Second      // from a node's silence to instances in the places of its own
	DefaultTargetRPS           = 100              // requests per second and replica
	DefaultProbePeriodSeconds  = 5                //
	DefaultProbeTimeoutSeconds = 2                //
	DefaultFailureThreshold    = 3                // failed probes in a row
	DefaultSuccessThreshold    = 1                // passed probes in a row
)

// probeableCodes are the status codes of a healthy answer where the spec names none: 200 to 399.
var probeableCodes = func() []uint16 {
	codes := make([]uint16, 0, 200)
	for code := range uint16(200) {
		codes = append(codes, 200+code)
	}
	return codes
}()

// PrimaryPort returns the container port that requests and probes go to: the first that is not UDP.
// It is 0 when there is none.
func (a *App) PrimaryPort() uint16 {
	for _, p := range a.Spec.Ports {
		if p.Protocol != PortProtocolUDP {
			return p.ContainerPort
		}
	}
	return 0
}

// HostPorts returns the ports of the node that every instance needs for itself, in the order of the spec.
func (a *App) HostPorts() []uint16 {
	var ports []uint16
	for _, p := range a.Spec.Ports {
		if p.HostPort != nil && *p.HostPort != 0 {
			ports = append(ports, *p.HostPort)
		}
	}
	return ports
}

// Probe returns the health check with every default filled in, and whether there is one to make. Without a
// healthCheck block an http or tcp app is checked by connecting to its primary port, so that nothing is sent to an
// instance that does not listen yet; a worker is not checked. The slices of the result must not be changed.
func (a *App) Probe() (HealthCheck, bool) {
	var check HealthCheck
	switch {
	case a.HealthCheck != nil:
		check = *a.HealthCheck
	case a.Spec.Type != AppTypeWorker && a.PrimaryPort() != 0:
		check.Protocol = ProbeProtocolTCP
	default:
		return HealthCheck{}, false
	}
	return check.WithDefaults(a.PrimaryPort()), true
}

// WithDefaults returns the check with every default filled in, and port where it names none.
func (x HealthCheck) WithDefaults(port uint16) HealthCheck {
	x.SetDefaults()
	if x.Protocol != ProbeProtocolEXEC {
		x.Port = orElse(x.Port, port)
	}
	if x.Protocol == ProbeProtocolHTTP {
		x.setHTTPDefaults()
	}
	x.InitialDelaySeconds = orElse(x.InitialDelaySeconds, 0)
	x.PeriodSeconds = orElse(x.PeriodSeconds, DefaultProbePeriodSeconds)
	x.TimeoutSeconds = orElse(x.TimeoutSeconds, DefaultProbeTimeoutSeconds)
	x.FailureThreshold = orElse(x.FailureThreshold, DefaultFailureThreshold)
	x.SuccessThreshold = orElse(x.SuccessThreshold, DefaultSuccessThreshold)
	return x
}

func (x *HealthCheck) setHTTPDefaults() {
	if x.Path == "" {
		x.Path = "/"
	}
	if x.Method == "" {
		x.Method = "GET"
	}
	if len(x.ExpectedStatusCodes) == 0 {
		x.ExpectedStatusCodes = probeableCodes
	}
}

// Requests returns what an instance is promised: thousandths of a core and bytes of memory. Where the spec asks for
// nothing but sets a limit below the default, the limit is the request. The spec must be valid.
func (a *App) Requests() (cpuMillis, memoryBytes uint64) {
	cpuMillis, memoryBytes = DefaultCPUMillis, DefaultMemoryBytes
	r := a.Spec.Resources
	if r == nil {
		return cpuMillis, memoryBytes
	}
	if r.Limits != nil {
		cpuMillis = min(cpuMillis, quantity(ParseCPU, r.Limits.CPU, cpuMillis))
		memoryBytes = min(memoryBytes, quantity(ParseMemory, r.Limits.Memory, memoryBytes))
	}
	return quantity(ParseCPU, r.CPU, cpuMillis), quantity(ParseMemory, r.Memory, memoryBytes)
}

// Limits returns what an instance may use at most: thousandths of a core, bytes of memory, processes. 0 is no limit
// (of pids: the driver's default). Memory that is requested and not limited is limited to the request.
// The spec must be valid.
func (a *App) Limits() (cpuMillis, memoryBytes, pids uint64) {
	r := a.Spec.Resources
	if r == nil {
		return 0, 0, 0
	}
	memoryBytes = quantity(ParseMemory, r.Memory, 0)
	if r.Limits == nil {
		return 0, memoryBytes, 0
	}
	cpuMillis = quantity(ParseCPU, r.Limits.CPU, 0)
	memoryBytes = quantity(ParseMemory, r.Limits.Memory, memoryBytes)
	return cpuMillis, memoryBytes, uint64(*orElse(r.Limits.Pids, 0))
}

// quantity parses text, or returns fallback when it is empty or, in a spec that is not valid, wrong.
func quantity(parse func(string) (uint64, error), text string, fallback uint64) uint64 {
	if n, err := parse(text); err == nil {
		return n
	}
	return fallback
}

// StopGrace returns how long an instance may take to exit after SIGTERM before it is killed.
func (a *App) StopGrace() time.Duration {
	if s := a.Spec.StopGracePeriodSeconds; s != nil {
		return time.Duration(*s) * time.Second
	}
	return DefaultStopGrace
}

// LostAfter returns for how long an instance's node may be silent before another instance takes its place.
func (a *App) LostAfter() time.Duration {
	if s := a.Spec.LostAfterSeconds; s != nil {
		return time.Duration(*s * float64(time.Second))
	}
	return DefaultLostAfter
}

// ScalingMode returns who decides the number of replicas: auto unless the spec says manual.
func (a *App) ScalingMode() ScalingMode {
	if a.Scaling != nil && a.Scaling.Mode == ScalingModeManual {
		return ScalingModeManual
	}
	return ScalingModeAuto
}

// ReplicaRange returns the fewest and the most replicas the app may have. floor and ceiling are the cluster's
// defaults; what the spec says wins over them. In manual mode both results are the same: the spec's replicas, else
// its minReplicas, else floor.
func (a *App) ReplicaRange(floor, ceiling uint32) (fewest, most uint32) {
	s := a.Scaling
	if s == nil {
		return floor, max(floor, ceiling)
	}
	if a.ScalingMode() == ScalingModeManual {
		n := *orElse(s.Replicas, *orElse(s.MinReplicas, floor))
		return n, n
	}
	fewest, most = *orElse(s.MinReplicas, floor), *orElse(s.MaxReplicas, ceiling)
	if s.MinReplicas == nil {
		return min(fewest, most), most
	}
	return fewest, max(fewest, most)
}

// TargetRPS returns how many requests per second one replica is meant to take.
func (a *App) TargetRPS() float64 {
	if a.Scaling != nil && a.Scaling.TargetRPSPerReplica != nil {
		return *a.Scaling.TargetRPSPerReplica
	}
	return DefaultTargetRPS
}

// ReplicasFor returns how many replicas rps requests per second need: ceil(rps / TargetRPS). The result is not yet
// held within ReplicaRange.
func (a *App) ReplicasFor(rps float64) uint32 {
	n := math.Ceil(rps / a.TargetRPS())
	switch {
	case !(n > 0):
		return 0
	case n > math.MaxUint32:
		return math.MaxUint32
	}
	return uint32(n)
}

// Strategy returns how a new release replaces the one before it.
func (a *App) Strategy() RolloutStrategy {
	if a.Rollout != nil && a.Rollout.Strategy != "" {
		return a.Rollout.Strategy
	}
	return RolloutStrategyRolling
}

// MaxSurge returns how many instances beyond the wanted number a rollout may have at once: 1 unless the spec says
// otherwise. For an app with host ports, whose old and new instances cannot stand side by side on a node, it is 0
// unless maxUnavailable is 0.
func (a *App) MaxSurge() uint32 {
	var r RolloutPolicy
	if a.Rollout != nil {
		r = *a.Rollout
	}
	switch {
	case r.MaxSurge != nil:
		return *r.MaxSurge
	case len(a.HostPorts()) > 0 && (r.MaxUnavailable == nil || *r.MaxUnavailable > 0):
		return 0
	default:
		return 1
	}
}

// MaxUnavailable returns how many of the wanted instances a rollout may be short of at once: 0 unless the
// spec says otherwise or MaxSurge is 0, when it is 1.
func (a *App) MaxUnavailable() uint32 {
	if a.Rollout != nil && a.Rollout.MaxUnavailable != nil {
		return *a.Rollout.MaxUnavailable
	}
	if a.MaxSurge() == 0 {
		return 1
	}
	return 0
}

// AutoRevert reports whether a release that fails is replaced by the last good one. It is so unless the spec says otherwise.
func (a *App) AutoRevert() bool {
	return a.Rollout == nil || a.Rollout.AutoRevert == nil || *a.Rollout.AutoRevert
}

// Ineffective returns the paths of the fields that are set and have no effect in this version, in the order of the spec.
func (a *App) Ineffective() []string {
	s := a.Scaling
	if s == nil {
		return nil
	}
	var paths []string
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"maxP95LatencyMs", s.MaxP95LatencyMs != nil},
		{"maxCPUPercent", s.MaxCPUPercent != nil},
		{"maxMemoryPercent", s.MaxMemoryPercent != nil},
		{"maxConnPerReplica", s.MaxConnPerReplica != nil},
		{"windowSeconds", s.WindowSeconds != nil},
	} {
		if f.set {
			paths = append(paths, "scaling."+f.name)
		}
	}
	return paths
}

// Constraints returns the parsed constraints. Those that are not valid are left out: Validate refuses them.
func (a *App) Constraints() []Constraint {
	parsed := make([]Constraint, 0, len(a.Spec.Constraints))
	for _, text := range a.Spec.Constraints {
		if c, err := ParseConstraint(text); err == nil {
			parsed = append(parsed, c)
		}
	}
	return slices.Clip(parsed)
}

// orElse returns p, or a pointer to fallback when p is nil.
func orElse[T any](p *T, fallback T) *T {
	if p == nil {
		return &fallback
	}
	return p
}
