package edge

import "github.com/prometheus/client_golang/prometheus"

// Collector returns the edge's metrics, for a Prometheus registry.
func (e *Edge) Collector() prometheus.Collector { return collector{e} }

var (
	backendDuration = prometheus.NewDesc("vortex_edge_backend_request_duration_seconds",
		"Time from when a backend was sent a request to its response's head, by class of status.", []string{"pool", "backend", "code"}, nil)
	backendFailures = prometheus.NewDesc("vortex_edge_backend_failures_total",
		"Attempts that a backend did not answer: refused, reset, too late.", []string{"pool", "backend"}, nil)
	backendInFlight = prometheus.NewDesc("vortex_edge_backend_requests_in_flight",
		"Requests a backend has and has not finished.", []string{"pool", "backend"}, nil)
	backendUsable = prometheus.NewDesc("vortex_edge_backend_usable",
		"1 while a backend may get requests, 0 while it is left out.", []string{"pool", "backend"}, nil)
	accessLost = prometheus.NewDesc("vortex_edge_access_log_lost_total",
		"Lines of the access log that were dropped because it was not written fast enough.", nil, nil)
)

// collector exposes what an edge counts.
type collector struct{ edge *Edge }

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	c.edge.meters.Describe(ch)
	c.edge.ports.Describe(ch)
	for _, d := range healthMetrics {
		ch <- d
	}
	ch <- backendDuration
	ch <- backendFailures
	ch <- backendInFlight
	ch <- backendUsable
	ch <- accessLost
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	c.edge.meters.Collect(ch)
	c.edge.ports.Collect(ch)
	c.edge.collectHealth(ch)
	if log := c.edge.config.Access; log != nil {
		ch <- prometheus.MustNewConstMetric(accessLost, prometheus.CounterValue, float64(log.Lost()))
	}
	now := c.edge.server.Now()
	for _, p := range c.edge.table.Pools() {
		seen := map[string]bool{} // an instance at two addresses would be the same metric twice
		for _, b := range p.Backends() {
			if seen[b.Instance] {
				continue
			}
			seen[b.Instance] = true
			counts, usable := b.Counts(now), 1.0
			if counts.Out != "" {
				usable = 0
			}
			b.Responses().Collect(ch, backendDuration, p.App, b.Instance)
			ch <- prometheus.MustNewConstMetric(backendFailures, prometheus.CounterValue, float64(counts.Failed), p.App, b.Instance)
			ch <- prometheus.MustNewConstMetric(backendInFlight, prometheus.GaugeValue, float64(counts.InFlight), p.App, b.Instance)
			ch <- prometheus.MustNewConstMetric(backendUsable, prometheus.GaugeValue, usable, p.App, b.Instance)
		}
	}
}
