// Package meter counts what the edge does: per app for the autoscaler, in total for Prometheus.
//
// Counting is a handful of atomic additions; nothing locks or allocates per request. Reading is done by
// whoever publishes: Sample gives an app's last second, Collector the exposition.
package meter

import (
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// latencyPasses is how many samples, normally a second apart, the latency quantiles look back over.
const latencyPasses = 10

// App is one app's meter.
type App struct {
	Name string

	started     Window
	failed      Window
	inFlight    atomic.Int64
	connections atomic.Int64
	latency     Histogram

	mu      sync.Mutex
	history []*counts // of latency, oldest first
}

// Start counts a request that arrived at now, and returns how many are in flight with it.
func (a *App) Start(now int64) int64 {
	a.started.Add(now)
	return a.inFlight.Add(1)
}

// Answered counts a response's head: its status and how long after the request's head it came. The body's
// transfer is left out, because it measures the client's line and a stream's length, not the app.
func (a *App) Answered(now int64, status int, took time.Duration) {
	a.latency.Observe(took)
	if status >= 500 {
		a.failed.Add(now)
	}
}

// Finish counts the end of a request that Start counted.
func (a *App) Finish() { a.inFlight.Add(-1) }

// Connect counts by how many the client connections that last asked for this app grew.
func (a *App) Connect(n int64) { a.connections.Add(n) }

// InFlight returns the requests started and not finished.
func (a *App) InFlight() int64 { return a.inFlight.Load() }

// Sample is an app's traffic around a moment.
type Sample struct {
	RPS         uint32  // requests that arrived in the last second
	InFlight    uint32  // requests started and not finished, held ones included
	Connections uint32  // client connections that last asked for this app
	P50, P95    float64 // milliseconds from a request's head to its response's, over the last ten samples
	Errors      float64 // answers of 500 and above in the last second
}

// Sample reads the meter at now. Every call is one step of the latency quantiles' memory.
func (a *App) Sample(now int64) Sample { return a.read(now, a.recentLatency(true)) }

// Peek reads the meter at now without a step.
func (a *App) Peek(now int64) Sample { return a.read(now, a.recentLatency(false)) }

func (a *App) read(now int64, recent *counts) Sample {
	return Sample{
		RPS:         a.started.Count(now),
		InFlight:    gauge(&a.inFlight),
		Connections: gauge(&a.connections),
		P50:         recent.quantile(0.50),
		P95:         recent.quantile(0.95),
		Errors:      float64(a.failed.Count(now)),
	}
}

func (a *App) recentLatency(step bool) *counts {
	current := a.latency.snapshot()
	a.mu.Lock()
	defer a.mu.Unlock()
	var oldest *counts
	if len(a.history) > 0 {
		oldest = a.history[0]
	}
	if step {
		a.history = append(a.history, current)
	}
	if len(a.history) > latencyPasses {
		a.history = slices.Delete(a.history, 0, 1)
	}
	return current.since(oldest)
}

func gauge(v *atomic.Int64) uint32 {
	return uint32(min(max(v.Load(), 0), math.MaxUint32))
}

// Set holds the meters of every app and the edge's own totals. The zero value is ready.
type Set struct {
	mu          sync.Mutex
	apps        map[string]*App
	routes      map[string]*Responses
	statuses    [1000]atomic.Uint64
	connections atomic.Int64
	limited     atomic.Uint64
	retried     atomic.Uint64
	handedOver  atomic.Uint64
	mirrored    [2]atomic.Uint64 // dropped, sent
}

// App returns the meter of an app, made on first use.
func (s *Set) App(name string) *App {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.apps[name]
	if a == nil {
		a = &App{Name: name}
		if s.apps == nil {
			s.apps = map[string]*App{}
		}
		s.apps[name] = a
	}
	return a
}

// Forget drops the meter of an app that is gone.
func (s *Set) Forget(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.apps, name)
}

// Route returns the meter of a route, made on first use. A nil Set has none.
func (s *Set) Route(name string) *Responses {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.routes[name]
	if r == nil {
		r = &Responses{}
		if s.routes == nil {
			s.routes = map[string]*Responses{}
		}
		s.routes[name] = r
	}
	return r
}

// ForgetRoute drops the meter of a route that is gone.
func (s *Set) ForgetRoute(name string) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.routes, name)
}

// routesByName returns the meters of all routes.
func (s *Set) routesByName() map[string]*Responses {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.routes)
}

// Apps returns the meters of all apps in the order of their names.
func (s *Set) Apps() []*App {
	s.mu.Lock()
	apps := make([]*App, 0, len(s.apps))
	for _, a := range s.apps {
		apps = append(apps, a)
	}
	s.mu.Unlock()
	slices.SortFunc(apps, func(a, b *App) int { return strings.Compare(a.Name, b.Name) })
	return apps
}

// Answered counts a request the edge answered with a status code.
func (s *Set) Answered(status int) {
	if status >= 0 && status < len(s.statuses) {
		s.statuses[status].Add(1)
	}
}

// Connect counts by how many the open client connections grew.
func (s *Set) Connect(n int64) { s.connections.Add(n) }

// Limited counts a request refused by the rate limit.
func (s *Set) Limited() { s.limited.Add(1) }

// Retried counts a request sent to another backend after a first one failed it.
func (s *Set) Retried() { s.retried.Add(1) }

// HandedOver counts a connection that left a lane.
func (s *Set) HandedOver() { s.handedOver.Add(1) }

// Mirrored counts a copy of a request that was sent to another pool, or was to be.
func (s *Set) Mirrored(sent bool) {
	if sent {
		s.mirrored[1].Add(1)
	} else {
		s.mirrored[0].Add(1)
	}
}
