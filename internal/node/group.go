package node

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"vortex"
	"vortex/internal/cluster/pki"
	"vortex/internal/consensus"
	"vortex/internal/kind"
	"vortex/internal/kind/engine"
	"vortex/internal/kind/engine/etcd"
	"vortex/internal/kind/engine/swap"
)

// storeDir is where the embedded engine keeps its data.
func storeDir(cfg Config) string { return filepath.Join(cfg.Data, "store") }

// embeddedStore is the member that this server may be.
func embeddedStore(cfg Config, log *slog.Logger) etcd.Embedded {
	c := etcd.Embedded{
		Dir: storeDir(cfg), Name: cfg.Name, ClientAddr: cfg.EtcdClient, PeerAddr: cfg.EtcdPeer, Log: log,
	}
	if cfg.EtcdPeer == "" {
		return c
	}
	host, port, _ := net.SplitHostPort(cfg.EtcdPeer)
	if host == "" { // the engine wants an address
		c.PeerAddr = net.JoinHostPort("0.0.0.0", port)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		c.PeerAdvertise = net.JoinHostPort(cmp.Or(cfg.Cluster.host(), address()), port)
	}
	dir := pki.Dir(filepath.Join(cfg.Data, "pki"))
	if _, err := os.Stat(dir.Path(pki.CertFile)); err == nil { // a server of a cluster
		c.PeerTLS = etcd.PeerTLS{CA: dir.Path(pki.CAFile), Cert: dir.Path(pki.CertFile), Key: dir.Path(pki.KeyFile), Name: pki.ServerName}
	}
	return c
}

// peerURL is where other members reach this one, "" where they cannot.
func peerURL(cfg Config) string {
	if cfg.EtcdPeer == "" || cfg.Store != "" {
		return ""
	}
	c := embeddedStore(cfg, nil)
	if c.PeerAdvertise != "" {
		return c.PeerTLS.URL(c.PeerAdvertise)
	}
	return c.PeerTLS.URL(c.PeerAddr)
}

// groupOf returns the group that an engine is a member of, nil where it is none that others may join.
func groupOf(eng engine.Engine, cfg Config) *etcd.Group {
	if s, ok := eng.(*swap.Engine); ok {
		eng = s.Current()
	}
	e, ok := eng.(*etcd.Engine)
	if !ok || cfg.EtcdPeer == "" {
		return nil
	}
	return e.Group()
}

// peers gives the loop that keeps the group what it needs of it.
type peers struct{ group *etcd.Group }

// Members implements consensus.Group.
func (p peers) Members(ctx context.Context) (list []consensus.Peer, err error) {
	members, err := p.group.Members(ctx)
	for _, m := range members {
		list = append(list, consensus.Peer(m))
	}
	return list, err
}

// AddLearner implements consensus.Group.
func (p peers) AddLearner(ctx context.Context, url string) error {
	_, err := p.group.AddLearner(ctx, url)
	return err
}

// Promote implements consensus.Group.
func (p peers) Promote(ctx context.Context, id uint64) error { return p.group.Promote(ctx, id) }

// Remove implements consensus.Group.
func (p peers) Remove(ctx context.Context, id uint64) error { return p.group.Remove(ctx, id) }

// storeLeader is the member that leads the log, in hex; "" where nobody here knows.
func storeLeader(g *etcd.Group) string {
	if g == nil {
		return ""
	}
	leader := g.Status().Leader
	if leader == 0 {
		return ""
	}
	return strconv.FormatUint(leader, 16)
}

// presence keeps this server's own record.
type presence struct {
	store  *kind.Store
	group  func() *etcd.Group       // that this server is a member of now, nil while it is of none
	labels func() map[string]string // the machine's
	peer   string                   // the URL at which members reach it
	rec    vortex.ServerRecord
	log    *slog.Logger
}

const (
	presenceEvery = time.Second
	farBehind     = 5000 // entries of the log: so many are told of
	nearAgain     = 500
)

// describe is what a server says of itself.
func (n *Node) describe() vortex.ServerRecord {
	m := machine(n.cfg)
	rec := vortex.ServerRecord{
		Name: n.cfg.Name, Peer: peerURL(n.cfg), API: n.addrs.API, Kind: n.addrs.Kind,
		CPUMillis: new(m.CPUMillis), MemoryBytes: new(m.MemoryBytes), Version: n.cfg.Version, StartedAt: time.Now().UTC(),
	}
	relabel(&rec, n.labels())
	return rec
}

// relabel takes in what a machine's labels say of a server, and reports whether that is new.
func relabel(rec *vortex.ServerRecord, labels map[string]string) (changed bool) {
	zone, wish := labels[vortex.ZoneLabel], vortex.MemberWish(labels[consensus.Label])
	if wish != vortex.MemberWishPreferred && wish != vortex.MemberWishNever {
		wish = ""
	}
	changed = rec.Zone != zone || rec.Member != wish
	rec.Zone, rec.Member = zone, wish
	return changed
}

// Run writes the record and keeps it true until ctx ends.
func (p *presence) Run(ctx context.Context) error {
	ticker := time.NewTicker(presenceEvery)
	defer ticker.Stop()
	written := false
	for {
		if p.observe(ctx) || !written {
			attempt, cancel := context.WithTimeout(ctx, settleTime)
			_, err := kind.Put(attempt, p.store, vortex.Servers, &p.rec, p.rec.Name)
			cancel()
			if written = err == nil; !written && ctx.Err() == nil {
				p.log.DebugContext(ctx, "Server's record not written yet", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// observe brings the record up to date and reports whether it changed.
func (p *presence) observe(ctx context.Context) (changed bool) {
	changed = relabel(&p.rec, p.labels())
	changed = p.reachable() || changed
	group := p.group()
	if group == nil {
		changed = changed || p.rec.CaughtUp != nil || p.rec.Behind != nil
		p.rec.CaughtUp, p.rec.Behind = nil, nil
		return changed
	}
	status := group.Status()
	if status.Learner && p.rec.CaughtUp == nil {
		attempt, cancel := context.WithTimeout(ctx, presenceEvery)
		defer cancel()
		if group.CaughtUp(attempt) == nil {
			p.rec.CaughtUp, changed = new(true), true
		}
	}
	behind := status.Committed - min(status.Applied, status.Committed)
	switch {
	case p.rec.Behind == nil && behind >= farBehind:
		p.rec.Behind, changed = new(behind), true
	case p.rec.Behind != nil && behind <= nearAgain:
		p.rec.Behind, changed = nil, true
	}
	return changed
}

// reachable says where members reach this server: nowhere while it has a vote and not the data that belongs to it, so that the leader puts
// it out. Nothing else would find out that it keeps no promise any more.
func (p *presence) reachable() (changed bool) {
	peer := p.peer
	if p.group() == nil {
		if e, err := kind.Get(p.store, vortex.Members, p.rec.Name); err == nil && e.Value.Role == vortex.MemberRoleVoter {
			peer = ""
		}
	}
	changed = p.rec.Peer != peer
	p.rec.Peer = peer
	return changed
}

// startPresence tells the cluster of this server, where it can be a member.
func (n *Node) startPresence(context.Context) error {
	if _, ok := n.engine.(*swap.Engine); !ok && n.member() == nil {
		return nil
	}
	p := &presence{store: n.store, group: n.member, labels: n.labels, peer: peerURL(n.cfg), rec: n.describe(), log: n.component("presence")}
	n.parts.start("presence", p.Run)
	return nil
}
