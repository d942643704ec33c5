// Package routes lets instances on different machines reach each other: every node of a cluster has a subnet of its own, and
// each node sends what is for another's subnet to that node's address.
//
// A node claims its subnet once and tells it in its record. The loop watches the nodes' records and keeps the
// machine's routes as they say. Machines that share no network segment need a tunnel, which there is none of yet: the
// kernel then refuses the route, and the log says so.
package routes

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"time"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/loop"
)

// Table is the machine's routing table.
type Table interface {
	// SetRoutes makes these the routes to other nodes' subnets, by the node's address, and removes those that were set before.
	SetRoutes(ctx context.Context, routes map[netip.Prefix]netip.Addr) error
}

// Routes is the loop.
type Routes struct {
	Store *kind.Store
	// Node is the name of this machine's node.
	Node  string
	Table Table
	Log   *slog.Logger
}

// Run keeps the routes until ctx ends. They stay then, for the instances do too.
func (r *Routes) Run(ctx context.Context) error {
	l := loop.Loop{Store: r.Store, Prefixes: []string{vortex.Nodes.Prefix + ":"}, Log: r.Log}
	var set map[netip.Prefix]netip.Addr
	return l.Run(ctx, func(ctx context.Context, changes loop.Changes) (time.Duration, error) {
		wanted := r.wanted()
		if !changes.Full && maps.Equal(wanted, set) {
			return 0, nil
		}
		if err := r.Table.SetRoutes(ctx, wanted); err != nil {
			set = nil
			return 0, err
		}
		set = wanted
		return 0, nil
	})
}

// wanted returns the way to every other node's subnet.
func (r *Routes) wanted() map[netip.Prefix]netip.Addr {
	to := map[netip.Prefix]netip.Addr{}
	for _, e := range kind.All(r.Store, vortex.Nodes) {
		if e.ID == r.Node || e.Value.Subnet == "" {
			continue
		}
		subnet, err := netip.ParsePrefix(e.Value.Subnet)
		addr, aerr := netip.ParseAddr(e.Value.Address)
		if aerr == nil && addr.IsLoopback() {
			continue // on this very machine: its bridge is the way
		}
		if err != nil || aerr != nil {
			r.Log.Warn("Node not reachable for instances of this one: its record has no proper subnet and address", "node", e.ID)
			continue
		}
		to[subnet] = addr
	}
	return to
}
