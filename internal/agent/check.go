package agent

import (
	"context"
	"time"

	"vortex"
	"vortex/internal/health"
	"vortex/internal/runtime"
)

// maxProbeOutput is how much of a probing command's output is kept.
const maxProbeOutput = 4 << 10

// check begins to probe a running instance. One without a check is healthy because it runs.
func (i *instance) check(life context.Context) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.phase != running {
		return nil
	}
	ctx, cancel := context.WithCancel(life)
	i.probing = cancel
	check, ok := i.want.release.Spec.Probe()
	if !ok || simulated(i.driver) {
		i.judged(health.State{Health: vortex.HealthHealthy})
		return nil
	}
	if port := i.want.release.Spec.PrimaryPort(); i.rec.Port != nil && deref(check.Port) == port {
		check.Port = i.rec.Port // the driver may have chosen another
	}
	probe, err := health.NewProbe(check, i.rec.IPAddress, i.probeExec(i.driver))
	if err != nil {
		i.judged(health.State{Health: vortex.HealthUnhealthy, Detail: explain(err)})
		return nil
	}
	i.probe = probe
	checker := health.Checker{
		Probe:    probe.Run,
		Schedule: health.ScheduleOf(check),
		Initial:  health.State{Health: i.rec.Health, Detail: i.rec.HealthDetail},
	}
	left := time.Until(i.rec.StartedAt.Add(checker.Schedule.InitialDelay))
	checker.Schedule.InitialDelay = min(max(0, left), checker.Schedule.InitialDelay) // the clock may have been put back since
	i.agent.work.Go(func() {
		checker.Run(ctx, func(s health.State) {
			i.mu.Lock()
			defer i.mu.Unlock()
			if ctx.Err() == nil {
				i.judged(s)
			}
		})
	})
	return nil
}

// simulated reports whether a driver only plays instances: nothing answers at their addresses.
func simulated(driver runtime.Driver) bool {
	return driver.Name() == string(vortex.RuntimeNameSim)
}

// judged takes what a checker thinks into the record. mu is held.
func (i *instance) judged(s health.State) {
	if s.Health == i.rec.Health && s.Detail == i.rec.HealthDetail {
		return
	}
	before := i.rec.Health
	i.rec.Health, i.rec.HealthDetail = s.Health, s.Detail
	if s.Health == vortex.HealthHealthy && i.rec.HealthyAt.IsZero() {
		i.rec.HealthyAt = time.Now().UTC()
	}
	i.save()
	if s.Health == before {
		return
	}
	switch s.Health {
	case vortex.HealthHealthy:
		i.log.Info("Instance healthy", "app", i.rec.ClientID)
		i.agent.record(&i.rec, "InstanceHealthy", vortex.SeverityInfo, "healthy: "+orRunning(s.Detail))
	case vortex.HealthUnhealthy:
		i.log.Warn("Instance unhealthy", "app", i.rec.ClientID, "detail", s.Detail)
		i.agent.record(&i.rec, "InstanceUnhealthy", vortex.SeverityWarning, "unhealthy: "+s.Detail)
	default:
	}
}

// orRunning is the detail of an instance that has no check.
func orRunning(detail string) string {
	if detail == "" {
		return "it runs, and has no health check"
	}
	return detail
}

// probeExec runs a probe's command through the driver.
func (i *instance) probeExec(driver runtime.Driver) health.Exec {
	return func(ctx context.Context, command []string) (int, string, error) {
		out := &head{limit: maxProbeOutput}
		code, err := driver.Exec(ctx, i.id, runtime.ExecSpec{Command: command, Stdout: out, Stderr: out})
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return code, out.String(), err
	}
}
