package node

import (
	"context"
	"time"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/loop"
)

// labels are this machine's: its own, and over them what operators gave it, as its agent tells in its record.
func (n *Node) labels() map[string]string {
	store := n.stored.Load()
	if store == nil {
		return n.cfg.Labels
	}
	rec, err := kind.Get(store, vortex.Nodes, n.cfg.Name)
	if err != nil || len(rec.Value.Labels) == 0 {
		return n.cfg.Labels
	}
	return rec.Value.Labels
}

// followZone keeps the edge in the zone that the label names until ctx ends.
func (n *Node) followZone(ctx context.Context) error {
	l := loop.Loop{Store: n.store, Prefixes: []string{vortex.Nodes.Key(n.cfg.Name)}, Log: n.component("labels")}
	return l.Run(ctx, func(context.Context, loop.Changes) (time.Duration, error) {
		n.edge.SetZone(n.labels()[vortex.ZoneLabel])
		return 0, nil
	})
}
