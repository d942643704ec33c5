package edge

import (
	"github.com/prometheus/client_golang/prometheus"

	"vortex/internal/edge/pool"
)

var (
	ejectionsTotal = prometheus.NewDesc("vortex_edge_ejections_total",
		"Backends left out for a while because of how they answered, by pool.", []string{"pool"}, nil)
	panicsTotal = prometheus.NewDesc("vortex_edge_panics_total",
		"Times a pool began to use all of its backends because too few were healthy, by pool.", []string{"pool"}, nil)
	panicking = prometheus.NewDesc("vortex_edge_panicking",
		"1 while a pool uses all of its backends because too few are healthy, by pool.", []string{"pool"}, nil)
	overloadsTotal = prometheus.NewDesc("vortex_edge_overloads_total",
		"Requests refused because they met a limit of their pool, by pool and limit.", []string{"pool", "limit"}, nil)
	backendsOut = prometheus.NewDesc("vortex_edge_backends_out",
		"Backends that get no requests, by pool and reason.", []string{"pool", "reason"}, nil)
	backendsIn = prometheus.NewDesc("vortex_edge_backends",
		"Backends, those that get no requests included, by pool.", []string{"pool"}, nil)
	probesTotal = prometheus.NewDesc("vortex_edge_probes_total",
		"Health checks that the edge made by itself.", nil, nil)
)

// healthMetrics are the metrics about what is known of backends.
var healthMetrics = []*prometheus.Desc{ejectionsTotal, panicsTotal, panicking, overloadsTotal, backendsOut, backendsIn, probesTotal}

// collectHealth collects what is known of the pools' backends.
func (e *Edge) collectHealth(ch chan<- prometheus.Metric) {
	now := e.server.Now()
	for _, p := range e.table.Pools() {
		collectPool(ch, p, now)
	}
	ch <- prometheus.MustNewConstMetric(probesTotal, prometheus.CounterValue, float64(e.prober.Stats().Made))
}

func collectPool(ch chan<- prometheus.Metric, p *pool.Pool, now int64) {
	out := map[pool.Out]int{pool.OutRefused: 0, pool.OutNode: 0, pool.OutCheck: 0, pool.OutEjected: 0}
	backends := p.Backends()
	for _, b := range backends {
		if reason := b.Counts(now).Out; reason != pool.NotOut {
			out[reason]++
		}
	}
	for reason, n := range out {
		ch <- prometheus.MustNewConstMetric(backendsOut, prometheus.GaugeValue, float64(n), p.App, string(reason))
	}
	ch <- prometheus.MustNewConstMetric(backendsIn, prometheus.GaugeValue, float64(len(backends)), p.App)
	ch <- prometheus.MustNewConstMetric(ejectionsTotal, prometheus.CounterValue, float64(p.Ejections()), p.App)
	ch <- prometheus.MustNewConstMetric(panicsTotal, prometheus.CounterValue, float64(p.Panics()), p.App)
	var panics float64
	if p.Panicking(now) {
		panics = 1
	}
	ch <- prometheus.MustNewConstMetric(panicking, prometheus.GaugeValue, panics, p.App)
	for limit, n := range p.Refused {
		ch <- prometheus.MustNewConstMetric(overloadsTotal, prometheus.CounterValue, float64(n), p.App, string(limit))
	}
}
