package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"vortex"
	"vortex/client"
)

const (
	metricLimit = 20 // ms, of the p99
	metricPace  = 25 * time.Millisecond
	// quickLimits take away the pauses between two decisions on an app: they are no work.
	quickLimits = "settings: {scaleupnumber: 50, scaledownnumber: 50, scale_up_grace_period: 1ms, scale_down_cooldown: 1ms}\n"
)

// measureMetric measures the time from the put of a metric by a plain client to the scale job it makes, as the same client sees
// it. Puts go out at a fixed rate over several apps; the instances are simulated, and do start.
func (b *bench) measureMetric(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "vortex-bench-metric-")
	if err != nil {
		return fmt.Errorf("make configuration: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	config := filepath.Join(dir, "vortex.yaml")
	if err := os.WriteFile(config, []byte(quickLimits), 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	l, err := b.openWithImage(ctx, "--runtime", "sim", "--config", config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	plain, err := client.OpenKind(l.Run.Kind, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, plain.Close()) }()
	if err := b.deploySimulated(ctx, l); err != nil {
		return err
	}
	ticker := time.NewTicker(metricPace)
	defer ticker.Stop()
	var took []time.Duration
	for i := range b.metrics {
		<-ticker.C
		instances := 2 + i/b.scaleApps%2 // up and down, so that every metric makes a job
		d, err := l.putMetric(ctx, plain, simulated(i%b.scaleApps), instances)
		if err != nil {
			return err
		}
		took = append(took, d)
	}
	b.percentiles("main/metric_to_job", took, metricLimit)
	return nil
}

func simulated(i int) string { return fmt.Sprintf("sim-%d", i) }

// deploySimulated registers the apps and waits until each has been scaled once.
func (b *bench) deploySimulated(ctx context.Context, l *live) error {
	plain, err := client.OpenKind(l.Run.Kind, "")
	if err != nil {
		return err
	}
	defer func() { _ = plain.Close() }()
	for i := range b.scaleApps {
		name := simulated(i)
		from := l.changes.mark()
		auto := vortex.Scaling{Mode: vortex.ScalingModeAuto, MinReplicas: new(uint32(1)), MaxReplicas: new(uint32(10))}
		if err := l.deploy(ctx, app(name, nil, auto)); err != nil {
			return err
		}
		if _, err := l.changes.next(ctx, from, "the app is routed to", runningOf(name)); err != nil {
			return err
		}
		if _, err := l.putMetric(ctx, plain, name, 3); err != nil {
			return err
		}
	}
	return nil
}

// putMetric puts a metric that asks for a number of instances and waits for the job.
func (l *live) putMetric(ctx context.Context, plain *client.Kind, name string, instances int) (time.Duration, error) {
	const rpsPerInstance = 100 // the default target
	from, began := l.changes.mark(), time.Now()
	value := fmt.Appendf(nil, `{"client_id": %q, "current_rps": %d}`, name, instances*rpsPerInstance)
	if _, err := plain.Put(ctx, vortex.Metrics.Key(name), value, 0); err != nil {
		return 0, err
	}
	job, err := l.changes.next(ctx, from, "the metric makes a job", record(vortex.ScaleJobs, func(j vortex.ScaleJob) bool {
		return j.ClientID == name && j.Target == uint32(instances)
	}))
	return job.at.Sub(began), err
}
