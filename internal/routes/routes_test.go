package routes_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"sync"
	"testing"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
	"vortex/internal/routes"
)

var within = netip.MustParsePrefix("10.42.0.0/16")

func TestEveryNodeHasASubnetOfItsOwn(t *testing.T) {
	store := kindtest.Open(t)
	const nodes = 40
	var mu sync.Mutex
	var all sync.WaitGroup
	claimed := map[netip.Prefix]string{}
	for i := range nodes {
		all.Go(func() {
			name := fmt.Sprintf("n%d", i)
			p, err := routes.Claim(t.Context(), store, name, within)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				t.Errorf("%s: %v", name, err)
			case claimed[p] != "":
				t.Errorf("%s and %s both have %s", name, claimed[p], p)
			case p.Bits() != routes.SubnetBits || !within.Overlaps(p):
				t.Errorf("%s has %s of %s", name, p, within)
			}
			claimed[p] = name
		})
	}
	all.Wait()
	for p, name := range claimed {
		if again, err := routes.Claim(t.Context(), store, name, within); err != nil || again != p {
			t.Errorf("%s had %s and has %s now, %v", name, p, again, err)
		}
	}
}

func TestNoSubnetLeft(t *testing.T) {
	store := kindtest.Open(t)
	small := netip.MustParsePrefix("10.42.0.0/23")
	for _, name := range []string{"a", "b"} {
		if _, err := routes.Claim(t.Context(), store, name, small); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := routes.Claim(t.Context(), store, "c", small); !vortex.IsKind(err, vortex.Exhausted) {
		t.Errorf("a third of two subnets: %v; want Exhausted", err)
	}
	if _, err := routes.Claim(t.Context(), store, "c", netip.MustParsePrefix("10.42.0.0/28")); !vortex.IsKind(err, vortex.Invalid) {
		t.Errorf("a range smaller than a subnet: %v; want Invalid", err)
	}
}

// machine is a routing table that can refuse.
type machine struct {
	mu     sync.Mutex
	routes map[netip.Prefix]netip.Addr
	refuse error
}

func (m *machine) SetRoutes(_ context.Context, to map[netip.Prefix]netip.Addr) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refuse != nil {
		return m.refuse
	}
	m.routes = maps.Clone(to)
	return nil
}

func (m *machine) has(want map[netip.Prefix]netip.Addr) func() bool {
	return func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return maps.Equal(m.routes, want)
	}
}

func TestRoutesFollowTheNodes(t *testing.T) {
	store := kindtest.Open(t)
	m := &machine{refuse: errors.New("the kernel does not want to yet")}
	r := &routes.Routes{Store: store, Node: "a", Table: m, Log: slog.New(slog.DiscardHandler)}
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	tell := func(name, address, subnet string) {
		rec := vortex.NodeRecord{ID: name, Name: name, Address: address, Subnet: subnet, Drivers: []string{}}
		if _, err := kind.Put(t.Context(), store, vortex.Nodes, &rec, name); err != nil {
			t.Fatal(err)
		}
	}
	tell("a", "10.0.0.1", "10.42.1.0/24")
	tell("b", "10.0.0.2", "10.42.2.0/24")
	tell("alone", "10.0.0.9", "")
	m.mu.Lock()
	m.refuse = nil
	m.mu.Unlock()
	two, three := netip.MustParsePrefix("10.42.2.0/24"), netip.MustParsePrefix("10.42.3.0/24")
	kindtest.Eventually(t, "a route to b, after the kernel refused it", m.has(map[netip.Prefix]netip.Addr{two: netip.MustParseAddr("10.0.0.2")}))
	tell("c", "10.0.0.3", "10.42.3.0/24")
	tell("b", "10.0.0.22", "10.42.2.0/24")
	kindtest.Eventually(t, "a route to c, and b's new address", m.has(map[netip.Prefix]netip.Addr{
		two: netip.MustParseAddr("10.0.0.22"), three: netip.MustParseAddr("10.0.0.3"),
	}))
	if _, err := store.Delete(t.Context(), vortex.Nodes.Key("b")); err != nil {
		t.Fatal(err)
	}
	kindtest.Eventually(t, "no route to b, who is gone", m.has(map[netip.Prefix]netip.Addr{three: netip.MustParseAddr("10.0.0.3")}))
}
