package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/runtime"
)

// progressEvery is the least time between two records of a start's progress.
const progressEvery = 250 * time.Millisecond

// start starts the instance, unless the goal changes first. A start that fails leaves a Dead record that says why.
func (i *instance) start(life context.Context) error {
	ctx, abort := context.WithCancel(life)
	defer abort()
	want, ok := i.beginStart(abort)
	if !ok {
		return nil
	}
	status, err := i.launch(ctx, want)

	i.mu.Lock()
	defer i.mu.Unlock()
	i.abort = nil
	switch {
	case err == nil:
		i.started(status)
	case ctx.Err() == nil:
		i.startFailed(err)
	}
	return nil
}

// beginStart records that the instance is being started. It is false when the goal changed.
func (i *instance) beginStart(abort context.CancelFunc) (desire, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	want := i.want
	if want.goal != goalRun {
		return want, false
	}
	created := i.rec.CreatedAt
	if created.IsZero() {
		created = time.Now().UTC()
	}
	i.abort, i.early = abort, nil
	i.stopping, i.probing, i.probe = false, nil, nil
	number, epoch := want.release.Number, want.placement.Epoch
	i.rec = vortex.ContainerRecord{
		ID:        i.id,
		ClientID:  want.placement.ClientID,
		Status:    vortex.ContainerStatusProvisioning,
		RepoLink:  imageOf(want.release),
		Node:      i.agent.cfg.Node.ID,
		Release:   &number,
		Epoch:     &epoch,
		Health:    vortex.HealthUnknown,
		CreatedAt: created,
		Reason:    "starting",
	}
	i.save()
	return want, true
}

// launch prepares the image and starts the instance.
func (i *instance) launch(ctx context.Context, want desire) (runtime.Status, error) {
	driver, err := i.agent.driverFor(want.release)
	if err != nil {
		return runtime.Status{}, err
	}
	i.mu.Lock()
	i.driver, i.rec.Driver = driver, driver.Name()
	i.mu.Unlock()
	if err := i.ensureImage(ctx, driver, want.release); err != nil {
		return runtime.Status{}, err
	}
	spec, err := i.agent.instanceSpec(i.id, want)
	if err != nil {
		return runtime.Status{}, err
	}
	select {
	case i.agent.slots <- struct{}{}:
		defer func() { <-i.agent.slots }()
	case <-ctx.Done():
		return runtime.Status{}, context.Cause(ctx)
	}
	return driver.Start(ctx, spec)
}

// driverFor returns the driver that a release asks for.
func (a *Agent) driverFor(release *vortex.ReleaseRecord) (runtime.Driver, error) {
	name := string(release.Spec.Spec.Runtime)
	if name == "" || name == string(vortex.RuntimeNameAuto) {
		name = a.cfg.Default
	}
	driver, ok := a.cfg.Drivers[name]
	if !ok {
		return nil, vortex.Errorf(vortex.Precondition, "node %s has no runtime %q; it has %v", a.cfg.Node.ID, name, a.cfg.Node.Drivers)
	}
	return driver, nil
}

// imageOf returns the image of a release: the one built for it, or the one its spec names.
func imageOf(release *vortex.ReleaseRecord) string {
	if release.Image != "" {
		return release.Image
	}
	return release.Spec.Spec.Image
}

// ensureImage returns when the image is here. A driver that keeps images of its own implements Images.
func (i *instance) ensureImage(ctx context.Context, driver runtime.Driver, release *vortex.ReleaseRecord) error {
	images, ok := driver.(Images)
	if !ok {
		images = i.agent.cfg.Images
	}
	ref := imageOf(release)
	if images == nil || ref == "" || !usesImage(driver, release) {
		return nil
	}
	var told time.Time
	fetched := false
	err := images.Ensure(ctx, ref, func(progress string) {
		fetched = true
		if time.Since(told) < progressEvery {
			return
		}
		told = time.Now()
		i.waitingFor("pulling image " + ref + ": " + progress)
	})
	if err != nil {
		return fmt.Errorf("prepare image %s: %w", ref, err)
	}
	if fetched {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.agent.record(&i.rec, "ImagePulled", vortex.SeverityInfo, "pulled image "+ref)
	}
	return nil
}

// usesImage reports whether a driver needs the image on this node before it starts: sim starts nothing, docker has its engine
// fetch what the node's own store lacks, and process runs a program of the node when its command is a path.
func usesImage(driver runtime.Driver, release *vortex.ReleaseRecord) bool {
	switch vortex.RuntimeName(driver.Name()) {
	case vortex.RuntimeNameSim, vortex.RuntimeNameDocker:
		return false
	case vortex.RuntimeNameProcess:
		command := release.Spec.Spec.Command
		return len(command) == 0 || !filepath.IsAbs(command[0])
	default:
		return true
	}
}

// waitingFor records what the start waits for.
func (i *instance) waitingFor(what string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.rec.Reason = what
	i.save()
}

// started records that the instance runs, or that it has exited already. mu is held.
func (i *instance) started(st runtime.Status) {
	i.phase = running
	i.observe(st)
	i.log.Info("Instance started", "app", i.rec.ClientID, "driver", i.rec.Driver, "address", i.rec.IPAddress)
	i.agent.record(&i.rec, "InstanceStarted", vortex.SeverityInfo, "started on node "+i.rec.Node)
	switch {
	case i.early != nil && !i.earlier(*i.early):
		i.dead(*i.early)
	case st.State == runtime.Exited:
		i.dead(st)
	default:
		i.save()
	}
}

// observe takes a running instance's status into the record. mu is held.
func (i *instance) observe(st runtime.Status) {
	i.rec.Status = vortex.ContainerStatusRunning
	i.rec.IPAddress = st.Address
	i.rec.Reason = ""
	i.rec.Port, i.rec.PID = nil, nil
	i.rec.FinishedAt, i.rec.ExitCode, i.rec.OOMKilled = time.Time{}, nil, nil
	if st.Port != 0 {
		i.rec.Port = &st.Port
	}
	if pid := int64(st.PID); pid != 0 {
		i.rec.PID = &pid
	}
	if i.rec.StartedAt = st.StartedAt.UTC(); st.StartedAt.IsZero() {
		i.rec.StartedAt = time.Now().UTC()
	}
}

// startFailed records a start that failed. mu is held.
func (i *instance) startFailed(err error) {
	i.phase = absent
	i.rec.Status = vortex.ContainerStatusDead
	i.rec.FinishedAt = time.Now().UTC()
	i.rec.Reason = "could not be started: " + explain(err)
	i.log.Warn("Instance could not be started", "app", i.rec.ClientID, "err", err)
	i.agent.record(&i.rec, "StartFailed", vortex.SeverityError, i.rec.Reason)
	i.save()
}

// explain returns what a user may read of an error.
func explain(err error) string {
	if errors.Is(err, syscall.ENOSPC) {
		return "its node's disk is full: " + syscall.ENOSPC.Error() + "; make room there"
	}
	e, ok := errors.AsType[*vortex.Error](err)
	if !ok || e.Kind == vortex.Internal || e.Msg == "" {
		return "internal error; the log of its node has the details"
	}
	return e.Msg
}

// replicas returns how many instances of an app are wanted now.
func (a *Agent) replicas(app string) int {
	if rollout, err := kind.Get(a.cfg.Store, vortex.Rollouts, app); err == nil {
		return int(rollout.Value.Desired)
	}
	count := 0
	a.cfg.Store.View(func(v kind.View) {
		for _, wanted := range kind.Find(v, vortex.Instances, "client_id", app) {
			if wanted.Value.Wanted == vortex.WantedStateRunning {
				count++
			}
		}
	})
	return max(count, 1)
}
