package session_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
	"vortex/internal/nodes"
	"vortex/internal/session"
)

// cuts drop packets of addresses of this machine, in its network namespace alone.
type cuts struct{ away *nftables.Set }

// openCuts prepares a network namespace that has nothing yet, and skips where this is not one.
func openCuts(b *testing.B) *cuts {
	b.Helper()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		b.Fatal(err)
	}
	if lo.Attrs().Flags&net.FlagUp != 0 {
		b.Skip("this network is not the benchmark's own: unshare -n")
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		b.Fatal(err)
	}
	conn := connect(b)
	table := conn.AddTable(&nftables.Table{Name: "cut", Family: nftables.TableFamilyIPv4})
	c := &cuts{away: &nftables.Set{Table: table, Name: "away", ID: 1, KeyType: nftables.TypeIPAddr}}
	if err := conn.AddSet(c.away, nil); err != nil {
		b.Fatal(err)
	}
	chain := conn.AddChain(&nftables.Chain{Name: "in", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter})
	const source, destination, size = 12, 16, 4 // in the head of a packet
	for _, offset := range []uint32{source, destination} {
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
			&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: c.away.Name, SetID: c.away.ID},
			&expr.Verdict{Kind: expr.VerdictDrop},
		}})
	}
	flush(b, conn)
	return c
}

func connect(b *testing.B) *nftables.Conn {
	b.Helper()
	conn, err := nftables.New()
	if err != nil {
		b.Fatal(err)
	}
	return conn
}

func flush(b *testing.B, conn *nftables.Conn) {
	b.Helper()
	if err := conn.Flush(); err != nil {
		b.Fatal(err)
	}
}

// key is an address as the packet filter compares it.
func (*cuts) key(address string) []nftables.SetElement {
	return []nftables.SetElement{{Key: net.ParseIP(address).To4()}}
}

// cut drops everything from and to an address.
func (c *cuts) cut(b *testing.B, address string) {
	b.Helper()
	conn := connect(b)
	if err := conn.SetAddElements(c.away, c.key(address)); err != nil {
		b.Error(err)
	}
	flush(b, conn)
}

// heal lets it pass again.
func (c *cuts) heal(b *testing.B, address string) {
	b.Helper()
	conn := connect(b)
	if err := conn.SetDeleteElements(c.away, c.key(address)); err != nil {
		b.Fatal(err)
	}
	flush(b, conn)
}

// monitor is a store with a node monitor, and one who watches it.
type monitor struct {
	beats *nodes.Heartbeats
	mu    sync.Mutex
	seen  map[string]event
	more  chan struct{}
}

// event is a node's newest state in the store, and when it came.
type event struct {
	state vortex.LivenessState
	at    time.Time
}

type nobody struct{}

func (nobody) Record(vortex.EventRecord) {}

func openMonitor(b *testing.B, count int) *monitor {
	b.Helper()
	store := kindtest.Open(b)
	for i := range count {
		name := fmt.Sprintf("n%d", i+1)
		rec := vortex.NodeRecord{ID: name, Name: name, Address: address(name), CPUMillis: 1000, MemoryBytes: 1 << 30, Drivers: []string{"sim"}}
		if _, err := kind.Put(b.Context(), store, vortex.Nodes, &rec, name); err != nil {
			b.Fatal(err)
		}
	}
	m := &monitor{beats: &nodes.Heartbeats{}, seen: map[string]event{}, more: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	loop := &nodes.Monitor{Writer: kind.Writer{Store: store}, Heartbeats: m.beats, Events: nobody{}, Log: slog.New(slog.DiscardHandler)}
	w := store.Watch(kind.WatchOptions{Prefixes: []string{vortex.Liveness.Prefix + ":"}}) // before there is anything to see
	parts.Go(func() { _ = loop.Run(ctx) })
	parts.Go(func() { m.watch(ctx, store, w) })
	b.Cleanup(func() { cancel(); parts.Wait() })
	return m
}

// watch takes in what the store tells of nodes.
func (m *monitor) watch(ctx context.Context, store *kind.Store, w *kind.Watch) {
	defer w.Close()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.Ready():
		}
		at := time.Now()
		if _, err := w.Take(); err != nil {
			return
		}
		m.mu.Lock()
		for _, e := range kind.All(store, vortex.Liveness) {
			if m.seen[e.ID].state != e.Value.State {
				m.seen[e.ID] = event{e.Value.State, at}
			}
		}
		m.mu.Unlock()
		select {
		case m.more <- struct{}{}:
		default:
		}
	}
}

// sighted does as a server does with what it hears.
func (m *monitor) sighted(node string, s session.Sight) {
	switch s.State {
	case session.Unknown:
	case session.Alive:
		m.beats.Beat(node)
	case session.Silent, session.Ended:
		m.beats.Silent(node, s.Reason)
	case session.Confirmed:
		m.beats.Confirm(node, s.Reason)
	}
}

// wait returns when the watcher had the event by which a node is in a state.
func (m *monitor) wait(b *testing.B, node string, state vortex.LivenessState) time.Time {
	b.Helper()
	limit := time.After(30 * time.Second)
	for {
		m.mu.Lock()
		e := m.seen[node]
		m.mu.Unlock()
		if e.state == state {
			return e.at
		}
		select {
		case <-m.more:
		case <-limit:
			b.Fatalf("in the store %s is %q after 30 s, not %s", node, e.state, state)
		}
	}
}
