// Package health tells whether an instance answers: one Probe of it (by HTTP, TCP, gRPC or a command), and the Checker that turns the results of many
// probes into Unknown, Healthy or Unhealthy.
//
// A start is seen within milliseconds of the instance's first good answer, because a Checker probes fast until then;
// a failure counts at most once per period, so that a slow start has the time its app was promised. A Checker never
// retries in a burst afterwards, never reports a probe that changed nothing, and keeps nothing between runs.
//
//	probe, err := health.NewProbe(check, "10.88.0.5", exec)
//	checker := health.Checker{Probe: probe.Run, Schedule: health.ScheduleOf(check)}
//	checker.Run(ctx, func(s health.State) { … })
package health
