package health

import (
	"time"

	"vortex"
)

// Schedule says when to probe and how many results in a row decide.
type Schedule struct {
	InitialDelay     time.Duration // from the start of the Checker to its first probe
	Period           time.Duration // between probes, once the first good answer came
	Timeout          time.Duration // of one probe
	FailureThreshold int           // failures in a row that make the target Unhealthy
	SuccessThreshold int           // successes in a row that make it Healthy
}

// shortest is the least period and timeout, whatever a spec says.
const shortest = 10 * time.Millisecond

// ScheduleOf returns a check's schedule, with the defaults of vortex.App.Probe where it is silent.
func ScheduleOf(check vortex.HealthCheck) Schedule {
	return Schedule{
		InitialDelay:     seconds(check.InitialDelaySeconds, 0),
		Period:           max(seconds(check.PeriodSeconds, vortex.DefaultProbePeriodSeconds), shortest),
		Timeout:          max(seconds(check.TimeoutSeconds, vortex.DefaultProbeTimeoutSeconds), shortest),
		FailureThreshold: threshold(check.FailureThreshold, vortex.DefaultFailureThreshold),
		SuccessThreshold: threshold(check.SuccessThreshold, vortex.DefaultSuccessThreshold),
	}
}

func seconds(s *float64, fallback float64) time.Duration {
	if s != nil {
		fallback = *s
	}
	return time.Duration(fallback * float64(time.Second))
}

func threshold(n *uint32, fallback int) int {
	if n == nil || *n == 0 {
		return fallback
	}
	return int(*n)
}
