package api

import (
	"context"
	"sync"
	"time"

	"vortex/client"
	"vortex/internal/runtime"
)

// usage turns the counters of running instances into percentages: CPU time between two looks at an instance.
type usage struct {
	mu      sync.Mutex
	samples map[string]sample
}

type sample struct {
	runtime.Stats

	cpuMillis float64 // thousandths of a core used on average between this sample and the one before
}

const (
	sampleEvery  = 500 * time.Millisecond // a younger sample is not replaced
	sampleExpiry = 2 * time.Minute        // an older sample says nothing about now
	sampleLimit  = 4096                   // forgotten samples are dropped when there are more
)

// measure adds the use of CPU and memory to the metrics of an app. An instance that cannot be measured is left out.
func (s *Server) measure(ctx context.Context, f *facts) {
	if s.Instances == nil {
		return
	}
	var cpu, cpuMax, memory, memoryMax float64
	for _, c := range f.containers {
		if c.Status != "Running" && c.Status != client.ContainerDraining {
			continue
		}
		taken, ok := s.usage.take(ctx, s.Instances, c)
		if !ok {
			continue
		}
		asked := f.requests[c.ID]
		cpu += taken.cpuMillis
		cpuMax += orElse(float64(asked.cpuMillis), 1000)
		if asked.memoryBytes > 0 {
			memory += float64(taken.MemoryBytes)
			memoryMax += float64(asked.memoryBytes)
		}
	}
	f.metrics.CPUPercent = percent(cpu, cpuMax)
	f.metrics.MemoryPercent = percent(memory, memoryMax)
}

func orElse(v, otherwise float64) float64 {
	if v > 0 {
		return v
	}
	return otherwise
}

// percent is part of whole with one decimal.
func percent(part, whole float64) float64 {
	if whole <= 0 {
		return 0
	}
	return float64(int(part/whole*1000+0.5)) / 10
}

// take returns an instance's use now, averaged since the look before; the first look averages since its start.
func (u *usage) take(ctx context.Context, from Instances, c client.Container) (sample, bool) {
	u.mu.Lock()
	before, known := u.samples[c.ID]
	u.mu.Unlock()
	if known && time.Since(before.At) < sampleEvery {
		return before, true
	}
	stats, err := from.Stats(ctx, c.ID)
	if err != nil {
		return sample{}, false
	}
	now := sample{Stats: stats}
	switch {
	case known && stats.At.Sub(before.At) < sampleExpiry && stats.CPU >= before.CPU:
		now.cpuMillis = cores(stats.CPU-before.CPU, stats.At.Sub(before.At))
	case c.StartedAt != nil:
		now.cpuMillis = cores(stats.CPU, max(stats.At.Sub(*c.StartedAt), time.Second)) // a start is no measure
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.samples == nil || len(u.samples) > sampleLimit {
		u.samples = map[string]sample{}
	}
	u.samples[c.ID] = now
	return now, true
}

// cores is CPU time over wall time, in thousandths of a core.
func cores(cpu, wall time.Duration) float64 {
	if wall <= 0 {
		return 0
	}
	return float64(cpu) / float64(wall) * 1000
}
