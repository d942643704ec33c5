package agent

import (
	"vortex"
	"vortex/internal/kind"
)

// Needs is what the store of an agent has to hold, and all of it, where it does not hold everything: the node's own placements
// and containers, and the instances, releases and rollouts that those placements name. What runs elsewhere takes no memory.
func Needs(node string) []kind.Selection {
	placements := vortex.Placements.Prefix + ":"
	mine := &kind.Filter{Field: "node", Value: node}
	named := func(prefix string, fields ...string) kind.Selection {
		return kind.Selection{Prefix: prefix + ":", Via: &kind.Via{Prefix: placements, Fields: fields}}
	}
	return []kind.Selection{
		{Prefix: placements, Filter: mine},
		{Prefix: vortex.Containers.Prefix + ":", Filter: mine},
		{Prefix: vortex.Nodes.Key(node)},
		named(vortex.Instances.Prefix, "instance"),
		named(vortex.Releases.Prefix, "client_id", "release"),
		named(vortex.Rollouts.Prefix, "client_id"),
	}
}
