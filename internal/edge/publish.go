package edge

import (
	"context"
	"slices"
	"time"

	"vortex"
	"vortex/internal/edge/meter"
)

// Publisher is where the edge says what it sees. A Put replaces the record at its key.
type Publisher interface {
	// PutMetrics writes vortex:metrics:<ClientID>:<Edge>, which expires after MetricsTTL.
	PutMetrics(ctx context.Context, m vortex.ClientMetrics) error
	// PutEdge writes vortex:edge:<ID>, which expires after RecordTTL.
	PutEdge(ctx context.Context, r vortex.EdgeRecord) error
}

// How long what an edge wrote may stay when it writes nothing more: what is older is an edge's that is gone. Each of them is written by its edge alone, so
// nobody else deletes it.
const (
	// RecordTTL is that of EdgeRecord, which is written again every Config.RenewInterval. It is long: an edge that is cut off from the store for hours
	// still sends requests, and rollouts must not forget it.
	RecordTTL = 24 * time.Hour
	// MetricsTTL is that of ClientMetrics. They are not written again while they do not change, because a count that a user sets by hand
	// holds until they do: what expires has not changed for longer than any decision looks back.
	MetricsTTL = 24 * time.Hour
	// QuotaTTL is that of QuotaRecord, which is written every second while there is anything to tell.
	QuotaTTL = quotaAge
)

// DefaultRenewInterval is Config.RenewInterval's default.
const DefaultRenewInterval = time.Hour

// publishTimeout is how long one write may take before it is tried again with what is true by then.
const publishTimeout = 5 * time.Second

// publishDrain publishes the applied revision and the busy instances at once when a removal was applied or a removed
// instance has finished, and again every Config.RenewInterval, until ctx ends. What cannot be written is tried again.
func (e *Edge) publishDrain(ctx context.Context) {
	var last *vortex.EdgeRecord
	pause := firstRetry
	renew := time.NewTicker(e.config.RenewInterval)
	defer renew.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-renew.C:
			last = nil
		case <-e.drained:
		}
		if !e.synced.Load() {
			continue
		}
		record := e.edgeRecord()
		if last != nil && last.Revision == record.Revision && slices.Equal(last.Busy, record.Busy) {
			continue
		}
		if err := e.putEdge(ctx, record); err != nil {
			e.log.WarnContext(ctx, "Edge state not published", "err", err)
			if !sleep(ctx, pause) {
				return
			}
			pause = min(2*pause, lastRetry)
			signal(e.drained)
			continue
		}
		last, pause = &record, firstRetry
	}
}

func (e *Edge) edgeRecord() vortex.EdgeRecord {
	e.taking.Lock()
	revision, busy := e.table.Drain()
	e.taking.Unlock()
	return vortex.EdgeRecord{ID: e.config.ID, Node: e.config.Node, Address: e.config.Address, Revision: revision, Busy: busy}
}

func (e *Edge) putEdge(ctx context.Context, r vortex.EdgeRecord) error {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	return e.publisher.PutEdge(ctx, r)
}

// published is what was last written for an app.
type published struct {
	sample meter.Sample
	meter  *meter.App
}

// publishMetrics publishes each app's traffic every interval when it changed, and at once when a request begins to wait
// for a backend: that is what wakes an app that was scaled to zero.
func (e *Edge) publishMetrics(ctx context.Context) {
	ticker := time.NewTicker(e.config.MetricsInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			e.publishApps(ctx, false)
			if e.advanced.Swap(false) { // a change that removed nothing is published too, in its own time
				signal(e.drained)
			}
		case <-e.demand:
			e.publishApps(ctx, true)
		}
	}
}

// publishApps publishes the apps whose traffic changed; with waiting only those that have requests waiting for a backend.
func (e *Edge) publishApps(ctx context.Context, waiting bool) {
	now := e.server.Now()
	present := map[string]bool{}
	for _, pool := range e.table.Pools() {
		present[pool.App] = true
		if waiting && e.held(pool) == 0 {
			continue
		}
		last, known := e.published[pool.App]
		if waiting && known && last.sample.RPS > 0 && last.sample.InFlight > 0 {
			continue // who reads it is awake already
		}
		sample := pool.Meter.Peek(now)
		if !waiting {
			sample = pool.Meter.Sample(now)
		}
		if known && last.meter == pool.Meter && last.sample == sample {
			continue
		}
		if err := e.putMetrics(ctx, pool.App, sample); err != nil {
			e.log.WarnContext(ctx, "Metrics not published", "app", pool.App, "err", err)
			return // the store does not answer; the next round says it again
		}
		e.published[pool.App] = published{sample, pool.Meter}
	}
	for app := range e.published {
		if !present[app] {
			delete(e.published, app)
		}
	}
}

func (e *Edge) putMetrics(ctx context.Context, app string, s meter.Sample) error {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	return e.publisher.PutMetrics(ctx, vortex.ClientMetrics{
		ClientID: app, Edge: e.config.ID,
		CurrentRPS: s.RPS, InFlight: &s.InFlight, Connections: &s.Connections,
		LatencyP50Ms: &s.P50, LatencyP95Ms: &s.P95, ErrorsPerSecond: &s.Errors,
		ObservedAt: time.Now().UTC(),
	})
}
