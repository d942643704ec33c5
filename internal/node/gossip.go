package node

import (
	"cmp"
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vortex"
	"vortex/internal/cluster/gossip"
	"vortex/internal/cluster/join"
	"vortex/internal/cluster/pki"
	"vortex/internal/kind"
)

// peersFile keeps, beside the certificates, where other machines last took part in gossip.
const peersFile = "peers"

const (
	mostPeers  = 32 // are kept: one that answers is enough
	eighths    = 8  // free resources are told in steps, so that they do not change all the time
	lookAgain  = 5 * time.Second
	nameLookup = 3 * time.Second
)

// startGossip takes part in the gossip of the cluster. A server that founds one does so when the others have joined.
func (n *Node) startGossip(ctx context.Context) error {
	if n.holder == nil || n.cfg.Gossip == "" || n.founding != nil {
		return nil
	}
	if err := n.openGossip(ctx); err != nil {
		return err
	}
	n.parts.start("gossip", n.runGossip)
	return nil
}

func (n *Node) openGossip(ctx context.Context) error {
	finder, err := gossip.Open(gossip.Config{
		Name: n.cfg.Name, Listen: n.cfg.Gossip, Address: n.gossipAddress(ctx), Label: n.holder.Identity().Cluster,
		Keys: n.gossipKeys, Seeds: n.gossipSeeds, Self: n.gossipSelf, Changed: n.gossipChanged, Returns: len(n.keptPeers()) > 0, Log: n.component("gossip"),
	})
	if err != nil {
		return err
	}
	n.finder.Store(finder)
	return nil
}

// runGossip gossips until ctx ends, and tells the others then.
func (n *Node) runGossip(ctx context.Context) error {
	finder := n.finder.Load()
	err := finder.Run(ctx)
	if closed := finder.Close(); err == nil && ctx.Err() == nil {
		err = closed
	}
	return err
}

// gossipAddress is the IP address at which others reach this machine.
func (n *Node) gossipAddress(ctx context.Context) netip.Addr {
	host := n.cfg.Cluster.host()
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip
	}
	if host != "" {
		ctx, cancel := context.WithTimeout(ctx, nameLookup)
		defer cancel()
		if ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host); err == nil && len(ips) > 0 {
			return ips[0].Unmap()
		}
		n.log.WarnContext(ctx, "The advertised name is not known; gossip tells this machine's first address", "name", host)
	}
	ip, _ := netip.ParseAddr(address()) // it is one
	return ip
}

// remembered are the addresses to keep of those that are in use now, and of those that were: each once, as many as there is room for.
func remembered(now, before []string) (kept []string) {
	for _, address := range slices.Concat(now, before) {
		if len(kept) < mostPeers && !slices.Contains(kept, address) {
			kept = append(kept, address)
		}
	}
	return kept
}

func (n *Node) gossipKeys() ([][]byte, error) {
	text, err := n.holder.Dir().Read(pki.GossipFile)
	if err != nil {
		return nil, err
	}
	return gossip.ParseKeys(text)
}

// gossipSeeds are where others may take part: where they did last, and the hosts of the servers that are known and of nodes of the store.
func (n *Node) gossipSeeds() []string {
	return append(n.keptPeers(), gossipAt(append(n.knownServers(), n.nodeHosts()...), n.cfg.Gossip)...)
}

// keptPeers are where others took part, those that did last first.
func (n *Node) keptPeers() []string {
	kept, _ := n.holder.Dir().Read(peersFile)
	return strings.Fields(string(kept))
}

// nodeHosts are hosts of other nodes, as far as the store that was opened knows them: of many, others each time.
func (n *Node) nodeHosts() (hosts []string) {
	store := n.stored.Load()
	if store == nil {
		return nil
	}
	for _, e := range kind.All(store, vortex.Nodes) {
		if e.Value.Name != n.cfg.Name && e.Value.Address != "" {
			hosts = append(hosts, e.Value.Address)
		}
	}
	rand.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] }) //nolint:gosec // no secret
	return hosts[:min(len(hosts), mostPeers)]
}

// gossipAt are the gossip addresses on the hosts of some servers, at the port of a listener.
func gossipAt(servers []string, listen string) (at []string) {
	_, port, _ := net.SplitHostPort(listen)
	for _, host := range hostsOf(servers) {
		at = append(at, net.JoinHostPort(host, port))
	}
	return at
}

// hostsOf are the hosts of addresses, host or host:port, each once.
func hostsOf(addresses []string) (hosts []string) {
	for _, a := range addresses {
		host, _, err := net.SplitHostPort(join.WithPort(a))
		if err == nil && !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// gossipSelf is what this machine says of itself.
func (n *Node) gossipSelf() gossip.Member {
	m := gossip.Member{Role: vortex.ClusterRoleAgent, Version: n.cfg.Version, Labels: n.labels(), CPUMillis: uint64(runtime.NumCPU()) * 1000}
	if !n.cfg.Cluster.Worker {
		m.Role, m.Kind = vortex.ClusterRoleServer, n.cfg.Cluster.address(n.cfg.Kind)
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return m
	}
	const loadScale = 1 << 16 // the kernel's load averages are fixed-point numbers
	m.MemoryBytes = info.Totalram * uint64(info.Unit)
	busy := min(info.Loads[0]*1000/loadScale, m.CPUMillis)
	m.FreeCPUMillis = stepped(m.CPUMillis-busy, m.CPUMillis)
	m.FreeMemoryBytes = stepped((info.Freeram+info.Bufferram)*uint64(info.Unit), m.MemoryBytes)
	return m
}

// stepped is how much is free, in eighths of all.
func stepped(free, all uint64) uint64 {
	step := max(all/eighths, 1)
	return free / step * step
}

// gossipChanged keeps where the others are, for the next start, and has the servers looked at again. Those that are away may come back.
func (n *Node) gossipChanged(ctx context.Context, addresses []string) {
	kept := n.keptPeers()
	if peers := remembered(addresses, kept); !slices.Equal(kept, peers) {
		if err := n.holder.Dir().Write(peersFile, []byte(strings.Join(peers, "\n")+"\n")); err != nil {
			n.log.WarnContext(ctx, "Where the other machines are is not kept", "err", err)
		}
	}
	select {
	case n.heard <- struct{}{}:
	default:
	}
}

// gossipServers are the servers that gossip tells of. While the store says who the servers are, others are not believed to be some.
func (n *Node) gossipServers() (servers []string) {
	finder := n.finder.Load()
	if finder == nil {
		return nil
	}
	members := n.members.Load()
	for _, m := range finder.Servers() {
		if members == nil || (*members)[m.Name] {
			servers = append(servers, join.WithPort(m.Kind))
		}
	}
	return servers
}

// followGossip keeps up with where gossip says that the servers are.
func (n *Node) followGossip(ctx context.Context) error {
	look := time.NewTicker(lookAgain) // for a store that went away meanwhile
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.heard:
		case <-look.C:
		}
		n.useServers()
	}
}

// useServers makes the store and the sessions use the servers that are known now.
func (n *Node) useServers() {
	n.using.Lock()
	defer n.using.Unlock()
	var members *map[string]bool
	if names := join.ServerNames(n.store); len(names) > 0 && !n.store.Stale() {
		members = &names
	}
	n.members.Store(members)
	servers := n.servers()
	if slices.Equal(servers, n.used) {
		return
	}
	n.used = servers
	if eng := n.followed.Load(); eng != nil {
		eng.Use(servers)
	}
	if n.calls != nil {
		n.calls.SetServers(servers)
	}
}

// gossipPort is the address that gossip listens on while a cluster is founded.
func (n *Node) gossipPort() string { return cmp.Or(n.cfg.Gossip, ":7946") }
