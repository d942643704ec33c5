// Package agent runs what the scheduler placed on one node: it starts, probes, stops and removes instances through
// the node's drivers, and keeps the records that tell the rest of the cluster what is really there.
//
// It owns the keys vortex:node:<its node> and vortex:container:<instance>. It guarantees that an instance which exits
// has a Dead record with its exit code as soon as the store takes it, that instances outlive the agent and are found
// again with their ids, addresses and health, that an instance which is no longer placed here is stopped and removed,
// and that no state machine ever waits for the store. It never chooses a node, and does not restart an instance: what
// replaces a dead one is decided elsewhere. Only when no server could be reached for a while does it start again what died unheard.
//
//	a, err := agent.New(agent.Config{Node: node, Store: store, Drivers: drivers, Default: "oci", Images: images})
//	err = a.Run(ctx)
package agent
