package node

import (
	"context"
	"fmt"
	"iter"
	"net"
	"strings"

	"vortex"
	"vortex/internal/edge"
	"vortex/internal/kind"
)

// routers gives the edge its routers from the store.
type routers struct{ store *kind.Store }

// WatchRouters implements edge.Routers.
func (r routers) WatchRouters(ctx context.Context) iter.Seq2[edge.RouterUpdate, error] {
	return func(yield func(edge.RouterUpdate, error) bool) {
		watch := r.store.Watch(kind.WatchOptions{Prefixes: []string{vortex.Routers.Prefix + ":", vortex.Liveness.Prefix + ":"}})
		defer watch.Close()
		all := r.all()
		if !yield(all, nil) {
			return
		}
		for {
			batches, err := watch.Next(ctx)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				yield(edge.RouterUpdate{}, err)
				return
			}
			for _, b := range batches {
				if uint64(b.Revision) <= all.Revision {
					continue // it is part of all already
				}
				if !yield(routerUpdate(b), nil) {
					return
				}
			}
		}
	}
}

// all is every router at one revision.
func (r routers) all() edge.RouterUpdate {
	update := edge.RouterUpdate{Reset: true}
	r.store.View(func(v kind.View) {
		update.Revision = uint64(v.Revision())
		for _, e := range kind.List(v, vortex.Routers) {
			update.Changes = append(update.Changes, edge.RouterChange{App: e.ID, Router: e.Value})
		}
		for _, e := range kind.List(v, vortex.Liveness) {
			update.Nodes = append(update.Nodes, nodeChanged(e.ID, e.Value))
		}
	})
	return update
}

// nodeChanged translates what a record says of a node.
func nodeChanged(node string, l *vortex.LivenessRecord) edge.NodeChange {
	given := l.State == vortex.LivenessStateDown
	return edge.NodeChange{Node: node, Gone: given || l.State == vortex.LivenessStateSuspect, Given: given}
}

// routerUpdate translates what one transaction changed.
func routerUpdate(b kind.Batch) edge.RouterUpdate {
	update := edge.RouterUpdate{Revision: uint64(b.Revision)}
	for _, ev := range b.Events {
		if strings.HasPrefix(ev.Key, vortex.Liveness.Prefix+":") {
			update.Nodes = append(update.Nodes, nodeChange(ev))
			continue
		}
		change := edge.RouterChange{App: vortex.Routers.ID(ev.Key)}
		if !ev.Deleted {
			if e, err := kind.Decode(vortex.Routers, ev.Record); err == nil {
				change.Router = e.Value
			}
		}
		update.Changes = append(update.Changes, change)
	}
	return update
}

// nodeChange translates what became of a node. One without a record is in order.
func nodeChange(ev kind.Event) edge.NodeChange {
	change := edge.NodeChange{Node: vortex.Liveness.ID(ev.Key)}
	if !ev.Deleted {
		if e, err := kind.Decode(vortex.Liveness, ev.Record); err == nil {
			change = nodeChanged(e.ID, e.Value)
		}
	}
	return change
}

// contested tells the app that does not get a route that another one has it.
func (n *Node) contested(c edge.Contest) {
	n.events.Record(vortex.EventRecord{
		Severity: vortex.SeverityWarning, Component: "edge", Type: "RouteContested", ClientID: c.Loser, Node: n.cfg.Name,
		Message: fmt.Sprintf("%s%s is claimed by %s too, which gets its requests: give one of them another host or path", c.Host, c.Path, c.Winner),
		Cause:   vortex.Routers.Key(c.Winner),
	})
}

// portFailed tells the app whose port is not open here.
func (n *Node) portFailed(f edge.PortFailure) {
	n.events.Record(vortex.EventRecord{
		Severity: vortex.SeverityWarning, Component: "edge", Type: "PortNotOpened", ClientID: f.App, Node: n.cfg.Name,
		Message: fmt.Sprintf("the edge of %s cannot open %s port %d: %v", n.cfg.Name, f.Protocol, f.Port, f.Err),
		Cause:   vortex.Routers.Key(f.App),
	})
}

// portContested tells the app that does not get a port that another one has it.
func (n *Node) portContested(c edge.PortContest) {
	what := "is"
	if c.Name != "" {
		what = "and server name " + c.Name + " are"
	}
	n.events.Record(vortex.EventRecord{
		Severity: vortex.SeverityWarning, Component: "edge", Type: "PortContested", ClientID: c.Loser, Node: n.cfg.Name,
		Message: fmt.Sprintf("%s port %d %s claimed by %s too, which gets its connections: give one of them another edgePort or other serverNames", c.Protocol, c.Port, what, c.Winner),
		Cause:   vortex.Routers.Key(c.Winner),
	})
}

// edgePorts tells which ports the edges have for apps: no instance may take them.
func (n *Node) edgePorts() func(port uint16) bool {
	taken := map[uint16]bool{}
	n.store.View(func(v kind.View) {
		for _, r := range kind.List(v, vortex.Routers) {
			for i := range r.Value.Ports {
				for port := int(r.Value.Ports[i].Port); port <= int(r.Value.Ports[i].LastPort()); port++ {
					taken[uint16(port)] = true //nolint:gosec // it is between two ports
				}
			}
		}
	})
	return func(port uint16) bool { return taken[port] }
}

// hostOf is the host of an address, "" when it is every one.
func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	return host
}

// publisher writes what the edge says.
type publisher struct{ store *kind.Store }

// PutMetrics implements edge.Publisher.
func (p publisher) PutMetrics(ctx context.Context, m vortex.ClientMetrics) error {
	_, err := kind.PutTTL(ctx, p.store, vortex.Metrics, edge.MetricsTTL, &m, m.ClientID, m.Edge)
	return err
}

// PutEdge implements edge.Publisher.
func (p publisher) PutEdge(ctx context.Context, r vortex.EdgeRecord) error {
	_, err := kind.PutTTL(ctx, p.store, vortex.Edges, edge.RecordTTL, &r, r.ID)
	return err
}

// quotas is how the edges of the cluster hold limits together.
type quotas struct{ store *kind.Store }

// PutQuota implements edge.Quotas.
func (q quotas) PutQuota(ctx context.Context, r vortex.QuotaRecord) error {
	_, err := kind.PutTTL(ctx, q.store, vortex.Quotas, edge.QuotaTTL, &r, r.Edge)
	return err
}

// WatchQuotas implements edge.Quotas.
func (q quotas) WatchQuotas(ctx context.Context) iter.Seq2[edge.QuotaUpdate, error] {
	return func(yield func(edge.QuotaUpdate, error) bool) {
		watch := q.store.Watch(kind.WatchOptions{Prefixes: []string{vortex.Quotas.Prefix + ":"}})
		defer watch.Close()
		var all []edge.QuotaUpdate
		q.store.View(func(v kind.View) {
			for _, e := range kind.List(v, vortex.Quotas) {
				all = append(all, edge.QuotaUpdate{Edge: e.ID, Quota: e.Value})
			}
		})
		for _, u := range all {
			if !yield(u, nil) {
				return
			}
		}
		for {
			batches, err := watch.Next(ctx)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				yield(edge.QuotaUpdate{}, err)
				return
			}
			for _, b := range batches {
				for _, ev := range b.Events {
					if !yield(quotaUpdate(ev), nil) {
						return
					}
				}
			}
		}
	}
}

func quotaUpdate(ev kind.Event) edge.QuotaUpdate {
	update := edge.QuotaUpdate{Edge: vortex.Quotas.ID(ev.Key)}
	if !ev.Deleted {
		if e, err := kind.Decode(vortex.Quotas, ev.Record); err == nil {
			update.Quota = e.Value
		}
	}
	return update
}
