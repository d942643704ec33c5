package spec

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/compose-spec/compose-go/v2/types"

	"vortex"
)

// restart accepts the policies that are what Vortex does anyway: a dead instance is replaced.
func (s *service) restart() {
	if s.config.Restart == types.RestartPolicyNo {
		s.fault("restart", `a dead instance is always replaced; expected "always", "unless-stopped" or "on-failure", got "no"`)
	}
	if d := s.config.Deploy; d != nil && d.RestartPolicy != nil && d.RestartPolicy.Condition == "none" {
		s.fault("deploy.restart_policy.condition", `a dead instance is always replaced; expected "any" or "on-failure", got "none"`)
	}
}

// networks accepts the one network there is.
func (s *service) networks() {
	for name := range s.config.Networks {
		if name != "default" {
			s.fault("networks", "%s: all apps share one network; remove it", name)
		}
	}
}

// scaling runs the number of replicas that compose would: the one declared, else one. With the label
// vortex.scaling: auto it is the fewest, and load decides.
func (s *service) scaling() *vortex.Scaling {
	replicas := 1
	if s.config.Scale != nil {
		replicas = *s.config.Scale
	}
	if d := s.config.Deploy; d != nil {
		if d.Replicas != nil {
			replicas = *d.Replicas
		}
		if d.Mode != "" && d.Mode != "replicated" {
			s.fault("deploy.mode", "expected replicated, got %s", d.Mode)
		}
	}
	if replicas < 0 || replicas > math.MaxInt32 {
		s.fault("deploy.replicas", "expected a number from 0, got %d", replicas)
		return nil
	}
	n := uint32(replicas)
	switch mode := s.config.Labels[labelScaling]; mode {
	case "auto":
		return &vortex.Scaling{Mode: vortex.ScalingModeAuto, MinReplicas: &n}
	case "", "manual":
	default:
		s.fault("labels", "%s: expected auto or manual, got %q", labelScaling, mode)
	}
	return &vortex.Scaling{Mode: vortex.ScalingModeManual, Replicas: &n}
}

// resources takes deploy.resources, and the older keys where it is silent.
func (s *service) resources() *vortex.Resources {
	var limits, reservations types.Resource
	if d := s.config.Deploy; d != nil {
		limits, reservations = *cmp.Or(d.Resources.Limits, &limits), *cmp.Or(d.Resources.Reservations, &reservations)
	}
	r := vortex.Resources{
		CPU:    cpuText(reservations.NanoCPUs),
		Memory: memoryText(cmp.Or(reservations.MemoryBytes, s.config.MemReservation)),
	}
	l := vortex.ResourceLimits{
		CPU:    cpuText(cmp.Or(limits.NanoCPUs, types.NanoCPUs(s.config.CPUS))),
		Memory: memoryText(cmp.Or(limits.MemoryBytes, s.config.MemLimit)),
	}
	if pids := cmp.Or(limits.Pids, s.config.PidsLimit); pids > 0 { // -1 is no limit
		n := uint32(min(pids, math.MaxUint32))
		l.Pids = &n
	}
	if l != (vortex.ResourceLimits{}) {
		r.Limits = &l
	}
	if r == (vortex.Resources{}) {
		return nil
	}
	return &r
}

// cpuText returns cores as an App spec writes them, to a thousandth.
func cpuText(cores types.NanoCPUs) string {
	if cores <= 0 {
		return ""
	}
	return vortex.FormatCPU(uint64(max(1, math.Round(float64(cores)*1000))))
}

func memoryText(bytes types.UnitBytes) string {
	if bytes <= 0 {
		return ""
	}
	return vortex.FormatMemory(uint64(bytes))
}

// healthCheck makes an EXEC check. Probing more often while an instance starts (start_interval) is what Vortex does anyway.
func (s *service) healthCheck() *vortex.HealthCheck {
	h := s.config.HealthCheck
	if h == nil || h.Disable || len(h.Test) == 0 {
		return nil
	}
	check := vortex.HealthCheck{Protocol: vortex.ProbeProtocolEXEC}
	switch kind, rest := h.Test[0], []string(h.Test[1:]); kind {
	case "NONE":
		return nil
	case "CMD":
		check.Command = slices.Clone(rest)
	case "CMD-SHELL":
		check.Command = append([]string{"/bin/sh", "-c"}, rest...)
	default:
		s.fault("healthcheck.test", "expected NONE, CMD or CMD-SHELL as the first item, got %q", kind)
	}
	check.PeriodSeconds, check.TimeoutSeconds = seconds(h.Interval), seconds(h.Timeout)
	check.InitialDelaySeconds = seconds(h.StartPeriod)
	if h.Retries != nil {
		n := uint32(min(*h.Retries, math.MaxUint32))
		check.FailureThreshold = &n
	}
	return &check
}

func seconds(d *types.Duration) *float64 {
	if d == nil {
		return nil
	}
	s := time.Duration(*d).Seconds()
	return &s
}
