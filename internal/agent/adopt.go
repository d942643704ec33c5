package agent

import (
	"context"
	"strconv"
	"time"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/runtime"
)

// The labels that every instance carries, so that its record can be written again from them.
const (
	labelApp      = "vortex.client_id"
	labelImage    = "vortex.repo_link"
	labelInstance = "vortex.instance_id"
	labelRelease  = "vortex.release"
	labelEpoch    = "vortex.epoch"
)

const lostReason = "lost with its node's last restart"

// adopt matches what the drivers have with the records this agent's last life left.
func (a *Agent) adopt(ctx, life context.Context) {
	records := map[string]*vortex.ContainerRecord{}
	a.cfg.Store.View(func(v kind.View) {
		for _, rec := range kind.Find(v, vortex.Containers, "node", a.cfg.Node.ID) {
			records[rec.ID] = rec.Value
		}
	})
	silent := map[string]runtime.Driver{}
	for name, driver := range a.cfg.Drivers {
		all, err := driver.List(ctx)
		if err != nil {
			if ctx.Err() == nil { // else it is us who do not wait
				a.log.ErrorContext(ctx, "Driver does not answer; its instances are taken to be as they were", "driver", name, "err", err)
			}
			silent[driver.Name()] = driver
			continue
		}
		for _, st := range all {
			a.instance(life, st.ID).adopt(driver, st, records[st.ID])
			delete(records, st.ID)
		}
	}
	for id, rec := range records {
		a.instance(life, id).remember(silent[rec.Driver], rec)
	}
	if known := len(a.all()); known > 0 {
		a.log.InfoContext(ctx, "Instances found again", "count", known)
	}
}

// adopt takes over an instance that the driver has; rec is its record, nil when it was never written.
func (i *instance) adopt(driver runtime.Driver, st runtime.Status, rec *vortex.ContainerRecord) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.driver = driver
	if rec != nil {
		i.rec = *rec
	} else {
		i.rec = i.fromLabels(driver, st)
	}
	i.want.release = i.agent.releaseOf(&i.rec)
	switch {
	case st.State == runtime.Created:
		i.phase = exited
	case st.State == runtime.Exited && i.rec.Status == vortex.ContainerStatusDead:
		i.phase = exited
	case st.State == runtime.Exited:
		i.observe(st)
		i.dead(st)
	default:
		i.phase = running
		i.observe(st)
		i.save()
	}
}

// remember takes over a record whose instance the drivers do not have. While its driver is silent, it is
// believed; driver is nil when it is not.
func (i *instance) remember(driver runtime.Driver, rec *vortex.ContainerRecord) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.rec, i.driver = *rec, driver
	i.want.release = i.agent.releaseOf(&i.rec)
	if rec.Status != vortex.ContainerStatusRunning {
		return
	}
	i.phase = running
	if driver == nil {
		i.dead(runtime.Status{State: runtime.Exited, ExitCode: -1, Reason: lostReason})
		i.phase = absent
	}
}

// fromLabels writes a record anew from what the driver knows. mu is held.
func (i *instance) fromLabels(driver runtime.Driver, st runtime.Status) vortex.ContainerRecord {
	rec := vortex.ContainerRecord{
		ID:        i.id,
		ClientID:  st.Labels[labelApp],
		Status:    vortex.ContainerStatusProvisioning,
		RepoLink:  st.Labels[labelImage],
		Node:      i.agent.cfg.Node.ID,
		Driver:    driver.Name(),
		Health:    vortex.HealthUnknown,
		CreatedAt: time.Now().UTC(),
	}
	if n, err := strconv.ParseUint(st.Labels[labelRelease], 10, 64); err == nil {
		rec.Release = &n
	}
	if n, err := strconv.ParseUint(st.Labels[labelEpoch], 10, 64); err == nil {
		rec.Epoch = &n
	}
	return rec
}
