package network

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// BenchmarkAttach reports the latency of Attach with a prepared namespace (warm), with one and a published port, and
// without (cold).
func BenchmarkAttach(b *testing.B) {
	for _, mode := range []string{"warm", "warm+port", "cold"} {
		b.Run(mode, func(b *testing.B) {
			cfg := testConfig(b)
			cfg.Log = nil
			n := setup(b, cfg)
			var spec AttachSpec
			if mode == "warm+port" {
				spec.Ports = append(spec.Ports, portTo(freePort(b), 80))
			}
			var took []time.Duration
			for k := 0; b.Loop(); k++ {
				b.StopTimer()
				if mode != "cold" && poolLen(n) == 0 {
					n.cfg.PoolSize = 16
					n.fill(b.Context())
				}
				id := fmt.Sprintf("i-%d", k)
				b.StartTimer()
				start := time.Now()
				mustAttach(b, n, id, spec)
				took = append(took, time.Since(start))
				b.StopTimer()
				if poolLen(n) == 0 || len(spec.Ports) > 0 {
					if err := n.Reconcile(b.Context(), nil); err != nil {
						b.Fatal(err)
					}
				}
				b.StartTimer()
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
}
