package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"vortex/bench/process"
	"vortex/bench/report"
	"vortex/test/harness"
)

const (
	readyLimit    = 1000 // ms
	residentLimit = 120  // MB
	cpuLimit      = 2    // percent of a core
	besideLimit   = 4    // MB for each container
)

// measureStart measures the time from the command to a Vortex that says that it is ready, with new data each time.
func (b *bench) measureStart(ctx context.Context) error {
	var took []time.Duration
	for range b.starts {
		began := time.Now()
		v, err := harness.Start(ctx, harness.Options{})
		if err != nil {
			return err
		}
		ready, err := v.API.Ready(ctx)
		d := time.Since(began)
		if err != nil || !ready.Ready {
			return errors.Join(fmt.Errorf("it wrote its run file and is not ready: %+v", ready), err, v.Destroy())
		}
		took = append(took, d)
		if err := v.Destroy(); err != nil {
			return err
		}
	}
	values := millis(took)
	b.report.Add(report.Figure{Name: "main/command_to_ready/p50", Value: report.Percentile(values, 0.5), Unit: "ms", Limit: readyLimit, Samples: len(took)})
	b.report.Add(report.Figure{Name: "main/command_to_ready/max", Value: report.Percentile(values, 1), Unit: "ms", Samples: len(took)})
	return nil
}

// measureIdle measures what Vortex costs while the sample app serves nobody.
func (b *bench) measureIdle(ctx context.Context) (err error) {
	l, err := b.openWithImage(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	from := l.changes.mark()
	if err := l.deploy(ctx, app("hello", healthCheck(), manual(1))); err != nil {
		return err
	}
	if _, err := l.changes.next(ctx, from, "the app is routed to", routedOf("hello", 1)); err != nil {
		return err
	}
	l.stop() // the benchmark's own watch is no idle work
	l.changes.wait()
	if err := sleep(ctx, b.settle); err != nil {
		return err
	}
	before, err := process.CPU(l.PID())
	if err != nil {
		return err
	}
	began := time.Now()
	if err := sleep(ctx, b.idle); err != nil {
		return err
	}
	after, err := process.CPU(l.PID())
	if err != nil {
		return err
	}
	share := 100 * (after - before).Seconds() / time.Since(began).Seconds()
	memory, err := process.Resident(l.PID())
	if err != nil {
		return err
	}
	b.report.Add(report.Figure{Name: "main/idle/cpu", Value: share, Unit: "%", Limit: cpuLimit, Samples: 1})
	b.report.Add(report.Figure{Name: "main/idle/resident", Value: memory, Unit: "MB", Limit: residentLimit, Samples: 1})
	return b.measureBeside(l)
}

// measureBeside measures the processes of ours that stay beside the one container there is.
func (b *bench) measureBeside(l *live) error {
	helpers, err := processesBelow(l.Data)
	if err != nil {
		return err
	}
	if len(helpers) == 0 {
		return errors.New("nothing stays beside the container; the figure would be of nothing")
	}
	var total float64
	for _, pid := range helpers {
		memory, err := process.Resident(pid)
		if err != nil {
			return err
		}
		total += memory
	}
	b.report.Add(report.Figure{Name: "main/idle/beside_container", Value: total, Unit: "MB", Limit: besideLimit, Samples: len(helpers)})
	return nil
}

// processesBelow returns the processes whose program lies below a directory.
func processesBelow(dir string) ([]int, error) {
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, link := range links {
		program, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(program, dir+"/") {
			continue // a process of the kernel, or one that has just ended
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link)))
		if err != nil {
			return nil, fmt.Errorf("list processes: %w", err)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// sleep waits; the error is why ctx ended first.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
