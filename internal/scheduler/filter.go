package scheduler

import (
	"fmt"
	"strings"

	"vortex"
)

// Filter rules nodes out, and can say why to a user.
type Filter interface {
	// Check reports whether the node may run the request.
	Check(n *Node, req Request) bool
	// Explain says what it means that this filter ruled out so many nodes.
	Explain(nodes int, req Request) string
}

// count returns "1 node" or "3 nodes".
func count(nodes int) string {
	if nodes == 1 {
		return "1 node"
	}
	return fmt.Sprintf("%d nodes", nodes)
}

// ready passes nodes that take new instances.
type ready struct{}

// Check implements Filter.
func (ready) Check(n *Node, _ Request) bool { return n.Ready }

// Explain implements Filter.
func (ready) Explain(nodes int, _ Request) string {
	return count(nodes) + " not ready, cordoned or draining"
}

// constraints passes nodes that every constraint of the app matches.
type constraints struct{}

// Check implements Filter.
func (*constraints) Check(n *Node, req Request) bool { return unmatched(n, req) == nil }

func unmatched(n *Node, req Request) *vortex.Constraint {
	for i, c := range req.Constraints {
		if n.Record == nil || !c.Match(*n.Record) {
			return &req.Constraints[i]
		}
	}
	return nil
}

// Explain implements Filter.
func (*constraints) Explain(nodes int, req Request) string {
	texts := make([]string, len(req.Constraints))
	for i, c := range req.Constraints {
		texts[i] = c.String()
	}
	return fmt.Sprintf("%s without a match for %q", count(nodes), strings.Join(texts, " and "))
}

// hostPorts passes nodes on which every asked host port is free.
type hostPorts struct{}

// Check implements Filter.
func (*hostPorts) Check(n *Node, req Request) bool {
	for _, port := range req.HostPorts {
		if _, taken := n.ports[port]; taken {
			return false
		}
	}
	return true
}

// Explain implements Filter.
func (*hostPorts) Explain(nodes int, req Request) string {
	return fmt.Sprintf("%s on which a host port of %v is taken", count(nodes), req.HostPorts)
}

// room passes nodes that have not reached their number of instances.
type room struct{}

// Check implements Filter.
func (room) Check(n *Node, _ Request) bool { return n.Max == 0 || n.instances < n.Max }

// Explain implements Filter.
func (room) Explain(nodes int, _ Request) string {
	return count(nodes) + " with the most instances it may run"
}

// cpu passes nodes with enough CPU left.
type cpu struct{}

// Check implements Filter.
func (cpu) Check(n *Node, req Request) bool { return n.usedCPU+req.CPUMillis <= n.CPUMillis }

// Explain implements Filter.
func (cpu) Explain(nodes int, req Request) string {
	return fmt.Sprintf("%s with less than %dm CPU left", count(nodes), req.CPUMillis)
}

// memory passes nodes with enough memory left.
type memory struct{}

// Check implements Filter.
func (memory) Check(n *Node, req Request) bool { return n.usedMemory+req.MemoryBytes <= n.MemoryBytes }

// Explain implements Filter.
func (memory) Explain(nodes int, req Request) string {
	return fmt.Sprintf("%s with less than %d MiB memory left", count(nodes), req.MemoryBytes>>20)
}
