package agent_test

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"vortex"
	"vortex/internal/kind"
)

// BenchmarkExitToRecord measures from an exit, as its driver tells of it, to the committed record that another part of the
// cluster sees: the first half of healing.
func BenchmarkExitToRecord(b *testing.B) {
	d := newSim(b)
	bed := newBed(b, d)
	bed.place(worker("job"), b.N)
	for k := range b.N {
		bed.until("job-"+strconv.Itoa(k), "is healthy", isHealthy)
	}
	watch := bed.store.Watch(kind.WatchOptions{Prefixes: []string{vortex.Containers.Prefix + ":"}})
	defer watch.Close()
	took := make([]time.Duration, 0, b.N)
	b.ResetTimer()
	for k := range b.N {
		id := "job-" + strconv.Itoa(k)
		began := time.Now()
		if err := d.Kill(id); err != nil {
			b.Fatal(err)
		}
		for !isDead(bed.record(id)) {
			if _, err := watch.Next(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		took = append(took, time.Since(began))
	}
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
}

// BenchmarkStart measures from a placement to the record of a running instance, many at once.
func BenchmarkStart(b *testing.B) {
	bed := newBed(b, newSim(b))
	b.ResetTimer()
	bed.place(worker("job"), b.N)
	for k := range b.N {
		bed.until("job-"+strconv.Itoa(k), "is healthy", isHealthy)
	}
}
