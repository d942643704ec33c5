package node

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/credentials"

	"vortex"
	"vortex/internal/agent"
	"vortex/internal/cluster/join"
	"vortex/internal/cluster/pki"
	"vortex/internal/kind"
	"vortex/internal/kind/engine"
	"vortex/internal/kind/engine/remote"
)

// Cluster says how this machine is one of a cluster. The zero value is a machine alone.
type Cluster struct {
	// Advertise is host or host:port at which the others reach this server; without Join it founds a cluster.
	Advertise string
	// Join are host or host:port of servers to join at, Token is what lets this machine in. A machine that was let in needs neither.
	Join  []string
	Token string
	// Bootstrap is how many servers, this one too, make a cluster together: Join are the hosts of all, Token the secret that they share. 0 is
	// none. A machine that belongs to a cluster does not look at it.
	Bootstrap int
	// Lifetime is how long the certificates live that this server signs; default a day.
	Lifetime time.Duration
	// Subnet is the range that the machines take their instances' subnets from; invalid leaves each machine to choose its own.
	Subnet netip.Prefix
	// Members is how many servers keep the store at most: 1, 3 or 5; default 3.
	Members int
	// Worker is a machine that only runs instances and an edge: its store is on the servers.
	Worker bool
}

func (c Cluster) on() bool { return c.Worker || c.Advertise != "" || len(c.Join) > 0 }

// serversFile keeps, beside the certificates, where the cluster's servers were last.
const serversFile = "servers"

// host is the host at which others reach this machine, "" when nobody said.
func (c Cluster) host() string {
	if host, _, err := net.SplitHostPort(c.Advertise); err == nil {
		return host
	}
	return strings.Trim(c.Advertise, "[]")
}

// address is where others reach this server's gRPC services, which listen at an address.
func (c Cluster) address(listen string) string {
	_, port, err := net.SplitHostPort(c.Advertise)
	if err != nil {
		_, port, _ = net.SplitHostPort(listen)
	}
	return net.JoinHostPort(c.host(), cmp.Or(port, join.Port))
}

// hosts are the names and addresses that this server's certificate is for.
func (c Cluster) hosts() []string {
	hosts := []string{c.host()}
	if name, err := os.Hostname(); err == nil && pki.CheckName(name) == nil && name != hosts[0] {
		hosts = append(hosts, name)
	}
	return hosts
}

// enlist finds out which cluster this machine is of: it was let in before, joins one, or founds one.
func (n *Node) enlist(ctx context.Context) error {
	dir := pki.Dir(filepath.Join(n.cfg.Data, "pki"))
	holder, err := pki.Open(dir)
	switch on := n.cfg.Cluster.on(); {
	case vortex.IsKind(err, vortex.NotFound) && !on:
		return nil
	case vortex.IsKind(err, vortex.NotFound):
		if err := n.enter(ctx, dir); err != nil {
			return err
		}
		if holder, err = pki.Open(dir); err != nil {
			return err
		}
	case err != nil:
		return err
	case !on:
		return vortex.Errorf(vortex.Precondition, "%s belongs to the cluster %s; give --advertise ADDRESS, or run `vortex agent`, as before", n.cfg.Data, holder.Identity().Cluster)
	}
	if err := n.same(holder.Identity()); err != nil {
		return err
	}
	if err := n.resumeFounding(ctx, dir); err != nil {
		return err
	}
	holder.Log = n.component("certificates")
	holder.Renew = n.renew
	n.holder = holder
	if n.cfg.Cluster.Worker && n.cfg.Cluster.Advertise == "" {
		n.cfg.Cluster.Advertise = towards(n.servers())
	}
	if err := holder.Freshen(ctx); err != nil {
		n.log.WarnContext(ctx, "The certificate could not be renewed yet", "until", holder.Expires(), "err", err)
	}
	n.parts.start("certificates", holder.Run)
	return nil
}

// towards is the address of this machine that faces the first of some servers, "" when there is no way to any. It sends nothing.
func towards(servers []string) string {
	for _, s := range servers {
		if conn, err := net.Dial("udp", s); err == nil { //nolint:noctx // nothing is sent, and a name is looked up as when joining
			defer func() { _ = conn.Close() }()
			if local, ok := conn.LocalAddr().(*net.UDPAddr); ok && !local.IP.IsLoopback() {
				return local.IP.String()
			}
		}
	}
	return ""
}

// same refuses to be somebody else than before.
func (n *Node) same(id pki.Identity) error {
	role := pki.Server
	if n.cfg.Cluster.Worker {
		role = pki.Node
	}
	if id.Name != n.cfg.Name || id.Role != role {
		return vortex.Errorf(vortex.Precondition, "%s belongs to %s; run it as that, or choose another directory with --data", n.cfg.Data, id)
	}
	return nil
}

// enter joins a cluster, or founds one.
func (n *Node) enter(ctx context.Context, dir pki.Dir) error {
	c := n.cfg.Cluster
	if len(c.Join) == 0 && c.Worker {
		return vortex.Errorf(vortex.Invalid, "an agent needs a cluster: give --join HOST and --token TOKEN; `vortex token join` on a server's machine makes one")
	}
	if len(c.Join) == 0 {
		return n.found(dir)
	}
	if c.Bootstrap > 0 {
		return n.bootstrap(ctx, dir)
	}
	if c.Token == "" {
		return vortex.Errorf(vortex.Invalid, "to join needs a token: give --token TOKEN; `vortex token join%s` on a server's machine makes one", map[bool]string{false: " --role server"}[c.Worker])
	}
	return n.join(ctx, dir, c.Join, c.Token)
}

// join joins a cluster at some of its servers.
func (n *Node) join(ctx context.Context, dir pki.Dir, servers []string, token string) error {
	c := n.cfg.Cluster
	req := join.Request{Servers: servers, Token: token, Name: n.cfg.Name, Role: vortex.ClusterRoleAgent, Dir: dir}
	if !c.Worker {
		req.Role, req.Address, req.Hosts = vortex.ClusterRoleServer, c.address(n.cfg.Kind), c.hosts()[1:]
	}
	answer, err := join.Join(ctx, req)
	if err != nil {
		return err
	}
	if answer.Token != "" {
		if err := keepToken(n.tokenFile(), answer.Token); err != nil {
			return err
		}
	}
	n.log.InfoContext(ctx, "Joined the cluster", "node", n.cfg.Name, "servers", answer.Servers)
	return n.rememberServers(dir, answer.Servers)
}

// found makes a cluster of which this is the first server.
func (n *Node) found(dir pki.Dir) error {
	if err := pki.CheckName(n.cfg.Name); err != nil {
		return err
	}
	_, err := dir.CA()
	if vortex.IsKind(err, vortex.NotFound) {
		err = dir.Found(strings.ToLower(rand.Text()[:12]))
	}
	if err != nil {
		return err
	}
	bundle, err := dir.Sign(n.certificate(pki.Identity{Name: n.cfg.Name, Role: pki.Server, Epoch: 1}))
	if err != nil {
		return err
	}
	return dir.Install(bundle)
}

// certificate is what this server's own certificate is to say.
func (n *Node) certificate(id pki.Identity) pki.Request {
	return pki.Request{Identity: id, Hosts: n.cfg.Cluster.hosts(), Lifetime: n.lifetime()}
}

func (n *Node) lifetime() time.Duration { return cmp.Or(n.cfg.Cluster.Lifetime, 24*time.Hour) }

// renew gets this machine a new certificate: from the CA where it has it, else from a server.
func (n *Node) renew(ctx context.Context, old pki.Renewal) (pki.Bundle, error) {
	if !n.cfg.Cluster.Worker {
		return n.holder.Dir().Sign(n.certificate(n.holder.Identity()))
	}
	return join.Renew(ctx, n.holder, n.servers(), old)
}

// rememberServers keeps where the servers are, for the next start.
func (*Node) rememberServers(dir pki.Dir, servers []string) error {
	return dir.Write(serversFile, []byte(strings.Join(servers, "\n")+"\n"))
}

// servers are the other servers of the cluster, as far as is known: those last seen, those to join at, then those that gossip tells of.
func (n *Node) servers() []string { return n.others(append(n.knownServers(), n.gossipServers()...)) }

// knownServers are those without what gossip tells.
func (n *Node) knownServers() []string {
	kept, _ := n.holder.Dir().Read(serversFile)
	servers := strings.Fields(string(kept))
	if n.cfg.Cluster.Bootstrap == 0 { // else this one is among them, by whatever name
		servers = append(servers, n.cfg.Cluster.Join...)
	}
	return n.others(servers)
}

// others are the servers of a list, each once, that are not this one.
func (n *Node) others(list []string) (servers []string) {
	for _, s := range list {
		if s = join.WithPort(s); !slices.Contains(servers, s) {
			servers = append(servers, s)
		}
	}
	return slices.DeleteFunc(servers, func(s string) bool { return !n.cfg.Cluster.Worker && s == n.cfg.Cluster.address(n.cfg.Kind) })
}

// afar reports whether the store stands on other servers when it is opened: on agents, and on servers that joined and are no members.
func (n *Node) afar() bool {
	if n.holder == nil || n.cfg.Store != "" {
		return false
	}
	return n.cfg.Cluster.Worker || !embeddedStore(n.cfg, nil).Kept() && len(n.knownServers()) > 0
}

// openAfar opens the engine that stands on the cluster's servers.
func (n *Node) openAfar(ctx context.Context) (engine.Engine, error) {
	cfg := remote.Config{
		Servers: n.servers(), Credentials: credentials.NewTLS(n.holder.Client("h2")), Log: n.component("engine"),
	}
	if n.cfg.Cluster.Worker {
		cfg.Hold = held(n.cfg.Name)
	}
	eng, err := cfg.Open(ctx)
	if err != nil {
		return nil, err
	}
	n.followed.Store(eng)
	return eng, nil
}

// held are the records that an agent and its edge need. All nodes are known to each, for the routes between them.
func held(node string) []kind.Selection {
	hold := slices.DeleteFunc(agent.Needs(node), func(s kind.Selection) bool { return s.Prefix == vortex.Nodes.Key(node) })
	hold = append(hold, kind.Selection{
		Prefix: vortex.Identities.Prefix + ":", Filter: &kind.Filter{Field: "role", Value: string(vortex.ClusterRoleServer)},
	})
	for _, prefix := range []string{
		vortex.Nodes.Prefix, vortex.Subnets.Prefix, vortex.Routers.Prefix, vortex.Liveness.Prefix, vortex.Settings.Prefix, vortex.Quotas.Prefix,
	} {
		hold = append(hold, kind.Selection{Prefix: prefix + ":"})
	}
	return hold
}

// watchAgain is how long a loop waits after its watch broke.
const watchAgain = time.Second

// startFollowing begins to keep up with where the cluster's servers are.
func (n *Node) startFollowing(context.Context) error {
	if n.holder != nil {
		n.parts.start("servers", n.followServers)
		n.parts.start("servers that gossip tells of", n.followGossip)
	}
	return nil
}

// followServers keeps up with where the cluster's servers are.
func (n *Node) followServers(ctx context.Context) error {
	for ctx.Err() == nil {
		watch := n.store.Watch(kind.WatchOptions{Prefixes: []string{vortex.Identities.Prefix + ":"}})
		for err := error(nil); err == nil; _, err = watch.Next(ctx) {
			n.takeServers(ctx)
		}
		watch.Close()
		select {
		case <-ctx.Done():
		case <-time.After(watchAgain):
		}
	}
	return nil
}

// takeServers takes in where the servers are now.
func (n *Node) takeServers(ctx context.Context) {
	servers := join.Servers(n.store)
	if len(servers) == 0 {
		return // nobody is there to say so
	}
	if err := n.rememberServers(n.holder.Dir(), servers); err != nil {
		n.log.WarnContext(ctx, "Where the servers are is not kept", "err", err)
	}
	n.useServers()
}

// memberTLS is how the ports of a server of a cluster are protected: with the cluster's certificate, or with the configured one for clients
// that ask for a name which is in that.
func (n *Node) memberTLS(protocols ...string) *tls.Config {
	cfg := n.holder.Server(protocols...)
	if n.certificates == nil {
		return cfg
	}
	member, configured := cfg.GetConfigForClient, n.certificates.config(false, protocols...).GetConfigForClient
	cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if pair, _ := n.certificates.current(); hello.ServerName != "" && pair.Leaf.VerifyHostname(hello.ServerName) == nil {
			return configured(hello)
		}
		return member(hello)
	}
	return cfg
}
