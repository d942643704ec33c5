package endpoints

import (
	"context"
	"math"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/settings"
)

// ports gives apps their ports on the edges. A port that an app has stays its own for as long as the app has the container
// port, whatever the setting of the first becomes.
type ports struct {
	view  kind.View
	first uint16 // of those to give
	taken map[uint16]bool
}

// firstPort is the first port to give.
func (e *Endpoints) firstPort() uint16 {
	if e.FirstPort != nil {
		return e.FirstPort()
	}
	return settings.Default().StartingPort
}

// of returns the ports of an app, each with its number. One for which there is no number left is told and left out.
func (p *ports) of(ctx context.Context, e *Endpoints, app *vortex.AppRecord) []vortex.RouterPort {
	wanted := app.Spec.EdgePorts()
	var had []vortex.RouterPort
	if current, ok := kind.Lookup(p.view, vortex.Routers, app.Name); ok {
		had = current.Value.Ports
	}
	given := wanted[:0]
	for _, w := range wanted {
		if w.Port == 0 && !p.keep(&w, had) && !p.give(&w) {
			e.Log.ErrorContext(ctx, "No port is left for the app on the edges: lower cluster.starting_port", "app", app.Name, "port", w.ContainerPort, "first", p.first)
			continue
		}
		given = append(given, w)
	}
	return given
}

// keep takes the number an app has for a port already.
func (p *ports) keep(w *vortex.RouterPort, had []vortex.RouterPort) bool {
	for i := range had {
		h := &had[i]
		if h.Protocol == w.Protocol && h.ContainerPort == w.ContainerPort && h.Size() == w.Size() && int(h.LastPort()-h.Port) == w.Size()-1 {
			w.SetPorts(h.Port, h.LastPort())
			return true
		}
	}
	return false
}

// give finds the lowest numbers in a row that nobody has.
func (p *ports) give(w *vortex.RouterPort) bool {
	p.look()
	size, run := w.Size(), 0
	for n := int(max(1, p.first)); n <= math.MaxUint16; n++ {
		if p.taken[uint16(n)] {
			run = 0
			continue
		}
		if run++; run == size {
			w.SetPorts(uint16(n-size+1), uint16(n))
			p.take(w.Port, w.LastPort())
			return true
		}
	}
	return false
}

func (p *ports) take(first, last uint16) {
	for n := int(first); n <= int(last); n++ {
		p.taken[uint16(n)] = true
	}
}

// look finds out once which numbers are taken: by routers, by specs that name one, and on nodes by instances.
func (p *ports) look() {
	if p.taken != nil {
		return
	}
	p.taken = map[uint16]bool{}
	for _, r := range kind.List(p.view, vortex.Routers) {
		for i := range r.Value.Ports {
			p.take(r.Value.Ports[i].Port, r.Value.Ports[i].LastPort())
		}
	}
	for _, app := range kind.List(p.view, vortex.Apps) {
		for _, port := range app.Value.Spec.EdgePorts() {
			p.take(port.Port, port.LastPort())
		}
		for _, port := range app.Value.Spec.HostPorts() {
			p.taken[port] = true
		}
	}
	for _, c := range kind.List(p.view, vortex.Containers) {
		if c.Value.Port != nil && c.Value.IPAddress == loopback && c.Value.Status != vortex.ContainerStatusDead {
			p.taken[*c.Value.Port] = true
		}
	}
}

// loopback is the address of instances that share their node's ports.
const loopback = "127.0.0.1"
