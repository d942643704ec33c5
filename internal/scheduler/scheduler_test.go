package scheduler_test

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"vortex"
	"vortex/internal/scheduler"
)

func node(id string, cpu, memory uint64) *scheduler.Node {
	return &scheduler.Node{
		ID: id, CPUMillis: cpu, MemoryBytes: memory << 20, Ready: true,
		Record: &vortex.NodeRecord{ID: id, Arch: "amd64", Labels: map[string]string{"zone": id[:1]}},
	}
}

func request(n int, app string, cpu, memory uint64) scheduler.Request {
	return scheduler.Request{Instance: fmt.Sprintf("%s-%d", app, n), App: app, CPUMillis: cpu, MemoryBytes: memory << 20}
}

func place(t *testing.T, p *scheduler.Plan, req scheduler.Request) string {
	t.Helper()
	id, err := p.Place(req)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestBestFitKeepsRoomForLargeRequests(t *testing.T) {
	p := scheduler.New([]*scheduler.Node{node("big", 8000, 8000), node("small", 2000, 2000)})
	for n, app := range []string{"a", "b", "c"} {
		if got := place(t, p, request(n, app, 500, 500)); got != "small" {
			t.Errorf("%s went to %s; want the fuller node, small", app, got)
		}
	}
	if got := place(t, p, request(0, "large", 8000, 8000)); got != "big" {
		t.Errorf("the large one went to %s", got)
	}
}

func TestInstancesOfAnAppSpreadFirst(t *testing.T) {
	p := scheduler.New([]*scheduler.Node{node("a", 4000, 4000), node("b", 4000, 4000), node("c", 4000, 4000)})
	p.Occupy("a", request(0, "web", 100, 100))
	p.Occupy("nowhere", request(9, "web", 100, 100)) // its node is gone
	seen := map[string]int{"a": 1}
	for n := 1; n < 6; n++ {
		seen[place(t, p, request(n, "web", 100, 100))]++
	}
	for id, n := range seen {
		if n != 2 {
			t.Errorf("%s has %d of 6", id, n)
		}
	}
}

func TestNodeWhereStartsFailedIsTheLastChoice(t *testing.T) {
	p := scheduler.New([]*scheduler.Node{node("a", 1000, 1000), node("b", 1000, 1000)})
	p.Failed("a", "web")
	p.Failed("nowhere", "web") // its node is gone
	for n, want := range []string{"b", "b", "a"} {
		if got := place(t, p, request(n, "web", 400, 400)); got != want {
			t.Errorf("instance %d went to %s; want %s", n, got, want)
		}
	}
	if got := place(t, p, request(0, "other", 100, 100)); got != "b" {
		t.Errorf("another app's went to %s; want b, which is fuller", got)
	}
}

func TestWhyNothingFits(t *testing.T) {
	constraint, err := vortex.ParseConstraint("node.labels.zone == x")
	if err != nil {
		t.Fatal(err)
	}
	cordoned := node("d", 9000, 9000)
	cordoned.Ready = false
	full := node("e", 9000, 9000)
	full.Max = 1
	p := scheduler.New([]*scheduler.Node{node("a", 100, 9000), node("b", 100, 9000), node("c", 9000, 10), cordoned, full, node("f", 9000, 9000)})
	p.Occupy("e", request(0, "other", 1, 1))
	holder := request(1, "other", 1, 1)
	holder.HostPorts = []uint16{8080}
	p.Occupy("f", holder)
	req := request(0, "web", 500, 64)
	req.HostPorts = []uint16{8080}
	_, err = p.Place(req)
	if !vortex.IsKind(err, vortex.Exhausted) {
		t.Fatalf("%v; want Exhausted", err)
	}
	for _, part := range []string{"web-0", "2 nodes with less than 500m CPU", "1 node with less than 64 MiB", "1 node not ready", "1 node with the most instances", "host port of [8080]"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
	req.HostPorts, req.Constraints = nil, []vortex.Constraint{constraint}
	if _, err = p.Place(req); err == nil || !strings.Contains(err.Error(), constraint.String()) {
		t.Errorf("%v does not name the constraint", err)
	}
	if _, err := scheduler.New(nil).Place(req); !vortex.IsKind(err, vortex.Exhausted) || !strings.Contains(err.Error(), "no node") {
		t.Errorf("without nodes: %v", err)
	}
}

func TestConstraintsChooseTheNode(t *testing.T) {
	p := scheduler.New([]*scheduler.Node{node("eu-1", 1000, 1000), node("us-1", 1000, 1000)})
	constraint, err := vortex.ParseConstraint("node.labels.zone == u")
	if err != nil {
		t.Fatal(err)
	}
	req := request(0, "web", 100, 100)
	req.Constraints = []vortex.Constraint{constraint}
	if got := place(t, p, req); got != "us-1" {
		t.Errorf("it went to %s", got)
	}
}

// TestNeverOverCapacity places random requests and adds up what every node then holds.
func TestNeverOverCapacity(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type load struct {
			cpu, memory, count uint64
			ports              map[uint16]bool
		}
		nodes, loads := map[string]*scheduler.Node{}, map[string]*load{}
		var list []*scheduler.Node
		for n := range rapid.IntRange(1, 8).Draw(t, "nodes") {
			nd := node(fmt.Sprintf("n%d", n), rapid.Uint64Range(0, 4000).Draw(t, "cpu"), rapid.Uint64Range(0, 4000).Draw(t, "memory"))
			nd.Max, nd.Ready = rapid.Uint64Range(0, 6).Draw(t, "max"), rapid.IntRange(0, 5).Draw(t, "ready") > 0
			nodes[nd.ID], loads[nd.ID] = nd, &load{ports: map[uint16]bool{}}
			list = append(list, nd)
		}
		p := scheduler.New(list)
		for n := range rapid.IntRange(1, 60).Draw(t, "requests") {
			req := request(n, rapid.SampledFrom([]string{"a", "b"}).Draw(t, "app"), rapid.Uint64Range(0, 1500).Draw(t, "cpu"), rapid.Uint64Range(0, 1500).Draw(t, "memory"))
			if rapid.Bool().Draw(t, "port") {
				req.HostPorts = []uint16{rapid.Uint16Range(80, 82).Draw(t, "hostPort")}
			}
			fits := func(id string) bool {
				nd, l := nodes[id], loads[id]
				ok := nd.Ready && l.cpu+req.CPUMillis <= nd.CPUMillis && l.memory+req.MemoryBytes <= nd.MemoryBytes && (nd.Max == 0 || l.count < nd.Max)
				for _, port := range req.HostPorts {
					ok = ok && !l.ports[port]
				}
				return ok
			}
			id, err := p.Place(req)
			if err != nil {
				for other := range nodes {
					if fits(other) {
						t.Fatalf("%v, but %s has room", err, other)
					}
				}
				continue
			}
			if !fits(id) {
				t.Fatalf("request %d was put on %s, where it does not fit", n, id)
			}
			l := loads[id]
			l.cpu, l.memory, l.count = l.cpu+req.CPUMillis, l.memory+req.MemoryBytes, l.count+1
			for _, port := range req.HostPorts {
				l.ports[port] = true
			}
		}
	})
}
