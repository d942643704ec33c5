package node

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"time"

	"google.golang.org/grpc"

	"vortex"
	"vortex/client"
	"vortex/internal/api/kindrpc"
	"vortex/internal/edge"
	"vortex/internal/edge/accesslog"
	"vortex/internal/settings"
)

// Config says what runs on this machine and where it listens. Only Data is required.
type Config struct {
	// Data is the directory everything is kept in; one process at a time may use it.
	Data string
	// Name is the node's name, unique in a cluster; default the host name.
	Name string
	// API, Kind and Edge are the addresses to listen on; "" listens nowhere. A port of 0 picks a free one.
	API, Kind, Edge string
	// Heartbeats is the UDP address on which heartbeats are exchanged with other nodes; "" exchanges none.
	Heartbeats string
	// Gossip is the address, UDP and TCP, at which the machines of a cluster find each other; "" takes no part. Its port is the same on all.
	Gossip string
	// Servers are the addresses of Kind on the cluster's other servers, to which sessions are held, and Dial is how to reach them.
	Servers []string
	Dial    []grpc.DialOption
	// EtcdClient and EtcdPeer are the embedded engine's addresses; "" keeps it on a private socket.
	EtcdClient, EtcdPeer string
	// Store is "" for the embedded engine, etcd://host:port,host:port or postgres://user@host/database.
	Store string
	// StoreTLS are the certificates for an external store.
	StoreTLS StoreTLS
	// Backups say where the leader keeps copies of the store; without a directory it keeps none.
	Backups Backups
	// Anonymous is what Kind clients without a token may do.
	Anonymous kindrpc.Anonymous
	// TLS protects the API's and Kind's ports.
	TLS TLS
	// Cluster says how this machine is one of a cluster.
	Cluster Cluster
	// Limits bound what clients of Kind can make the server hold.
	Limits kindrpc.Limits
	// MaxKeyBytes and MaxValueBytes bound a record of the store; 0 is the store's default.
	MaxKeyBytes, MaxValueBytes int
	// MaxConnections bounds the connections of the API and of Kind, each; 0 does not.
	MaxConnections int
	// Token is the API's bearer token; "" keeps the one in Data, or makes one.
	Token string
	// Runtime is the driver of apps that name none; "" or "auto" chooses the best this machine has.
	Runtime string
	// Trusted are the proxies before the edge whose X-Forwarded-For and PROXY protocol are believed.
	Trusted []netip.Prefix
	// AcceptProxy is whether these may, or must, begin HTTP connections with a header of the PROXY protocol; "" is not.
	AcceptProxy vortex.ProxyAcceptance
	// ClientLimits are what clients of the edge may do; zero values are its defaults.
	ClientLimits edge.ClientLimits
	// AccessLog is where the edge writes a line for each request; without a path nowhere.
	AccessLog accesslog.Config
	// NoAgent and NoEdge leave these parts out.
	NoAgent, NoEdge bool
	// Settings are the limits of vortex.yaml.
	Settings settings.Settings
	// Labels are the node's, for constraints.
	Labels map[string]string
	// DockerHost is the Docker Engine's address; "" is Docker's own default.
	DockerHost string
	// Remove stops and removes all containers when the node stops.
	Remove bool
	// Version and Commit are those of the binary.
	Version, Commit string
	// Bridge and Subnet override the container network's name and addresses, for several nodes on one machine.
	Bridge, Subnet string
	Log            *slog.Logger
	// Out is where Up tells the user what is reachable where.
	Out io.Writer
	// Ready, when set, is called once everything serves.
	Ready func(Addresses)
}

// Backups say where snapshots are kept, how often they are taken, how many stay, and whether the
// transactions between them are kept too.
type Backups struct {
	Dir   string
	Every time.Duration
	Keep  int
	Ship  bool
}

// Addresses are where a running node really listens; "" where it does not.
type Addresses struct {
	API, Kind, Edge string
	Token           string
	TLS             client.TLS // how to trust API and Kind; zero when they speak without TLS
}

// Validate returns everything that is wrong with the configuration.
func (c Config) Validate() error {
	var problems []error
	if c.Data == "" || !filepath.IsAbs(c.Data) {
		problems = append(problems, vortex.Errorf(vortex.Invalid, "the data directory must be an absolute path, got %q", c.Data))
	}
	for name, addr := range map[string]string{"API": c.API, "Kind": c.Kind, "edge": c.Edge, "heartbeats": c.Heartbeats, "gossip": c.Gossip} {
		if addr == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(addr); err != nil {
			problems = append(problems, vortex.Errorf(vortex.Invalid, "the %s address must be host:port, got %q", name, addr))
		}
	}
	switch c.Anonymous {
	case "", kindrpc.AnonymousOff, kindrpc.AnonymousLimited, kindrpc.AnonymousFull:
	default:
		problems = append(problems, vortex.Errorf(vortex.Invalid, "anonymous access must be full, limited or off, got %q", c.Anonymous))
	}
	return errors.Join(problems...)
}
