package node

import (
	"context"
	"net/netip"
	"time"

	"vortex"
	"vortex/internal/routes"
)

const (
	claimPatience = 30 * time.Second       // is how long a machine that starts waits for the store to take its claim
	claimAgain    = 500 * time.Millisecond // until the next try, where the store did not answer: its leader may die meanwhile
)

// takeSubnet gives this machine of a cluster its part of the instances' addresses, unless the configuration names one.
func (n *Node) takeSubnet(ctx context.Context) error {
	c := n.cfg.Cluster
	if n.holder == nil || n.cfg.Subnet != "" || c.Subnet == (netip.Prefix{}) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, claimPatience)
	defer cancel()
	for {
		subnet, err := routes.Claim(ctx, n.store, n.cfg.Name, c.Subnet)
		if err == nil {
			n.cfg.Subnet = subnet.String()
			return nil
		}
		if !vortex.IsKind(err, vortex.Unavailable) || ctx.Err() != nil {
			return err
		}
		n.log.WarnContext(ctx, "The instances' subnet is not claimed yet", "err", err)
		pause(ctx, claimAgain)
	}
}

// startRoutes lets this machine's instances and edge reach those of the others.
func (n *Node) startRoutes() {
	if n.holder == nil || n.drivers.network == nil {
		return
	}
	r := &routes.Routes{Store: n.store, Node: n.cfg.Name, Table: n.drivers.network, Log: n.component("routes")}
	n.parts.start("routes", r.Run)
}
