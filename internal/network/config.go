package network

import (
	"errors"
	"log/slog"
	"net/netip"
	"regexp"
	"strings"

	"vortex"
	"vortex/internal/runtime"
)

// Config says how a Network is made. Only DataDir has no default.
type Config struct {
	// Bridge is the name of the bridge, at most 15 bytes. Default "vortex0".
	Bridge string
	// Subnet is the IPv4 network instances live in; its first address is the bridge's own. When it is
	// not set, 10.88.0.0/16 is used or, when that overlaps a route of the node, the first free of some others.
	Subnet netip.Prefix
	// Cluster is the range that the subnets of a cluster's nodes are of. Instances keep their own addresses towards it. Default: none.
	Cluster netip.Prefix
	// Table is the name of the nftables table (family ip). Default "vortex".
	Table string
	// DataDir holds the slots. It belongs to one Network at a time.
	DataDir string
	// DNS are the name servers written to resolv.conf. Default: the node's own that are not on loopback.
	DNS []netip.Addr
	// FallbackDNS is used when DNS is empty and the node has none that an instance could reach. Default 1.1.1.1 and 8.8.8.8.
	FallbackDNS []netip.Addr
	// MTU is the largest packet in bytes. Default: that of the interface with the default route, else 1500.
	MTU int
	// PoolSize is how many prepared namespaces Run keeps. Default 16, negative for none.
	PoolSize int
	// NoDockerUser leaves Docker's DOCKER-USER chain alone. Where Docker's FORWARD policy is drop,
	// instances then reach this node but neither each other nor the world.
	NoDockerUser bool
	// Log receives what an operator would act on. Default: nothing is logged.
	Log *slog.Logger
}

// AttachSpec is what an instance wants of the network.
type AttachSpec struct {
	Hostname   string                // "" is the instance's id
	ExtraHosts []string              // "name:address" lines for /etc/hosts; the address host-gateway is the bridge's
	Ports      []runtime.PortMapping // published on all of the node's addresses, loopback included
}

// Attachment is an instance's place in the network.
type Attachment struct {
	ID           string
	NetNS        string       // path of the network namespace
	IP           netip.Addr   //
	Gateway      netip.Addr   // the bridge's address: the node, as the instance sees it
	Prefix       netip.Prefix // the subnet
	HostsFile    string       // for /etc/hosts
	ResolvFile   string       // for /etc/resolv.conf
	HostnameFile string       // for /etc/hostname
}

var (
	linkName  = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_.-]{0,14}$`)
	tableName = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_]{0,30}$`)
	validID   = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
)

// Validate returns all that is wrong with c, defaults considered.
func (c Config) Validate() error {
	var errs []error
	if c.Bridge != "" && !linkName.MatchString(c.Bridge) {
		errs = append(errs, vortex.Errorf(vortex.Invalid, "bridge %q: expected a letter and at most 14 of letters, digits, _ . -", c.Bridge))
	}
	if c.Table != "" && !tableName.MatchString(c.Table) {
		errs = append(errs, vortex.Errorf(vortex.Invalid, "nftables table %q: expected a letter and at most 30 of letters, digits, _", c.Table))
	}
	if c.DataDir == "" {
		errs = append(errs, vortex.Errorf(vortex.Invalid, "network data directory is not set"))
	}
	if c.Subnet.IsValid() && (!c.Subnet.Addr().Is4() || c.Subnet.Bits() < 8 || c.Subnet.Bits() > 29) {
		errs = append(errs, vortex.Errorf(vortex.Invalid, "subnet %s: expected an IPv4 network from /8 to /29", c.Subnet))
	}
	if c.MTU != 0 && (c.MTU < 576 || c.MTU > 65535) {
		errs = append(errs, vortex.Errorf(vortex.Invalid, "mtu %d: expected 576 to 65535", c.MTU))
	}
	return errors.Join(errs...)
}

// withDefaults returns c with what was left out filled in, except Subnet and MTU, which depend on the node.
func (c Config) withDefaults() Config {
	if c.Bridge == "" {
		c.Bridge = "vortex0"
	}
	if c.Table == "" {
		c.Table = "vortex"
	}
	if len(c.FallbackDNS) == 0 {
		c.FallbackDNS = []netip.Addr{netip.AddrFrom4([4]byte{1, 1, 1, 1}), netip.AddrFrom4([4]byte{8, 8, 8, 8})}
	}
	if c.PoolSize == 0 {
		c.PoolSize = 16
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Subnet = c.Subnet.Masked()
	return c
}

// validate checks what a user could get wrong in a request for a place.
func (s AttachSpec) validate(id string) error {
	if !validID.MatchString(id) {
		return vortex.Errorf(vortex.Invalid, "instance id %q: expected 1 to 63 of a-z, 0-9 and -", id)
	}
	if strings.ContainsAny(s.Hostname, " \t\r\n#") || len(s.Hostname) > 64 {
		return vortex.Errorf(vortex.Invalid, "hostname %q of instance %s: expected at most 64 bytes without blanks or #", s.Hostname, id)
	}
	for _, p := range s.Ports {
		if p.HostPort == 0 || p.ContainerPort == 0 {
			return vortex.Errorf(vortex.Invalid, "port mapping %d to %d of instance %s: both must be 1 to 65535", p.HostPort, p.ContainerPort, id)
		}
	}
	for _, h := range s.ExtraHosts {
		if _, _, err := splitHost(h, netip.IPv4Unspecified()); err != nil {
			return err
		}
	}
	return nil
}
