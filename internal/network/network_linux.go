package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vortex"
)

// Network is the container network of one node. All methods are safe for concurrent use. Except for New
// and Setup they need a Setup that succeeded before, and fail with Precondition without.
type Network struct {
	cfg    Config
	log    *slog.Logger
	making chan struct{} // holds a token for each slot being made
	low    chan struct{} // one slot: the pool wants filling

	setup sync.Mutex // one Setup, repair, Close at a time

	// Set by Setup.
	lock   *os.File
	host   *netlink.Handle
	fw     *firewall
	resolv []byte

	mu     sync.Mutex
	up     bool
	bridge int // link index
	addrs  *addresses
	pool   []*slot          // prepared, oldest first
	owned  map[string]*slot // by instance; nil while one is being attached or detached
	ports  *hostPorts
}

// New returns a Network that has touched nothing yet.
func New(cfg Config) (*Network, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	return &Network{cfg: cfg, log: cfg.Log, making: make(chan struct{}, 4), low: make(chan struct{}, 1)}, nil
}

// Setup makes the bridge, the firewall's table and whatever else is missing, and adopts the instances
// that are attached already; their traffic is not interrupted. It can be called again. The error is Precondition when
// another process uses the data directory, or when the node has no room for the subnet.
func (n *Network) Setup(ctx context.Context) error {
	n.setup.Lock()
	defer n.setup.Unlock()
	n.mu.Lock()
	up := n.up
	n.mu.Unlock()
	if up {
		return n.repair(ctx)
	}
	if err := n.start(); err != nil {
		return errors.Join(err, n.release())
	}
	return nil
}

func (n *Network) start() error {
	if err := n.open(); err != nil {
		return err
	}
	if err := n.adopt(); err != nil {
		return err
	}
	for id, s := range n.owned {
		if err := n.ports.claim(id, s.owner.Ports); err != nil {
			n.log.Warn("Published port taken while no agent ran", "instance", id, "err", err)
		}
		n.fw.adopt(forwards(s.addr, s.owner.Ports))
	}
	if err := n.fw.install(); err != nil {
		return err
	}
	n.fw.checkOthers(n.log)
	n.mu.Lock()
	n.up = true
	n.mu.Unlock()
	n.log.Info("Network ready", "bridge", n.cfg.Bridge, "subnet", n.cfg.Subnet.String(), "instances", len(n.owned))
	return nil
}

// open takes the data directory and makes the bridge.
func (n *Network) open() error {
	if err := os.MkdirAll(n.cfg.DataDir, 0o755); err != nil {
		return fmt.Errorf("make network directory: %w", err)
	}
	var err error
	if n.lock, err = lockDir(n.cfg.DataDir); err != nil {
		return err
	}
	if n.host, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	if n.cfg.MTU == 0 {
		n.cfg.MTU = n.defaultMTU()
	}
	if err := n.settleSubnet(); err != nil {
		return err
	}
	if err := n.mountSlots(); err != nil {
		return err
	}
	n.addrs, n.owned, n.pool, n.ports = newAddresses(n.cfg.Subnet), map[string]*slot{}, nil, newHostPorts()
	n.fw = &firewall{table: n.cfg.Table, bridge: n.cfg.Bridge, subnet: n.cfg.Subnet, cluster: n.cfg.Cluster, dockerUser: !n.cfg.NoDockerUser, wanted: map[hostPort]netip.AddrPort{}}
	n.resolv = resolvContent(nodeResolv(), n.cfg.DNS, n.cfg.FallbackDNS)
	n.bridge, err = n.setupBridge()
	return err
}

// lockDir takes the directory for this process. The lock goes with the process, however it ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open network lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, vortex.Errorf(vortex.Precondition, "another Vortex process uses the network directory %s: stop it or set another data directory", dir)
	}
	return f, nil
}

// nodeResolv returns the node's resolv.conf, or systemd-resolved's own where the node's points at its stub.
func nodeResolv() string {
	b, err := os.ReadFile("/etc/resolv.conf")
	if err != nil || strings.Contains(string(b), "127.0.0.53") {
		if full, err := os.ReadFile("/run/systemd/resolve/resolv.conf"); err == nil {
			return string(full)
		}
	}
	return string(b)
}

func (n *Network) ready() error {
	if !n.up {
		return vortex.Errorf(vortex.Precondition, "container network is not set up on this node")
	}
	return nil
}

// Attach gives instance id a namespace with an address, its files and its published ports. The error is Exists
// when the instance is attached already or a host port is taken, naming by whom, Invalid for a spec that can never
// work, Exhausted when no address is left. When it fails nothing is left behind.
func (n *Network) Attach(ctx context.Context, id string, spec AttachSpec) (Attachment, error) {
	if err := spec.validate(id); err != nil {
		return Attachment{}, err
	}
	if spec.Hostname == "" {
		spec.Hostname = id
	}
	s, err := n.reserve(id, spec)
	if err != nil {
		return Attachment{}, err
	}
	own := owner{ID: id, Hostname: spec.Hostname, Ports: spec.Ports}
	if s == nil && ctx.Err() == nil {
		s, err = n.makeSlot()
	}
	if err = errors.Join(err, context.Cause(ctx)); err == nil {
		err = n.give(s, own, spec.ExtraHosts)
	}
	if err != nil {
		return Attachment{}, errors.Join(err, n.abandon(id, s, spec))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	s.owner = &own
	n.owned[id] = s
	return n.attachment(s), nil
}

// reserve takes the id, the host ports and, if there is one, a prepared slot.
func (n *Network) reserve(id string, spec AttachSpec) (*slot, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.ready(); err != nil {
		return nil, err
	}
	if _, taken := n.owned[id]; taken {
		return nil, vortex.Errorf(vortex.Exists, "instance %s is attached to the network already", id)
	}
	if err := n.ports.claim(id, spec.Ports); err != nil {
		return nil, err
	}
	n.owned[id] = nil
	if len(n.pool) == 0 {
		return nil, nil
	}
	s := n.pool[0]
	n.pool = slices.Delete(n.pool, 0, 1)
	if len(n.pool) <= n.cfg.PoolSize/2 {
		n.wantSlots()
	}
	return s, nil
}

func (n *Network) wantSlots() {
	select {
	case n.low <- struct{}{}:
	default:
	}
}

// give makes the slot the owner's: files first, then the note that counts, then the ports.
func (n *Network) give(s *slot, own owner, extra []string) error {
	hosts, err := hostsContent(s.addr, n.addrs.gateway(), own.Hostname, extra)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name    string
		content []byte
	}{{hostsFile, hosts}, {hostnameFile, []byte(own.Hostname + "\n")}, {resolvFile, n.resolv}} {
		if err := os.WriteFile(s.path(f.name), f.content, 0o644); err != nil {
			return fmt.Errorf("write %s: %w", f.name, err)
		}
	}
	if err := writeOwner(s.dir, own); err != nil {
		return err
	}
	return n.fw.publish(forwards(s.addr, own.Ports))
}

// abandon undoes a reservation and destroys the slot it was for, if any.
func (n *Network) abandon(id string, s *slot, spec AttachSpec) error {
	var err error
	if s != nil {
		err = errors.Join(n.fw.withdraw(forwards(s.addr, spec.Ports)), n.destroy(s))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ports.release(id)
	delete(n.owned, id)
	return err
}

// Detach takes instance id off the network and removes everything it had. Unknown ids are no error.
func (n *Network) Detach(_ context.Context, id string) error {
	n.mu.Lock()
	err := n.ready()
	s := n.owned[id]
	if s != nil {
		n.owned[id] = nil // nobody else detaches it meanwhile
	}
	n.mu.Unlock()
	if err != nil || s == nil {
		return err
	}
	if err := errors.Join(n.fw.withdraw(forwards(s.addr, s.owner.Ports)), n.destroy(s)); err != nil {
		n.mu.Lock()
		n.owned[id] = s
		n.mu.Unlock()
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ports.release(id)
	delete(n.owned, id)
	return nil
}

// List returns every attached instance, by id.
func (n *Network) List(context.Context) ([]Attachment, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.ready(); err != nil {
		return nil, err
	}
	out := make([]Attachment, 0, len(n.owned))
	for _, s := range n.owned {
		if s != nil {
			out = append(out, n.attachment(s))
		}
	}
	slices.SortFunc(out, func(a, b Attachment) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

func (n *Network) attachment(s *slot) Attachment {
	return Attachment{
		ID: s.owner.ID, NetNS: s.path(nsFile), IP: s.addr, Gateway: n.addrs.gateway(), Prefix: n.cfg.Subnet,
		HostsFile: s.path(hostsFile), ResolvFile: s.path(resolvFile), HostnameFile: s.path(hostnameFile),
	}
}

// Reconcile detaches every instance that is not in keep and repairs bridge and firewall. It is for the agent's start,
// when it knows which of its instances still exist.
func (n *Network) Reconcile(ctx context.Context, keep map[string]bool) error {
	attached, err := n.List(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range attached {
		if !keep[a.ID] {
			errs = append(errs, n.Detach(ctx, a.ID))
		}
	}
	return errors.Join(append(errs, n.removeStrays(), n.resync(ctx))...)
}

// Close lets go of the data directory and the host ports. Instances stay attached and keep their connectivity. No
// other method may be running.
func (n *Network) Close() error {
	n.setup.Lock()
	defer n.setup.Unlock()
	return n.release()
}

func (n *Network) release() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.up = false
	if n.ports != nil {
		n.ports.close()
	}
	if n.host != nil {
		n.host.Close()
		n.host = nil
	}
	if n.lock == nil {
		return nil
	}
	err := n.lock.Close()
	n.lock = nil
	return wrap("unlock network directory", err)
}

// Teardown removes everything the Network ever made: slots, rules, bridge and directory. Instances still attached lose their network.
func (n *Network) Teardown(ctx context.Context) error {
	if err := errors.Join(n.Reconcile(ctx, nil), n.fw.remove()); err != nil {
		return err
	}
	n.mu.Lock()
	pool := n.pool
	n.pool = nil
	n.mu.Unlock()
	var errs []error
	for _, s := range pool {
		errs = append(errs, n.destroy(s))
	}
	errs = append(errs, n.removeLink(n.cfg.Bridge), n.Close())
	return errors.Join(append(errs, n.removeSlots())...)
}
