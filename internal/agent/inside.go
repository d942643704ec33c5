package agent

import (
	"context"
	"iter"

	"vortex"
	"vortex/internal/runtime"
)

// Logs returns what an instance of this node wrote, oldest first, as runtime.Driver does. It is NotFound for
// an instance that is not here, and Precondition for one that was never started.
func (a *Agent) Logs(ctx context.Context, id string, opts runtime.LogOptions) (iter.Seq2[runtime.LogEntry, error], error) {
	driver, err := a.driverOf(id)
	if err != nil {
		return nil, err
	}
	return driver.Logs(ctx, id, opts)
}

// Exec runs a command in an instance of this node, as runtime.Driver does.
func (a *Agent) Exec(ctx context.Context, id string, spec runtime.ExecSpec) (exitCode int, err error) {
	driver, err := a.driverOf(id)
	if err != nil {
		return 0, err
	}
	return driver.Exec(ctx, id, spec)
}

// Stats returns a running instance's use of resources. It is Precondition when its driver cannot measure.
func (a *Agent) Stats(ctx context.Context, id string) (runtime.Stats, error) {
	driver, err := a.driverOf(id)
	if err != nil {
		return runtime.Stats{}, err
	}
	statter, ok := driver.(runtime.Statter)
	if !ok {
		return runtime.Stats{}, vortex.Errorf(vortex.Precondition, "the runtime %q does not measure its instances", driver.Name())
	}
	return statter.Stats(ctx, id)
}

// Check probes an instance now, besides its schedule. One without a health check is healthy while it runs.
func (a *Agent) Check(ctx context.Context, id string) (healthy bool, detail string, err error) {
	i, ok := a.find(id)
	if !ok {
		return false, "", a.unknown(id)
	}
	i.mu.Lock()
	probe, runs := i.probe, i.phase == running
	i.mu.Unlock()
	switch {
	case !runs:
		return false, "", vortex.Errorf(vortex.Precondition, "instance %s does not run", id)
	case probe == nil:
		return true, orRunning(""), nil
	}
	result := probe.Run(ctx)
	return result.Healthy, result.Detail, nil
}

// driverOf returns the driver that has an instance.
func (a *Agent) driverOf(id string) (runtime.Driver, error) {
	i, ok := a.find(id)
	if !ok {
		return nil, a.unknown(id)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.phase == absent {
		return nil, vortex.Errorf(vortex.Precondition, "instance %s has not run yet: %s", id, i.rec.Reason)
	}
	return i.driver, nil
}

func (a *Agent) unknown(id string) error {
	return vortex.Errorf(vortex.NotFound, "no instance %s on node %s; `vortex ps` lists them", id, a.cfg.Node.ID)
}
