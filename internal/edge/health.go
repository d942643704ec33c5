package edge

import (
	"context"
	"time"

	"vortex/internal/edge/pool"
)

// reviewInterval is how often pools judge their outliers and see what time has changed.
const reviewInterval = time.Second

// review judges the pools' backends by how they did, until ctx ends.
func (e *Edge) review(ctx context.Context) {
	ticker := time.NewTicker(reviewInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			now := e.server.Now()
			for _, p := range e.table.Pools() {
				p.Review(now)
			}
		}
	}
}

// panicked tells operators, once, that a pool uses backends it does not think healthy.
func (e *Edge) panicked(p pool.Panic) {
	if p.Begins {
		e.log.Warn("Pool panics, it uses all of its backends", "app", p.App, "healthy", p.Healthy, "backends", p.Usable)
		return
	}
	e.log.Info("Pool calm again", "app", p.App, "healthy", p.Healthy, "backends", p.Usable)
}

// ejected tells operators that a backend is left out for a while.
func (e *Edge) ejected(x pool.Ejection) {
	e.log.Warn("Backend ejected", "app", x.App, "instance", x.Backend.Instance, "address", x.Backend.Addr.String(),
		"reason", x.Reason, "for", x.For)
}
