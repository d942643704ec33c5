package agent

import (
	"context"
	"time"

	"vortex"
	"vortex/internal/kind"
)

const (
	defaultAlone = 10 * time.Second
	mostDoubled  = 5 // how often the pause before an instance is started again is doubled
)

// notice keeps count of how long the store has been away, and wakes what may have to be started again.
func (a *Agent) notice() {
	if !a.cfg.Store.Stale() {
		a.away.Store(nil)
		return
	}
	if a.away.Load() == nil {
		now := time.Now()
		a.away.Store(&now)
	}
	for _, i := range a.all() {
		i.poke()
	}
}

// alone reports whether the store has been away for so long that nobody else can be counted on.
func (a *Agent) alone() bool {
	since := a.away.Load()
	return since != nil && time.Since(*since) >= a.cfg.Alone
}

// orphaned reports whether an instance died of which nobody was told, while nobody can be told: it will not be replaced. mu
// is held.
func (i *instance) orphaned() bool {
	if !i.agent.alone() || i.want.release == nil || time.Since(i.diedAt) < i.agent.cfg.Alone<<min(i.revived, mostDoubled) {
		return false
	}
	told, err := kind.Get(i.agent.cfg.Store, vortex.Containers, i.id)
	return err == nil && told.Value.Status != vortex.ContainerStatusDead
}

// revive makes room for a start of the same instance.
func (i *instance) revive(life context.Context) error {
	if err := i.clear(life); err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.log.WarnContext(life, "Instance started again here: no server can be reached that would replace it", "app", i.rec.ClientID, "reason", i.rec.Reason)
	i.agent.record(&i.rec, "InstanceRestarted", vortex.SeverityWarning, "started again on its node, which reached no server: "+i.rec.Reason)
	i.revived++
	i.phase, i.rec = absent, vortex.ContainerRecord{}
	return nil
}
