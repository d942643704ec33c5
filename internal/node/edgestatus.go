package node

import (
	"vortex/client"
	"vortex/internal/edge"
)

// edgeStatus is what this process's edge is doing now.
func (n *Node) edgeStatus() client.Edge {
	out := edgeStatus(n.edge.Status())
	out.ID, out.Node, out.Address, out.Version, out.Live = n.cfg.Name, n.cfg.Name, n.addrs.Edge, n.cfg.Version, true
	for _, addr := range n.edge.Addrs() {
		out.Listeners = append(out.Listeners, client.EdgeListener{Address: addr.String(), Protocol: "http"})
	}
	return out
}

// edgeStatus translates what an edge says of itself. A pool that several routes share is shown once.
func edgeStatus(st edge.Status) client.Edge {
	out := client.Edge{
		Revision: st.Revision, Busy: append([]string{}, st.Busy...),
		Listeners: []client.EdgeListener{}, Routes: []client.EdgeRoute{}, Backends: []client.EdgeBackend{},
	}
	shown := map[string]bool{}
	for _, app := range st.Apps {
		usable := 0
		for _, b := range app.Backends {
			if b.Out == "" {
				usable++
			}
			if !shown[app.Pool] {
				out.Backends = append(out.Backends, client.EdgeBackend{
					Pool: app.Pool, Instance: b.Instance, Address: b.Address, Node: b.Node, Zone: b.Zone, Release: b.Release, Weight: b.Weight,
					Out: b.Out, Detail: b.Detail, InFlight: b.InFlight, Served: b.Served, Failed: b.Failed, Errors: b.Errors, Idle: b.Idle,
				})
			}
		}
		shown[app.Pool] = true
		out.Routes = append(out.Routes, client.EdgeRoute{
			Name: app.App, Hosts: append([]string{}, app.Hosts...), Paths: append([]string{}, app.Paths...), Listeners: append([]string{}, app.Listeners...),
			Pool: app.Pool, Balance: app.Balance, Backends: len(app.Backends), Usable: usable, Panics: app.Panics, Held: app.Held,
			RPS: float64(app.Traffic.RPS), InFlight: uint64(app.Traffic.InFlight), Connections: uint64(app.Traffic.Connections),
			LatencyP50Ms: app.Traffic.P50, LatencyP95Ms: app.Traffic.P95, ErrorsPerSecond: app.Traffic.Errors,
		})
	}
	return out
}
