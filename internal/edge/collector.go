package edge

import "github.com/prometheus/client_golang/prometheus"

// Collector returns the edge's metrics, for a Prometheus registry.
func (e *Edge) Collector() prometheus.Collector { return collector{e} }

// collector exposes what an edge counts.
type collector struct{ edge *Edge }

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	c.edge.meters.Describe(ch)
	for _, d := range healthMetrics {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	c.edge.meters.Collect(ch)
	c.edge.collectHealth(ch)
}
