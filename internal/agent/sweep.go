package agent

import (
	"context"
	"time"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/runtime"
)

// sweepEvery compares drivers and records now and then. It is a safety net: exits and placements are told.
func (a *Agent) sweepEvery(ctx, life context.Context) {
	ticker := time.NewTicker(a.cfg.Sweep)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			for _, driver := range a.cfg.Drivers {
				a.sweep(ctx, life, driver)
			}
			a.sweepRecords()
			a.notice()
		}
	}
}

// sweep compares one driver's instances with those the agent knows.
func (a *Agent) sweep(ctx, life context.Context, driver runtime.Driver) {
	missing := map[string]*instance{} // those that ran before the driver was asked
	for _, i := range a.all() {
		if i.runsWith(driver) {
			missing[i.id] = i
		}
	}
	all, err := driver.List(ctx)
	if err != nil {
		a.log.WarnContext(ctx, "Driver does not answer", "driver", driver.Name(), "err", err)
		return
	}
	for _, st := range all {
		i, known := a.find(st.ID)
		switch {
		case !known:
			a.stray(life, driver, st)
		case missing[st.ID] != nil && st.State == runtime.Exited:
			i.exit(st)
		}
		delete(missing, st.ID)
	}
	for _, i := range missing {
		i.lost("its driver does not know it any more")
	}
}

// stray takes over an instance that nobody started: it stays when it is placed here, and goes when not.
func (a *Agent) stray(life context.Context, driver runtime.Driver, st runtime.Status) {
	a.log.WarnContext(life, "Instance found that the agent did not start", "instance", st.ID, "driver", driver.Name())
	var d desire
	a.cfg.Store.View(func(v kind.View) { d = a.desired(v, st.ID) })
	i := a.instance(life, st.ID)
	i.adopt(driver, st, nil)
	i.aim(d)
}

// sweepRecords writes records that are missing and deletes those of instances that do not exist.
func (a *Agent) sweepRecords() {
	for _, i := range a.all() {
		i.republish()
	}
	var mine []kind.Entry[vortex.ContainerRecord]
	a.cfg.Store.View(func(v kind.View) { mine = kind.Find(v, vortex.Containers, "node", a.cfg.Node.ID) })
	for _, rec := range mine {
		if _, known := a.find(rec.ID); !known {
			a.deleteRecord(rec.ID)
		}
	}
}

// republish queues the record again when the store does not have it.
func (i *instance) republish() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.finished || i.rec.ID == "" || i.want.goal == goalGone {
		return // or the record may be another node's by now
	}
	if _, err := i.agent.cfg.Store.Get(vortex.Containers.Key(i.id)); vortex.IsKind(err, vortex.NotFound) {
		i.save()
	}
}

// runsWith reports whether the instance runs, as far as the agent knows, and with this driver.
func (i *instance) runsWith(driver runtime.Driver) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.phase == running && i.driver == driver
}
