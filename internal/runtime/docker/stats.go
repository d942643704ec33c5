package docker

import (
	"context"
	"encoding/json"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"vortex"
	"vortex/internal/runtime"
)

// Stats returns a running instance's use of resources. The error is Precondition when it does not run.
func (d *Driver) Stats(ctx context.Context, id string) (runtime.Stats, error) {
	c, err := d.find(ctx, id)
	if err != nil {
		return runtime.Stats{}, err
	}
	if !running(c.State) {
		return runtime.Stats{}, vortex.Errorf(vortex.Precondition, "instance %s is not running", id)
	}
	r, err := d.engine.ContainerStats(ctx, c.ID, client.ContainerStatsOptions{})
	if err != nil {
		return runtime.Stats{}, d.fail("measure instance "+id, err)
	}
	defer func() { _ = r.Body.Close() }()
	var s container.StatsResponse
	if err := json.NewDecoder(r.Body).Decode(&s); err != nil {
		return runtime.Stats{}, d.fail("read measurements of instance "+id, err)
	}
	return runtime.Stats{
		At: s.Read, CPU: time.Duration(s.CPUStats.CPUUsage.TotalUsage), MemoryBytes: residentBytes(s.MemoryStats), Pids: s.PidsStats.Current,
	}, nil
}

// residentBytes takes the page cache that can be dropped off, which cgroup v1 and v2 name differently.
func residentBytes(m container.MemoryStats) uint64 {
	for _, name := range []string{"total_inactive_file", "inactive_file"} {
		if cache, ok := m.Stats[name]; ok && cache < m.Usage {
			return m.Usage - cache
		}
	}
	return m.Usage
}
