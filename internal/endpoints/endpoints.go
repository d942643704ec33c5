// Package endpoints keeps router:<app>: the backends that requests for an app may be sent to, how they get there, and the
// ports of TCP and UDP that the edges open for it.
//
// It watches apps, instances, containers, liveness and the nodes' zones. An instance is a backend exactly while it is wanted, runs,
// is healthy, and its node is not suspected; the moment any of that ends, the next commit takes it out.
package endpoints

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/loop"
)

// Endpoints is the loop.
type Endpoints struct {
	Writer kind.Writer
	Log    *slog.Logger

	FirstPort func() uint16 // the first port of the edges to give to apps of TCP and UDP; nil is the setting's default
}

// Run keeps the routers until ctx ends.
func (e *Endpoints) Run(ctx context.Context) error {
	l := loop.Loop{
		Store: e.Writer.Store,
		Prefixes: []string{
			vortex.Apps.Prefix + ":", vortex.Instances.Prefix + ":", vortex.Containers.Prefix + ":", vortex.Liveness.Prefix + ":",
			vortex.Nodes.Prefix + ":",
		},
		Log: e.Log,
	}
	return l.Run(ctx, e.tick)
}

// tick rewrites the routers of the apps that something happened to, where they differ.
func (e *Endpoints) tick(ctx context.Context, changes loop.Changes) (time.Duration, error) {
	var ops []kind.Op
	var err error
	first := e.firstPort()
	e.Writer.Store.View(func(v kind.View) {
		p := &ports{view: v, first: first}
		for _, name := range slices.Sorted(maps.Keys(affected(v, changes))) {
			var op *kind.Op
			if op, err = e.rewrite(ctx, v, p, name); err != nil {
				return
			}
			if op != nil {
				ops = append(ops, *op)
			}
		}
	})
	if err != nil {
		return 0, err
	}
	return 0, e.Writer.Commit(ctx, ops...)
}

// affected returns the names of the apps to look at: all of them when a node's liveness or zone changed.
func affected(v kind.View, changes loop.Changes) map[string]bool {
	names := map[string]bool{}
	full := changes.Full
	for _, ev := range changes.Events {
		if strings.HasPrefix(ev.Key, vortex.Liveness.Prefix+":") || movedZone(ev) {
			full = true
		}
		names[appOf(ev)] = true
	}
	if full {
		for _, app := range kind.List(v, vortex.Apps) {
			names[app.ID] = true
		}
		for _, router := range kind.List(v, vortex.Routers) {
			names[router.ID] = true
		}
	}
	delete(names, "")
	return names
}

// movedZone reports whether an event is about a node that is in another zone than before.
func movedZone(ev kind.Event) bool {
	if !strings.HasPrefix(ev.Key, vortex.Nodes.Prefix+":") {
		return false
	}
	zone := func(rec *kind.Record) string {
		if rec == nil {
			return ""
		}
		e, err := kind.Decode(vortex.Nodes, rec)
		if err != nil {
			return ""
		}
		return e.Value.Labels[vortex.ZoneLabel]
	}
	return zone(ev.Record) != zone(ev.Prev)
}

// appOf returns the app that an event is about, "" for one about none.
func appOf(ev kind.Event) string {
	rec := cmp.Or(ev.Record, ev.Prev)
	switch {
	case strings.HasPrefix(ev.Key, vortex.Apps.Prefix+":"):
		return vortex.Apps.ID(ev.Key)
	case rec == nil:
	case strings.HasPrefix(ev.Key, vortex.Instances.Prefix+":"):
		if e, err := kind.Decode(vortex.Instances, rec); err == nil {
			return e.Value.ClientID
		}
	case strings.HasPrefix(ev.Key, vortex.Containers.Prefix+":"):
		if e, err := kind.Decode(vortex.Containers, rec); err == nil {
			return e.Value.ClientID
		}
	}
	return ""
}

// rewrite returns the write that makes an app's router true, nil when it is.
func (e *Endpoints) rewrite(ctx context.Context, v kind.View, p *ports, name string) (*kind.Op, error) {
	current, exists := v.Get(vortex.Routers.Key(name))
	app, ok := kind.Lookup(v, vortex.Apps, name)
	if !ok || app.Value.Spec.Spec.Type == vortex.AppTypeWorker {
		if !exists {
			return nil, nil
		}
		op := kind.DeleteOp(vortex.Routers, name)
		return &op, nil
	}
	wanted := router(v, app.Value)
	wanted.Ports = p.of(ctx, e, app.Value)
	if wanted.Sticky != nil {
		old, _ := kind.Lookup(v, vortex.Routers, name)
		wanted.StickyKey = stickyKey(old.Value)
	}
	op, err := kind.PutOp(vortex.Routers, &wanted, name)
	if err != nil || exists && bytes.Equal(current.Value, op.Value) {
		return nil, err
	}
	return &op, nil
}

// router returns what an app's router should hold.
func router(v kind.View, app *vortex.AppRecord) vortex.RouterRecord {
	rec := vortex.RouterRecord{ClientID: app.Name, Type: app.Spec.Spec.Type, Backends: []vortex.Backend{}}
	rec.SetRoute(app.Spec.Route)
	rec.SetHealthCheck(&app.Spec)
	for _, in := range kind.Find(v, vortex.Instances, "client_id", app.Name) {
		if b, ok := backend(v, in.Value, app.Spec.MainPort()); ok {
			rec.Backends = append(rec.Backends, b)
		}
	}
	slices.SortFunc(rec.Backends, func(a, b vortex.Backend) int { return strings.Compare(a.Instance, b.Instance) })
	return rec
}

// stickyKeySize is the size of the keys that sticky sessions' cookies are made with.
const stickyKeySize = 32

// stickyKey returns the key the app's cookies are made with, which stays the same for as long as the app is sticky.
func stickyKey(current *vortex.RouterRecord) []byte {
	if current != nil && len(current.StickyKey) == stickyKeySize {
		return current.StickyKey
	}
	key := make([]byte, stickyKeySize)
	_, _ = rand.Read(key) // never fails
	return key
}

// backend returns an instance as a backend, false when requests may not be sent to it. port is where it listens if its container does not say:
// one that has UDP alone does not.
func backend(v kind.View, in *vortex.InstanceRecord, port uint16) (vortex.Backend, bool) {
	c, ok := kind.Lookup(v, vortex.Containers, in.ID)
	if !ok || in.Wanted != vortex.WantedStateRunning ||
		c.Value.Status != vortex.ContainerStatusRunning || c.Value.Health != vortex.HealthHealthy ||
		c.Value.IPAddress == "" {
		return vortex.Backend{}, false
	}
	if c.Value.Port != nil {
		port = *c.Value.Port
	}
	if port == 0 {
		return vortex.Backend{}, false
	}
	live, ok := kind.Lookup(v, vortex.Liveness, c.Value.Node)
	if ok && (live.Value.State == vortex.LivenessStateDown || live.Value.State == vortex.LivenessStateSuspect) {
		return vortex.Backend{}, false
	}
	b := vortex.Backend{
		Instance: in.ID, Address: c.Value.IPAddress, Port: port, Node: c.Value.Node, Release: &in.Release,
	}
	if node, ok := kind.Lookup(v, vortex.Nodes, c.Value.Node); ok {
		b.Zone = node.Value.Labels[vortex.ZoneLabel]
	}
	return b, true
}
