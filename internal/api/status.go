package api

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"vortex"
	"vortex/client"
	"vortex/internal/kind"
)

// facts is everything the records say about one app.
type facts struct {
	app        *vortex.AppRecord
	rollout    *vortex.RolloutRecord // nil before the first
	release    *vortex.ReleaseRecord // the active one; nil before the first
	scaled     time.Time
	containers []client.Container
	metrics    client.AppMetrics
	ports      []client.EdgePort
	requests   map[string]request // by instance
}

// request is what an instance asked the scheduler for.
type request struct{ cpuMillis, memoryBytes uint64 }

// collect reads the facts of an app.
func collect(v kind.View, app *vortex.AppRecord) facts {
	f := facts{app: app, requests: map[string]request{}}
	if e, ok := kind.Lookup(v, vortex.Rollouts, app.Name); ok {
		f.rollout = e.Value
		if r, ok := kind.Lookup(v, vortex.Releases, app.Name, utoa(e.Value.Active)); ok {
			f.release = r.Value
		}
	}
	f.containers = containersOf(v, app.Name, f.requests)
	f.metrics = edgeMetrics(v, app.Name)
	f.ports = edgePorts(v, app.Name)
	f.scaled = lastScaled(v, app.Name)
	return f
}

// containersOf lists an app's instances: those some node runs or ran, and those that wait for one. The oldest come first.
func containersOf(v kind.View, app string, requests map[string]request) []client.Container {
	byID := map[string]client.Container{}
	for _, e := range kind.Find(v, vortex.Containers, "client_id", app) {
		byID[e.Value.ID] = lost(v, container(e.Value))
	}
	for _, e := range kind.Find(v, vortex.Instances, "client_id", app) {
		inst := e.Value
		if requests != nil {
			requests[inst.ID] = request{deref(inst.CPUMillis), deref(inst.MemoryBytes)}
		}
		c, ok := byID[inst.ID]
		switch {
		case ok && inst.Wanted == vortex.WantedStateDraining && c.Status == string(vortex.ContainerStatusRunning):
			c.Status = client.ContainerDraining
		case !ok && inst.Wanted == vortex.WantedStateRunning:
			c = pending(v, inst)
		case !ok:
			continue
		}
		byID[inst.ID] = c
	}
	return slices.SortedFunc(maps.Values(byID), func(a, b client.Container) int {
		return cmp.Or(compareTimes(a.StartedAt, b.StartedAt), cmp.Compare(a.ID, b.ID))
	})
}

// container is a container record as the API shows it.
func container(rec *vortex.ContainerRecord) client.Container {
	return client.Container{
		ID: rec.ID, Name: rec.ID, App: rec.ClientID, IP: rec.IPAddress, Port: deref(rec.Port), Node: rec.Node,
		Status: string(rec.Status), Health: string(cmp.Or(rec.Health, vortex.HealthUnknown)), HealthDetail: rec.HealthDetail,
		StartedAt: timeOrNull(rec.StartedAt), FinishedAt: timeOrNull(rec.FinishedAt), Release: deref(rec.Release), Image: rec.RepoLink,
		Driver: rec.Driver, ExitCode: rec.ExitCode, OOMKilled: deref(rec.OOMKilled), Reason: rec.Reason,
	}
}

// lost is the instance as it is known when its node is down: nobody can tell whether it still runs.
func lost(v kind.View, c client.Container) client.Container {
	live, ok := kind.Lookup(v, vortex.Liveness, c.Node)
	if !ok || live.Value.State != vortex.LivenessStateDown || c.Status == string(vortex.ContainerStatusDead) {
		return c
	}
	c.Status, c.Health, c.HealthDetail = client.ContainerLost, string(vortex.HealthUnknown), ""
	c.Reason = "node " + c.Node + " is down"
	return c
}

// pending is an instance that no node runs yet, with the reason.
func pending(v kind.View, inst *vortex.InstanceRecord) client.Container {
	c := client.Container{
		ID: inst.ID, Name: inst.ID, App: inst.ClientID, Status: client.ContainerPending, Health: string(vortex.HealthUnknown),
		Release: inst.Release, Reason: inst.Reason,
	}
	if p, ok := kind.Lookup(v, vortex.Placements, inst.ID); ok {
		c.Node = p.Value.Node
		c.Reason = cmp.Or(p.Value.Explain, c.Reason)
	}
	return c
}

// edgeMetrics sums what the edges, or whoever simulates them, saw of an app.
func edgeMetrics(v kind.View, app string) (m client.AppMetrics) {
	for _, e := range kind.Find(v, vortex.Metrics, "client_id", app) {
		rec := e.Value
		m.RPS += float64(rec.CurrentRPS)
		m.LatencyP95Ms = max(m.LatencyP95Ms, deref(rec.LatencyP95Ms))
		m.ActiveConnections += int(max(deref(rec.Connections), deref(rec.InFlight)))
	}
	return m
}

// edgePorts are the ports of TCP and UDP that the edges open for an app.
func edgePorts(v kind.View, app string) (ports []client.EdgePort) {
	router, ok := kind.Lookup(v, vortex.Routers, app)
	if !ok {
		return nil
	}
	for _, p := range router.Value.Ports {
		ports = append(ports, client.EdgePort{
			Port: p.Port, EndPort: deref(p.EndPort), Protocol: string(p.Protocol), ContainerPort: p.ContainerPort, Name: p.Name,
		})
	}
	return ports
}

// lastScaled is when the autoscaler or a user last changed an app's count; zero when never.
func lastScaled(v kind.View, app string) (at time.Time) {
	if job, ok := kind.Lookup(v, vortex.ScaleJobs, app); ok {
		at = job.Value.CreatedAt
	}
	for _, e := range kind.Find(v, vortex.Events, "client_id", app) {
		if strings.HasPrefix(e.Value.Type, "Scaled") && e.Value.At.After(at) {
			at = e.Value.At
		}
	}
	return at
}

// summary is the app as a list shows it.
func (f *facts) summary() client.AppSummary {
	app := f.app
	s := client.AppSummary{
		Name: app.Name, Type: string(app.Spec.Spec.Type), Image: imageOf(app), Replicas: f.replicas(), Metrics: f.metrics, Ports: f.ports,
		ScalingMode: string(app.Spec.ScalingMode()), Generation: app.Generation,
		CreatedAt: app.CreatedAt, UpdatedAt: app.UpdatedAt, LastScaledAt: timeOrNull(f.scaled),
	}
	if f.rollout != nil {
		s.Release = f.rollout.Active
	}
	if app.Spec.Route != nil {
		s.Hosts = app.Spec.Route.Hosts
	}
	s.Status, s.Message = f.status(s.Replicas)
	return s
}

// full is the app with its instances.
func (f *facts) full() client.App {
	app := client.App{AppSummary: f.summary(), Containers: f.containers}
	if app.Containers == nil {
		app.Containers = []client.Container{}
	}
	if r := f.rollout; r != nil {
		app.Rollout = &client.Rollout{
			State: string(r.State), Release: r.Release, Active: r.Active, Generation: r.Generation,
			Message: r.Message, Instance: r.Instance, UpdatedAt: r.UpdatedAt,
		}
	}
	return app
}

// replicas counts the instances.
func (f *facts) replicas() (r client.Replicas) {
	for _, c := range f.containers {
		if c.Status == string(vortex.ContainerStatusRunning) || c.Status == client.ContainerDraining {
			r.Current++
		}
		if f.healthy(c) {
			r.Healthy++
		}
	}
	switch {
	case deref(f.app.Stopped):
	case f.rollout != nil:
		r.Desired = int(f.rollout.Desired)
	default:
		r.Desired = wished(f.app)
	}
	return r
}

// wished is how many instances an app asks for before anybody decided on a number.
func wished(app *vortex.AppRecord) int {
	if app.Replicas != nil {
		return int(*app.Replicas)
	}
	fewest, _ := app.Spec.ReplicaRange(1, 1)
	return int(fewest)
}

// wantsSome reports whether the app is never meant to be at no instance at all.
func (f *facts) wantsSome() bool {
	if f.app.Replicas != nil && *f.app.Replicas == 0 {
		return false
	}
	fewest, _ := f.app.Spec.ReplicaRange(1, 1)
	return fewest > 0
}

// healthy reports whether an instance may be counted on. One without a check is healthy when it runs.
func (f *facts) healthy(c client.Container) bool {
	if c.Status != string(vortex.ContainerStatusRunning) {
		return false
	}
	_, checked := f.app.Spec.Probe()
	return c.Health == string(vortex.HealthHealthy) || !checked && c.Health != string(vortex.HealthUnhealthy)
}

// status judges the app, and says why when it is not running.
func (f *facts) status(r client.Replicas) (status, message string) {
	switch {
	case deref(f.app.Stopped):
		return client.StatusStopped, "stopped by hand"
	case f.rollout == nil || f.rollout.Generation < f.app.Generation && r.Healthy == 0:
		return client.StatusStarting, f.trouble()
	case f.rollout.State == vortex.RolloutStateFailed:
		if r.Healthy == 0 {
			return client.StatusError, f.rollout.Message
		}
		return client.StatusDegraded, f.rollout.Message
	case r.Desired == 0 && f.wantsSome():
		return client.StatusStarting, f.trouble() // the rollout loop has not seen yet that it was started
	case r.Healthy >= r.Desired:
		return client.StatusRunning, f.rolloutNote()
	case f.coming() >= r.Desired:
		return client.StatusStarting, f.trouble()
	case r.Healthy > 0:
		return client.StatusDegraded, f.trouble()
	case f.rollout.State == vortex.RolloutStateProgressing:
		return client.StatusStarting, f.trouble()
	default:
		return client.StatusError, f.trouble()
	}
}

// rolloutNote tells of a release that was taken back.
func (f *facts) rolloutNote() string {
	if f.rollout.State == vortex.RolloutStateReverted {
		return "release " + utoa(f.rollout.Release) + " failed and was taken back: " + f.rollout.Message
	}
	return ""
}

// coming counts instances that are healthy or on their way to it.
func (f *facts) coming() (n int) {
	for _, c := range f.containers {
		started := c.Status == string(vortex.ContainerStatusProvisioning) || c.Status == client.ContainerPending && c.Node != ""
		unproven := c.Status == string(vortex.ContainerStatusRunning) && c.Health != string(vortex.HealthUnhealthy)
		if started || unproven {
			n++
		}
	}
	return n
}

// trouble is the newest reason any instance of the release that is wanted gives for not being healthy. While the spec has
// changed and no release was made of it, nobody has one.
func (f *facts) trouble() string {
	if f.rollout == nil || f.rollout.Generation < f.app.Generation {
		return ""
	}
	for _, c := range slices.Backward(f.containers) {
		if f.healthy(c) || c.Status == client.ContainerDraining || c.Release != f.rollout.Active {
			continue
		}
		if text := cmp.Or(c.Reason, c.HealthDetail); text != "" {
			return c.ID + ": " + text
		}
	}
	return ""
}

// imageOf is the image an app's instances run: the one built for it, or the one its spec names.
func imageOf(app *vortex.AppRecord) string {
	return cmp.Or(app.Image, app.Spec.Spec.Image, app.Spec.Spec.Repo, app.Spec.Spec.Path)
}
