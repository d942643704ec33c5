package cluster

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// cuts are the pairs of ports between which the bridge lets nothing pass: no ARP either. Connections are not closed: nothing comes
// any more. Every change is one transaction of the kernel's packet filter.
type cuts struct {
	mu    sync.Mutex
	hub   int
	table *nftables.Table
	pairs *nftables.Set
	gone  map[pair]bool
}

// pair is a direction: what came in by one port does not go out by the other.
type pair struct{ from, to string }

// anyPort, as one end of a pair, is every port.
const anyPort = ""

func newCuts(hub int) (*cuts, error) {
	c := &cuts{hub: hub, gone: map[pair]bool{}}
	conn, err := nftables.New(nftables.WithNetNSFd(hub))
	if err != nil {
		return nil, fmt.Errorf("open packet filter: %w", err)
	}
	c.table = conn.AddTable(&nftables.Table{Name: "cut", Family: nftables.TableFamilyBridge})
	c.pairs = &nftables.Set{
		Table: c.table, Name: "pairs", ID: 1, Concatenation: true, // the library counts the ids of others without a lock
		KeyType: nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIFName),
	}
	if err := conn.AddSet(c.pairs, nil); err != nil {
		return nil, fmt.Errorf("make set of cuts: %w", err)
	}
	forward := conn.AddChain(&nftables.Chain{
		Name: "forward", Table: c.table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
	})
	conn.AddRule(&nftables.Rule{Table: c.table, Chain: forward, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: unix.NFT_REG_1},
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: unix.NFT_REG_2},
		&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: c.pairs.Name, SetID: c.pairs.ID},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	if err := conn.Flush(); err != nil {
		return nil, fmt.Errorf("make packet filter of the bridge: %w", err)
	}
	return c, nil
}

// change changes the pairs and tells the kernel.
func (c *cuts) change(ports []string, with func(gone map[pair]bool)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	with(c.gone)
	conn, err := nftables.New(nftables.WithNetNSFd(c.hub))
	if err != nil {
		return fmt.Errorf("open packet filter: %w", err)
	}
	conn.FlushSet(c.pairs)
	elements := map[pair]bool{}
	for p := range c.gone {
		for _, port := range ports {
			switch {
			case p.from == anyPort && port != p.to:
				elements[pair{port, p.to}] = true
			case p.to == anyPort && port != p.from:
				elements[pair{p.from, port}] = true
			case p.from != anyPort && p.to != anyPort:
				elements[p] = true
			}
		}
	}
	var keys []nftables.SetElement
	for p := range maps.Keys(elements) {
		keys = append(keys, nftables.SetElement{Key: slices.Concat(interfaceName(p.from), interfaceName(p.to))})
	}
	if len(keys) > 0 {
		if err := conn.SetAddElements(c.pairs, keys); err != nil {
			return fmt.Errorf("cut: %w", err)
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("cut: %w", err)
	}
	return nil
}

// interfaceName is a name as the packet filter compares it.
func interfaceName(name string) []byte {
	return append([]byte(name), make([]byte, unix.IFNAMSIZ-len(name))...)
}

// cut adds pairs.
func (n *Network) cut(pairs ...pair) {
	n.tb.Helper()
	n.check(n.cuts.change(n.ports(), func(gone map[pair]bool) {
		for _, p := range pairs {
			gone[p] = true
		}
	}))
}

// ports are the names of all ports of the bridge.
func (n *Network) ports() []string {
	names := []string{seatPort}
	for _, h := range n.hosts {
		names = append(names, h.Name)
	}
	return names
}

// Cut drops everything between two hosts, in both directions.
func (n *Network) Cut(a, b *Host) {
	n.tb.Helper()
	n.cut(pair{a.Name, b.Name}, pair{b.Name, a.Name})
}

// CutOneWay drops everything that one host sends to another. What the other sends arrives.
func (n *Network) CutOneWay(from, to *Host) {
	n.tb.Helper()
	n.cut(pair{from.Name, to.Name})
}

// Isolate drops everything from and to a host, the seat's too.
func (n *Network) Isolate(h *Host) {
	n.tb.Helper()
	n.cut(pair{h.Name, anyPort}, pair{anyPort, h.Name})
}

// Heal lets everything pass again, or, when hosts are given, all that was cut of theirs.
func (n *Network) Heal(hosts ...*Host) {
	n.tb.Helper()
	n.check(n.cuts.change(n.ports(), func(gone map[pair]bool) {
		maps.DeleteFunc(gone, func(p pair, _ bool) bool {
			return len(hosts) == 0 || slices.ContainsFunc(hosts, func(h *Host) bool { return h.Name == p.from || h.Name == p.to })
		})
	}))
}
