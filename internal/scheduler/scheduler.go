// Package scheduler decides on which node an instance runs. It is pure: a snapshot of nodes and a request
// go in, a node or an explanation comes out; it reads no store and no clock.
//
// A node must pass every Filter; among those that do, the best fit wins: the node that is fullest after
// placing, so that large requests keep finding room elsewhere. Instances of one app
// are spread first, so that the loss of a node takes as few of them as possible.
//
//	plan := scheduler.New(nodes)
//	node, err := plan.Place(request) // err explains, filter by filter, why nothing fits
package scheduler

import (
	"slices"
	"strings"

	"vortex"
)

// Node is a machine as the scheduler sees it.
type Node struct {
	ID          string
	CPUMillis   uint64 // capacity
	MemoryBytes uint64 // capacity
	Max         uint64 // instances at most; 0 is no limit
	Ready       bool   // alive, not cordoned, not draining
	Record      *vortex.NodeRecord

	usedCPU, usedMemory uint64
	instances           uint64
	ports               map[uint16]string // host port -> instance that holds it
	apps                map[string]int    // instances here of each app
	failed              map[string]int    // those of them that could not be started here
}

// Request is what one instance asks for.
type Request struct {
	Instance    string
	App         string
	CPUMillis   uint64
	MemoryBytes uint64
	HostPorts   []uint16
	Constraints []vortex.Constraint
}

// Plan places requests one after another on a snapshot of the nodes. It is not safe for concurrent use.
type Plan struct {
	nodes   []*Node
	filters []Filter
}

// New returns a plan over nodes with nothing placed on them.
func New(nodes []*Node) *Plan {
	slices.SortFunc(nodes, func(a, b *Node) int { return strings.Compare(a.ID, b.ID) })
	for _, n := range nodes {
		n.ports, n.apps, n.failed = map[uint16]string{}, map[string]int{}, map[string]int{}
	}
	return &Plan{
		nodes:   nodes,
		filters: []Filter{ready{}, &constraints{}, &hostPorts{}, room{}, cpu{}, memory{}},
	}
}

// Occupy counts a request as placed on a node, as it was decided earlier.
func (p *Plan) Occupy(node string, req Request) {
	if n := p.node(node); n != nil {
		n.take(req)
	}
}

// Failed counts an instance of an app that could not be started on a node.
func (p *Plan) Failed(node, app string) {
	if n := p.node(node); n != nil {
		n.failed[app]++
	}
}

func (p *Plan) node(id string) *Node {
	i, found := slices.BinarySearchFunc(p.nodes, id, func(n *Node, id string) int { return strings.Compare(n.ID, id) })
	if !found {
		return nil
	}
	return p.nodes[i]
}

func (n *Node) take(req Request) {
	n.usedCPU += req.CPUMillis
	n.usedMemory += req.MemoryBytes
	n.instances++
	n.apps[req.App]++
	for _, port := range req.HostPorts {
		n.ports[port] = req.Instance
	}
}

// Place chooses a node for a request and counts it there. When none fits, the error is of kind
// Exhausted and says for each reason how many nodes it rules out.
func (p *Plan) Place(req Request) (string, error) {
	var best *Node
	rejected := make([]int, len(p.filters))
	for _, n := range p.nodes {
		if i := p.rejects(n, req); i >= 0 {
			rejected[i]++
			continue
		}
		if best == nil || better(n, best, req) {
			best = n
		}
	}
	if best == nil {
		return "", p.explain(req, rejected)
	}
	best.take(req)
	return best.ID, nil
}

// rejects returns the index of the first filter that n does not pass, -1 when it passes all.
func (p *Plan) rejects(n *Node, req Request) int {
	return slices.IndexFunc(p.filters, func(f Filter) bool { return !f.Check(n, req) })
}

// better reports whether a is a better node for req than b: fewer failed starts of the app, fewer instances of it, then the tighter fit.
func better(a, b *Node, req Request) bool {
	if a.failed[req.App] != b.failed[req.App] {
		return a.failed[req.App] < b.failed[req.App]
	}
	if a.apps[req.App] != b.apps[req.App] {
		return a.apps[req.App] < b.apps[req.App]
	}
	return a.fullness(req) > b.fullness(req)
}

// fullness is the mean of the shares of CPU and memory in use once req is placed, from 0 to 1.
func (n *Node) fullness(req Request) float64 {
	return (share(n.usedCPU+req.CPUMillis, n.CPUMillis) + share(n.usedMemory+req.MemoryBytes, n.MemoryBytes)) / 2
}

func share(used, capacity uint64) float64 {
	if capacity == 0 {
		return 0
	}
	return float64(used) / float64(capacity)
}

func (p *Plan) explain(req Request, rejected []int) error {
	if len(p.nodes) == 0 {
		return vortex.Errorf(vortex.Exhausted, "there is no node to run %s on", req.Instance)
	}
	var reasons []string
	for i, n := range rejected {
		if n > 0 {
			reasons = append(reasons, p.filters[i].Explain(n, req))
		}
	}
	return vortex.Errorf(vortex.Exhausted, "no node fits %s: %s", req.Instance, strings.Join(reasons, "; "))
}
