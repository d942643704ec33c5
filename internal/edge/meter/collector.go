package meter

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	requestsTotal = prometheus.NewDesc("vortex_requests_total",
		"Requests the edge answered, by status code.", []string{"status"}, nil)
	requestDuration = prometheus.NewDesc("vortex_edge_request_duration_seconds",
		"Time from a request's head to its response's head, by app.", []string{"app"}, nil)
	routeDuration = prometheus.NewDesc("vortex_edge_route_request_duration_seconds",
		"Time from a request's head to its response's head, by route and class of status.", []string{"route", "code"}, nil)
	requestsInFlight = prometheus.NewDesc("vortex_edge_requests_in_flight",
		"Requests started and not finished, held ones included, by app.", []string{"app"}, nil)
	appConnections = prometheus.NewDesc("vortex_edge_app_connections",
		"Client connections that last asked for this app, by app.", []string{"app"}, nil)
	connectionsOpen = prometheus.NewDesc("vortex_edge_connections",
		"Open client connections.", nil, nil)
	limitedTotal = prometheus.NewDesc("vortex_edge_rate_limited_total",
		"Requests refused because their client passed its rate limit.", nil, nil)
	retriesTotal = prometheus.NewDesc("vortex_edge_retries_total",
		"Attempts made after an earlier backend failed a request without answering.", nil, nil)
	handedOverTotal = prometheus.NewDesc("vortex_edge_handed_over_total",
		"Connections that left a lane because their request was not one for it.", nil, nil)
	mirroredTotal = prometheus.NewDesc("vortex_edge_mirrored_total",
		"Copies of requests for another app, by whether they were sent and answered, or dropped.", []string{"result"}, nil)
)

// exposedBounds are the bucket bounds of vortex_edge_request_duration_seconds, in microseconds. Each
// stands for the nearest bound of the finer histogram beneath, hence powers of two.
var exposedBounds = [...]uint64{
	512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144, 524288,
	1 << 20, 1 << 21, 1 << 22, 1 << 23, 1 << 24, 1 << 25,
}

// Describe implements prometheus.Collector.
func (s *Set) Describe(ch chan<- *prometheus.Desc) {
	ch <- requestsTotal
	ch <- requestDuration
	ch <- routeDuration
	ch <- requestsInFlight
	ch <- appConnections
	ch <- connectionsOpen
	ch <- limitedTotal
	ch <- retriesTotal
	ch <- handedOverTotal
	ch <- mirroredTotal
}

// Collect implements prometheus.Collector. A status that was never answered is left out, 200 excepted.
func (s *Set) Collect(ch chan<- prometheus.Metric) {
	for status := range s.statuses {
		n := s.statuses[status].Load()
		if n > 0 || status == 200 {
			ch <- prometheus.MustNewConstMetric(requestsTotal, prometheus.CounterValue, float64(n), strconv.Itoa(status))
		}
	}
	for _, a := range s.Apps() {
		ch <- a.latency.export(a.Name)
		ch <- prometheus.MustNewConstMetric(requestsInFlight, prometheus.GaugeValue, float64(a.inFlight.Load()), a.Name)
		ch <- prometheus.MustNewConstMetric(appConnections, prometheus.GaugeValue, float64(a.connections.Load()), a.Name)
	}
	for name, r := range s.routesByName() {
		r.Collect(ch, routeDuration, name)
	}
	ch <- prometheus.MustNewConstMetric(connectionsOpen, prometheus.GaugeValue, float64(s.connections.Load()))
	ch <- prometheus.MustNewConstMetric(limitedTotal, prometheus.CounterValue, float64(s.limited.Load()))
	ch <- prometheus.MustNewConstMetric(retriesTotal, prometheus.CounterValue, float64(s.retried.Load()))
	ch <- prometheus.MustNewConstMetric(handedOverTotal, prometheus.CounterValue, float64(s.handedOver.Load()))
	for i, result := range []string{"dropped", "sent"} {
		ch <- prometheus.MustNewConstMetric(mirroredTotal, prometheus.CounterValue, float64(s.mirrored[i].Load()), result)
	}
}

// export returns the histogram as Prometheus sees it.
func (h *Histogram) export(app string) prometheus.Metric {
	current := h.snapshot()
	cumulative := make(map[float64]uint64, len(exposedBounds))
	var seen uint64
	bucket := 0
	for _, bound := range exposedBounds {
		for bucket < bucketCount && upperBound(bucket) <= bound {
			seen += current[bucket]
			bucket++
		}
		cumulative[float64(bound)/1e6] = seen
	}
	return prometheus.MustNewConstHistogram(requestDuration, current.total(), float64(h.sum.Load())/1e6, cumulative, app)
}
