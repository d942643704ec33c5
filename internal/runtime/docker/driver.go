package docker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"vortex"
	"vortex/internal/runtime"
)

// cleanupTime bounds what is done after the caller's context ended.
const cleanupTime = 30 * time.Second

// Start creates and starts an instance, after bringing its image to the engine.
func (d *Driver) Start(ctx context.Context, spec runtime.InstanceSpec) (runtime.Status, error) {
	if err := validate(spec); err != nil {
		return runtime.Status{}, err
	}
	options := d.createOptions(spec)
	created, err := d.engine.ContainerCreate(ctx, options)
	if errdefs.IsNotFound(err) { // the image: asking for it first would cost every start a round trip
		if options.Config.Image, err = d.bringImage(ctx, spec.Image); err != nil {
			return runtime.Status{}, err
		}
		created, err = d.engine.ContainerCreate(ctx, options)
	}
	if errdefs.IsConflict(err) {
		return runtime.Status{}, vortex.Errorf(vortex.Exists, "instance %s exists in the Docker Engine: remove it first", spec.ID)
	}
	if err != nil {
		return runtime.Status{}, errors.Join(d.startError(spec, err), d.discard(ctx, options.Name, err))
	}
	if _, err := d.engine.ContainerStart(ctx, created.ID, client.ContainerStartOptions{}); err != nil {
		return runtime.Status{}, errors.Join(d.startError(spec, err), d.discard(ctx, created.ID, nil))
	}
	status, err := d.inspect(ctx, created.ID)
	if err != nil {
		return runtime.Status{}, errors.Join(err, d.discard(ctx, created.ID, nil))
	}
	return status, nil
}

// discard removes what a failed start left. A create that was cut off may have succeeded in the engine, so that
// its container is looked for by name then.
func (d *Driver) discard(ctx context.Context, ref string, createErr error) error {
	if createErr != nil && ctx.Err() == nil && !d.unreachable(createErr) {
		return nil // the engine itself said that it made nothing
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	if createErr != nil {
		c, err := d.engine.ContainerInspect(ctx, ref, client.ContainerInspectOptions{})
		if err != nil || c.Container.State == nil || c.Container.State.Status != container.StateCreated || !d.owns(c.Container.Config) {
			return nil // nothing there that is ours, or nobody to ask
		}
		ref = c.Container.ID
	}
	_, err := d.engine.ContainerRemove(ctx, ref, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	if err == nil || errdefs.IsNotFound(err) || errdefs.IsConflict(err) {
		return nil
	}
	return d.fail("remove the instance that failed to start", err)
}

// Stop sends SIGTERM, and SIGKILL after grace.
func (d *Driver) Stop(ctx context.Context, id string, grace time.Duration) error {
	c, err := d.find(ctx, id)
	if err != nil {
		return err
	}
	if !running(c.State) {
		return nil
	}
	waitCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	exited := d.engine.ContainerWait(waitCtx, c.ID, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
	if err := d.signal(ctx, c.ID, "SIGTERM"); err != nil {
		return err
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	for {
		select {
		case <-exited.Result:
			return nil
		case err := <-exited.Error:
			if errdefs.IsNotFound(err) {
				return nil // removed meanwhile, so it has exited
			}
			return d.fail("wait for the instance", err)
		case <-timer.C:
			if err := d.signal(ctx, c.ID, "SIGKILL"); err != nil {
				return err
			}
		}
	}
}

// signal sends a signal. To one that exited meanwhile it sends none.
func (d *Driver) signal(ctx context.Context, engineID, name string) error {
	_, err := d.engine.ContainerKill(ctx, engineID, client.ContainerKillOptions{Signal: name})
	if err == nil || errdefs.IsConflict(err) || errdefs.IsNotFound(err) {
		return nil
	}
	return d.fail("send "+name, err)
}

// Remove deletes an instance, killing it first when it runs.
func (d *Driver) Remove(ctx context.Context, id string) error {
	c, err := d.find(ctx, id)
	if vortex.IsKind(err, vortex.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	d.note(d.removed, c.ID)
	_, err = d.engine.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	if errdefs.IsConflict(err) { // somebody else removes it: be done when they are
		err = d.awaitRemoval(ctx, c.ID)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.removed, c.ID) // it may live on
		return d.fail("remove instance "+id, err)
	}
	return nil
}

// note puts an engine id into one of the driver's sets.
func (d *Driver) note(set map[string]bool, engineID string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	set[engineID] = true
}

func (d *Driver) awaitRemoval(ctx context.Context, engineID string) error {
	ctx, cancel := context.WithTimeout(ctx, cleanupTime)
	defer cancel()
	gone := d.engine.ContainerWait(ctx, engineID, client.ContainerWaitOptions{Condition: container.WaitConditionRemoved})
	select {
	case <-gone.Result:
		return nil
	case err := <-gone.Error:
		return err
	}
}

// List returns every instance of this node in the engine.
func (d *Driver) List(ctx context.Context) ([]runtime.Status, error) {
	return d.list(ctx, d.filters())
}

// list inspects every container that the filters let through, some at a time: only inspection tells exit codes and times.
func (d *Driver) list(ctx context.Context, filters client.Filters) ([]runtime.Status, error) {
	found, err := d.engine.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: filters})
	if err != nil {
		return nil, d.fail("list instances", err)
	}
	statuses := make([]runtime.Status, len(found.Items))
	errs := make([]error, len(found.Items))
	tokens := make(chan struct{}, 8)
	var wg sync.WaitGroup
	for i, item := range found.Items {
		tokens <- struct{}{}
		wg.Go(func() {
			defer func() { <-tokens }()
			statuses[i], errs[i] = d.inspect(ctx, item.ID)
		})
	}
	wg.Wait()
	out := statuses[:0]
	for i, s := range statuses {
		if vortex.IsKind(errs[i], vortex.NotFound) {
			continue // removed since
		}
		if errs[i] != nil {
			return nil, errs[i]
		}
		out = append(out, s)
	}
	return out, nil
}

func (d *Driver) filters() client.Filters {
	return client.Filters{}.Add("label", labelNode+"="+d.cfg.Node)
}

// find returns the container of an instance of this node. The error is NotFound when there is none.
func (d *Driver) find(ctx context.Context, id string) (container.InspectResponse, error) {
	if !validID.MatchString(id) {
		return container.InspectResponse{}, vortex.Errorf(vortex.NotFound, "no instance %q in the Docker Engine", id)
	}
	r, err := d.engine.ContainerInspect(ctx, namePrefix+id, client.ContainerInspectOptions{})
	if errdefs.IsNotFound(err) || (err == nil && !d.owns(r.Container.Config)) {
		return container.InspectResponse{}, vortex.Errorf(vortex.NotFound, "no instance %s of node %s in the Docker Engine", id, d.cfg.Node)
	}
	if err != nil {
		return container.InspectResponse{}, d.fail("look up instance "+id, err)
	}
	return r.Container, nil
}

func (d *Driver) owns(c *container.Config) bool {
	return c != nil && c.Labels[labelNode] == d.cfg.Node
}

// inspect returns the status of a container by the engine's id.
func (d *Driver) inspect(ctx context.Context, engineID string) (runtime.Status, error) {
	r, err := d.engine.ContainerInspect(ctx, engineID, client.ContainerInspectOptions{})
	if errdefs.IsNotFound(err) {
		return runtime.Status{}, vortex.Errorf(vortex.NotFound, "no container %s in the Docker Engine", engineID)
	}
	if err != nil {
		return runtime.Status{}, d.fail("inspect container", err)
	}
	if r.Container.State == nil || r.Container.Config == nil {
		return runtime.Status{}, fmt.Errorf("inspect container %s: the engine left its state out", engineID)
	}
	s := statusOf(r.Container)
	if s.State == runtime.Exited && !s.OOMKilled && d.lateOOM(ctx, r.Container, s) {
		s.OOMKilled, s.Reason = true, reasonOOM
	}
	return s, nil
}
