package agent

import (
	"context"
	"maps"
	"time"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/loop"
)

// writeNode publishes this node, with the labels that operators gave it over its own. Whether it may be scheduled on is kept from its last life.
// It returns the labels.
func (a *Agent) writeNode() map[string]string {
	node := &a.cfg.Node
	if node.StartedAt.IsZero() {
		node.StartedAt = time.Now().UTC()
	}
	if last, err := kind.Get(a.cfg.Store, vortex.Nodes, node.ID); err == nil && node.Unschedulable == nil {
		node.Unschedulable = last.Value.Unschedulable
	}
	labels := a.labels()
	a.putNode(labels)
	return labels
}

func (a *Agent) putNode(labels map[string]string) {
	node := a.cfg.Node
	node.Labels = labels
	put(a.writer, vortex.Nodes, &node, node.ID)
}

// labels are the node's own, with those that operators gave it over them.
func (a *Agent) labels() map[string]string {
	given, err := kind.Get(a.cfg.Store, vortex.NodeLabels, a.cfg.Node.ID)
	if err != nil {
		return a.cfg.Node.Labels
	}
	return vortex.OverLabels(a.cfg.Node.Labels, given.Value.Labels)
}

// followLabels keeps the labels in the node's record true until ctx ends. told are those that are there.
func (a *Agent) followLabels(ctx context.Context, told map[string]string) {
	l := loop.Loop{Store: a.cfg.Store, Prefixes: []string{vortex.NodeLabels.Key(a.cfg.Node.ID)}, Log: a.log}
	_ = l.Run(ctx, func(context.Context, loop.Changes) (time.Duration, error) { // it has no error but the end of its context
		if labels := a.labels(); !maps.Equal(labels, told) {
			a.putNode(labels)
			told = labels
		}
		return 0, nil
	})
}
