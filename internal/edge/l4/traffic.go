package l4

import (
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"vortex/internal/edge/pool"
)

// Traffic counts what a port or a backend carries. The zero value is ready.
type Traffic struct {
	opened   atomic.Uint64
	active   atomic.Int64
	failed   atomic.Uint64
	received atomic.Uint64 // from clients
	sent     atomic.Uint64 // to clients
}

// Counts is Traffic at a moment.
type Counts struct {
	Opened   uint64 // connections or UDP sessions so far
	Active   int64  // now
	Failed   uint64 // of a port: refused, or without a backend; of a backend: not connected
	Received uint64 // bytes from clients
	Sent     uint64 // bytes to clients
}

// Counts returns what was counted so far.
func (t *Traffic) Counts() Counts {
	return Counts{t.opened.Load(), t.active.Load(), t.failed.Load(), t.received.Load(), t.sent.Load()}
}

func (t *Traffic) begin() {
	t.opened.Add(1)
	t.active.Add(1)
}

func (t *Traffic) end() { t.active.Add(-1) }

type backendKey struct{ app, instance string }

// backendTraffic returns the counters of a backend, made on first use.
func (s *Server) backendTraffic(app string, b *pool.Backend) *Traffic {
	key := backendKey{app, b.Instance}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.backends[key]
	if t == nil {
		t = &Traffic{}
		s.backends[key] = t
	}
	return t
}

// forgetBackends drops the counters of an app's backends that are gone and idle.
func (s *Server) forgetBackends(app string) {
	present := map[string]bool{}
	for _, svc := range s.apps[app] {
		for _, e := range svc.Endpoints {
			present[e.Instance] = true
		}
	}
	for key, t := range s.backends {
		if key.app == app && !present[key.instance] && t.active.Load() == 0 {
			delete(s.backends, key)
		}
	}
}

var (
	portLabels    = []string{"app", "protocol", "port"}
	backendLabels = []string{"app", "instance"}

	portDescs    = describe("port", "by port", portLabels)
	backendDescs = describe("port_backend", "by backend", backendLabels)
)

// describe returns the metrics of Counts in the order of their fields.
func describe(of, by string, labels []string) [5]*prometheus.Desc {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("vortex_edge_"+of+"_"+name, help+", "+by+".", labels, nil)
	}
	return [5]*prometheus.Desc{
		desc("connections_total", "TCP connections and UDP sessions"),
		desc("connections", "TCP connections and UDP sessions open now"),
		desc("failures_total", "TCP connections and UDP sessions that found no backend or were refused"),
		desc("received_bytes_total", "Bytes that TCP and UDP clients sent"),
		desc("sent_bytes_total", "Bytes sent to TCP and UDP clients"),
	}
}

// Describe implements prometheus.Collector.
func (s *Server) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range append(portDescs[:], backendDescs[:]...) {
		ch <- desc
	}
}

// Collect implements prometheus.Collector.
func (s *Server) Collect(ch chan<- prometheus.Metric) {
	for _, p := range s.Status() {
		p.Counts.export(ch, portDescs, p.App, p.Protocol.String(), strconv.Itoa(int(p.Port)))
	}
	s.mu.Lock()
	all := make(map[backendKey]Counts, len(s.backends))
	for key, t := range s.backends {
		all[key] = t.Counts()
	}
	s.mu.Unlock()
	for key, c := range all {
		c.export(ch, backendDescs, key.app, key.instance)
	}
}

func (c Counts) export(ch chan<- prometheus.Metric, descs [5]*prometheus.Desc, labels ...string) {
	for i, v := range [5]float64{float64(c.Opened), float64(c.Active), float64(c.Failed), float64(c.Received), float64(c.Sent)} {
		kind := prometheus.CounterValue
		if i == 1 {
			kind = prometheus.GaugeValue
		}
		ch <- prometheus.MustNewConstMetric(descs[i], kind, v, labels...)
	}
}
