package network

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"vortex/internal/runtime"
)

// firewall is the Network's own nftables table: address translation and nothing else. It accepts all it has
// no opinion on. The published ports are two maps, so that publishing is one element and not one rule:
//
//	map tcp, udp   { type inet_service : ipv4_addr . inet_service }
//	chain raw        hook prerouting -300   iifname BRIDGE ip daddr 127.0.0.0/8 drop
//	chain prerouting hook prerouting -100   fib daddr type local  dnat to (tcp|udp) dport map
//	chain output     hook output     -100   the same, for the node's own connections
//	chain postrouting hook postrouting 100  oifname BRIDGE ip saddr 127.0.0.0/8 masquerade        (127.0.0.1:port)
//	                                        oifname BRIDGE ip saddr SUBNET ct status dnat masquerade  (a neighbour's published port)
//	                                        oifname != BRIDGE ip saddr SUBNET ip daddr != CLUSTER masquerade  (egress)
//
// The raw rule keeps route_localnet, which the first one needs, from opening the node's loopback to instances.
type firewall struct {
	table      string
	bridge     string
	subnet     netip.Prefix
	cluster    netip.Prefix // of the nodes' subnets; invalid: none
	dockerUser bool

	mu     sync.Mutex // one transaction at a time
	wanted map[hostPort]netip.AddrPort
}

// forward sends a port of the node to an instance.
type forward struct {
	from hostPort
	to   netip.AddrPort
}

func forwards(ip netip.Addr, ports []runtime.PortMapping) []forward {
	out := make([]forward, len(ports))
	for i, p := range ports {
		out[i] = forward{hostPort{p.HostPort, p.UDP}, netip.AddrPortFrom(ip, p.ContainerPort)}
	}
	return out
}

func (f *firewall) tableRef() *nftables.Table {
	return &nftables.Table{Name: f.table, Family: nftables.TableFamilyIPv4}
}

// portMap describes the map of a protocol.
func (f *firewall) portMap(udp bool) *nftables.Set {
	name := "tcp"
	if udp {
		name = "udp"
	}
	return &nftables.Set{
		Table: f.tableRef(), Name: name, IsMap: true, KeyType: nftables.TypeInetService,
		DataType: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService),
	}
}

// install replaces the whole table in one transaction, so that traffic never sees half of it.
func (f *firewall) install() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.replace()
}

func (f *firewall) replace() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	t := f.tableRef()
	c.AddTable(t) // so that deleting it cannot fail
	c.DelTable(t)
	c.AddTable(t)
	for _, udp := range []bool{false, true} {
		if err := c.AddSet(f.portMap(udp), elementsOf(f.all(), udp)); err != nil {
			return fmt.Errorf("add port map: %w", err)
		}
	}
	f.addChains(c, t)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("install firewall table: %w", err)
	}
	return f.openDockerUser()
}

func (f *firewall) all() []forward {
	out := make([]forward, 0, len(f.wanted))
	for from, to := range f.wanted {
		out = append(out, forward{from, to})
	}
	return out
}

func (f *firewall) addChains(c *nftables.Conn, t *nftables.Table) {
	chain := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority, rules ...[]expr.Any) {
		ch := c.AddChain(&nftables.Chain{Name: name, Table: t, Type: kind, Hooknum: hook, Priority: prio})
		for _, r := range rules {
			c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: r})
		}
	}
	loop := netip.MustParsePrefix("127.0.0.0/8")
	onBridge, offBridge := link(expr.MetaKeyOIFNAME, expr.CmpOpEq, f.bridge), link(expr.MetaKeyOIFNAME, expr.CmpOpNeq, f.bridge)
	masq := []expr.Any{&expr.Masq{}}
	chain("raw", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw,
		join(link(expr.MetaKeyIIFNAME, expr.CmpOpEq, f.bridge), address(ipDst, loop), []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}))
	chain("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest,
		redirect("tcp", unix.IPPROTO_TCP), redirect("udp", unix.IPPROTO_UDP))
	chain("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest,
		redirect("tcp", unix.IPPROTO_TCP), redirect("udp", unix.IPPROTO_UDP))
	chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource,
		join(onBridge, address(ipSrc, loop), masq),
		join(onBridge, address(ipSrc, f.subnet), translated(), masq),
		f.egress(offBridge, masq))
}

// egress is the rule for what leaves the node; instances of other nodes see where it came from.
func (f *firewall) egress(offBridge, masq []expr.Any) []expr.Any {
	from := join(offBridge, address(ipSrc, f.subnet))
	if f.cluster.IsValid() {
		from = join(from, elsewhere(ipDst, f.cluster))
	}
	return join(from, masq)
}

// adopt takes forwards over that the next install is to bring.
func (f *firewall) adopt(fs []forward) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, x := range fs {
		f.wanted[x.from] = x.to
	}
}

// publish adds forwards.
func (f *firewall) publish(fs []forward) error {
	if len(fs) == 0 {
		return nil
	}
	f.adopt(fs)
	return f.change(fs, (*nftables.Conn).SetAddElements)
}

// withdraw removes forwards, and nothing when they are not there or lead elsewhere.
func (f *firewall) withdraw(fs []forward) error {
	f.mu.Lock()
	there := slices.DeleteFunc(slices.Clone(fs), func(x forward) bool { return f.wanted[x.from] != x.to })
	for _, x := range there {
		delete(f.wanted, x.from)
	}
	f.mu.Unlock()
	return f.change(there, (*nftables.Conn).SetDeleteElements)
}

// change changes the maps. When they are not as they should be, because somebody flushed them, all is installed again.
func (f *firewall) change(fs []forward, do func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error) error {
	if len(fs) == 0 {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	for _, udp := range []bool{false, true} {
		if es := elementsOf(fs, udp); len(es) > 0 {
			if err := do(c, f.portMap(udp), es); err != nil {
				return fmt.Errorf("change port map: %w", err)
			}
		}
	}
	if c.Flush() != nil {
		return f.replace()
	}
	return nil
}

// remove deletes the table and the rules in Docker's chain.
func (f *firewall) remove() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	c.AddTable(f.tableRef())
	c.DelTable(f.tableRef())
	if err := c.Flush(); err != nil {
		return fmt.Errorf("remove firewall table: %w", err)
	}
	return f.closeDockerUser()
}

// intact reports whether all chains with their rules, and the rules in Docker's chain, are there.
func (f *firewall) intact() (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("open nftables: %w", err)
	}
	for name, want := range map[string]int{"raw": 1, "prerouting": 2, "output": 2, "postrouting": 3} {
		rules, err := c.GetRules(f.tableRef(), &nftables.Chain{Name: name})
		if err != nil || len(rules) != want {
			return false, nil // a chain that cannot be read is a chain that is not there
		}
	}
	return f.dockerUserOpen(c)
}

func elementsOf(fs []forward, udp bool) []nftables.SetElement {
	var out []nftables.SetElement
	for _, x := range fs {
		if x.from.udp != udp {
			continue
		}
		val := x.to.Addr().AsSlice()
		val = binary.BigEndian.AppendUint16(val, x.to.Port())
		out = append(out, nftables.SetElement{
			Key: binaryutil.BigEndian.PutUint16(x.from.number),
			Val: append(val, 0, 0), // registers are filled in steps of four bytes
		})
	}
	return out
}
