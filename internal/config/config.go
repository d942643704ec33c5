// Package config says how a server runs: defaults, then vortex.yaml, then the environment, then flags, each winning
// over the one before. What is changed at run time through the API wins over all of them and is not seen here.
//
// One table of settings serves all the sources, so each setting has a key in the file, a variable and, most of them, a
// flag. It guarantees that every problem of every source is reported at once, those of the file with their line, and
// that a Config from Load passed Validate. It reads files, but no environment: the caller passes that in.
//
//	cfg, err := config.Load(config.Sources{File: "vortex.yaml", Environ: os.Environ(), Flags: map[string]string{"data": "/srv/vortex"}})
package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"vortex"
	"vortex/internal/kind/ksl"
	"vortex/internal/settings"
)

// Config is everything that can be set of `vortex up` and `vortex server`.
type Config struct {
	// Data is the directory everything is kept in, absolute. Default: /var/lib/vortex as root, else $XDG_DATA_HOME/vortex.
	Data string
	// Name is the node's name, unique in a cluster; "" is the host name.
	Name string
	// Labels are the node's, for constraints.
	Labels map[string]string
	// API, Kind and Edge are host:port to listen on; "" listens nowhere. A port of 0 picks a free one.
	API, Kind, Edge string
	// EtcdClient and EtcdPeer are where the embedded engine listens; "" keeps it on a private socket.
	EtcdClient, EtcdPeer string
	// Store is "" for the embedded engine, etcd://host:port,host:port or postgres://user@host/database.
	Store string
	// StoreCA, StoreCert and StoreKey are files in PEM: who signs an external store's certificate, and ours for it.
	StoreCA, StoreCert, StoreKey string
	// BackupDir is where the leader keeps snapshots of the store, absolute; "" keeps none.
	BackupDir string
	// BackupEvery is the time between two, BackupKeep how many stay.
	BackupEvery time.Duration
	BackupKeep  uint32
	// NoBackupLog leaves out the log of every transaction between snapshots.
	NoBackupLog bool
	// KindAnonymous is what clients of the store without a token may do: full, limited or off.
	KindAnonymous string
	// TLSCert and TLSKey are the certificate and key of the API and the store, PEM files; "" is no TLS.
	TLSCert, TLSKey string
	// TLSClientCA is the CA of client certificates; "" asks for none. TLSClientAuth is optional or required, for the store.
	TLSClientCA, TLSClientAuth string
	// MaxKeyBytes and MaxValueBytes bound a record of the store, MaxTxnOps the compares and writes of a transaction.
	MaxKeyBytes, MaxValueBytes, MaxTxnOps uint32
	// MaxAnswer bounds an answer of the store in bytes, MaxStreams its open streams, MaxConnections its connections.
	MaxAnswer, MaxStreams, MaxConnections uint32
	// Token is the API's bearer token; "" keeps the one in Data, or makes one.
	Token string
	// Runtime is the driver of apps that name none: auto, oci, docker, process or sim.
	Runtime string
	// DockerHost is the Docker Engine's address; "" is Docker's own default.
	DockerHost string
	// EdgeTrusted are the proxies before the edge that are believed: addresses and prefixes, between commas.
	EdgeTrusted string
	// EdgeAcceptProxy is whether these may begin HTTP connections with the PROXY protocol: off, optional or required.
	EdgeAcceptProxy string
	// MaxClientConns bounds the HTTP connections of one client address, MaxConnRequests the requests on one connection, MinBodyRate is how many bytes
	// per second a request's body must come with after BodyGrace. 0 bounds nothing.
	MaxClientConns, MaxConnRequests, MinBodyRate uint32
	BodyGrace                                    time.Duration
	IdleTimeout                                  time.Duration // of a client's HTTP connection between requests
	// AccessLog is the file of the edge's access log, AccessLogPercent the share of the answers below 500 in it.
	AccessLog        string
	AccessLogPercent uint32
	// NoEdge and NoAgent leave these parts out.
	NoEdge, NoAgent bool
	// Rm stops and removes all containers when the process stops.
	Rm bool
	// Advertise is host or host:port where the other machines of a cluster reach this server; "" is of no cluster unless it joins one.
	Advertise string
	// Join are host or host:port of servers of the cluster to join, between commas, JoinToken the token for it.
	Join, JoinToken string
	// Bootstrap is how many servers make a cluster together: Join are then the hosts of all of them, JoinToken the secret that they share. 0 is none.
	Bootstrap uint32
	// Gossip is the address, UDP and TCP, at which the machines of a cluster find each other; "" takes no part.
	Gossip string
	// Heartbeat is the UDP address of heartbeats between the machines of a cluster; "" exchanges none.
	Heartbeat string
	// ClusterSubnet is the range that the machines of a cluster take their instances' subnets from.
	ClusterSubnet string
	// ClusterMembers is how many servers keep a cluster's store at most: 1, 3 or 5.
	ClusterMembers uint32
	// CertificateLifetime is how long the certificates live that this server signs.
	CertificateLifetime time.Duration
	// Worker is an agent's process: it has no store of its own. It is no setting: the command says it.
	Worker bool
	// LogFormat is text or json, LogLevel debug, info, warn or error.
	LogFormat, LogLevel string

	// Settings are the limits the loops work with, from the sections cluster, settings and ratelimiter.
	Settings settings.Settings

	// File is the vortex.yaml that was read; "" when there was none.
	File string
	// Warnings are things that are probably not meant, for people.
	Warnings []string
}

// Default returns the configuration without any source. Data is left to Load.
func Default() Config {
	return Config{
		API: "127.0.0.1:7070", Kind: "127.0.0.1:50051", Edge: ":8000",
		EtcdClient: "127.0.0.1:2379", EtcdPeer: "127.0.0.1:2380",
		MaxKeyBytes: 1024, MaxValueBytes: 3 << 19, MaxTxnOps: 10_000, MaxAnswer: 64 << 20, MaxStreams: 10_000, MaxConnections: 10_000,
		TLSClientAuth: "optional", KindAnonymous: "limited", Runtime: "auto", LogFormat: "text", LogLevel: "info",
		BackupEvery: time.Hour, BackupKeep: 24, AccessLogPercent: 100, CertificateLifetime: 24 * time.Hour,
		Gossip: ":7946", Heartbeat: ":7947", ClusterSubnet: "10.42.0.0/16", ClusterMembers: 3, IdleTimeout: 75 * time.Second,
		EdgeAcceptProxy: "off", MaxClientConns: 10_000, MinBodyRate: 64, BodyGrace: 10 * time.Second,
		Settings: settings.Default(),
	}
}

// clustered is Default for a machine of a cluster: others have to reach it, and are known by their certificates.
func clustered() Config {
	cfg := Default()
	cfg.API, cfg.Kind, cfg.EtcdPeer, cfg.KindAnonymous = ":7070", ":50051", ":2380", "off"
	return cfg
}

// Clustered reports whether the machine is to be one of a cluster.
func (c *Config) Clustered() bool { return c.Advertise != "" || c.Join != "" || c.Worker }

// Servers are the servers to join at, or to look for the cluster at.
func (c *Config) Servers() []string {
	return strings.FieldsFunc(c.Join, func(r rune) bool { return r == ',' || r == ' ' })
}

// Level returns LogLevel as slog has it.
func (c *Config) Level() slog.Level {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return slog.LevelInfo
	}
	return level
}

// Validate returns everything that is wrong, joined; each is of kind Invalid.
func (c *Config) Validate() error {
	problems := c.addressProblems()
	add := func(format string, args ...any) {
		problems = append(problems, vortex.Errorf(vortex.Invalid, format, args...))
	}
	if c.Data == "" || !filepath.IsAbs(c.Data) {
		add("node.data: expected an absolute directory, got %q", c.Data)
	}
	if c.BackupEvery < time.Second {
		add("backup.every: expected a duration from 1s, such as 1h, got %s", c.BackupEvery)
	}
	if c.BackupKeep == 0 {
		add("backup.keep: expected a number from 1, got 0")
	}
	problems = append(append(problems, c.clusterProblems()...), c.meshProblems()...)
	problems = append(problems, c.storeProblems()...)
	for _, choice := range []struct {
		key, value string
		known      []string
	}{
		{"kind.anonymous", c.KindAnonymous, []string{"full", "limited", "off"}},
		{"tls.client_auth", c.TLSClientAuth, []string{"optional", "required"}},
		{"edge.accept_proxy_protocol", c.EdgeAcceptProxy, []string{"off", "optional", "required"}},
		{"agent.runtime", c.Runtime, []string{"auto", "oci", "docker", "process", "sim"}},
		{"log.format", c.LogFormat, []string{"text", "json"}},
		{"log.level", c.LogLevel, []string{"debug", "info", "warn", "error"}},
	} {
		if !slices.Contains(choice.known, choice.value) {
			add("%s: expected %s, got %q%s", choice.key, strings.Join(choice.known, ", "), choice.value, didYouMean(choice.value, choice.known))
		}
	}
	return errors.Join(append(append(problems, c.tlsProblems()...), c.limitProblems()...)...)
}

// shortestLife is the shortest life of certificates: renewing them takes a moment.
const shortestLife = 2 * time.Minute

// meshProblems are those of how the machines of a cluster reach each other.
func (c *Config) meshProblems() (problems []error) {
	add := func(format string, args ...any) {
		problems = append(problems, vortex.Errorf(vortex.Invalid, format, args...))
	}
	if p, err := netip.ParsePrefix(c.ClusterSubnet); err != nil || !p.Addr().Is4() || p.Bits() < 8 || p.Bits() > 24 {
		add("cluster.subnet: expected an IPv4 network from /8 to /24, such as 10.42.0.0/16, got %q", c.ClusterSubnet)
	}
	if _, _, err := net.SplitHostPort(c.Heartbeat); c.Heartbeat != "" && err != nil {
		add("--heartbeat: expected host:port or :port, got %q", c.Heartbeat)
	}
	if c.Gossip != "" && !portOf(c.Gossip) {
		add("--gossip: expected host:port or :port, the same port on every machine, got %q", c.Gossip)
	}
	return append(problems, c.bootstrapProblems()...)
}

// portOf reports whether an address is host:port with a port that others can know.
func portOf(addr string) bool {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	n, err := parseUint(port, 16)
	return err == nil && n > 0
}

// mostFounders bounds how many servers can found a cluster together; more join later.
const mostFounders = 99

// bootstrapProblems are those of servers that make a cluster together.
func (c *Config) bootstrapProblems() (problems []error) {
	add := func(format string, args ...any) {
		problems = append(problems, vortex.Errorf(vortex.Invalid, format, args...))
	}
	switch hosts := len(c.Servers()); {
	case c.Bootstrap == 0:
		return nil
	case c.Worker:
		add("--bootstrap: it is for servers; an agent joins when the cluster is there")
	case c.Bootstrap > mostFounders:
		add("--bootstrap: expected how many servers make the cluster, from 1 to %d, got %d", mostFounders, c.Bootstrap)
	case hosts == 0:
		add("--bootstrap: give --join too, with the hosts of all %d servers, the same on each", c.Bootstrap)
	case hosts > int(c.Bootstrap):
		add("--bootstrap: --join has %d hosts, but %d servers are to make the cluster; give the hosts of these, and let others join later", hosts, c.Bootstrap)
	}
	if c.Bootstrap > 0 && !c.Worker && c.JoinToken == "" {
		add("--bootstrap: give --token too, the same secret on each server; `vortex token new` makes one")
	}
	if c.Bootstrap > 0 && c.Gossip == "" {
		add("--bootstrap: servers find each other by gossip; give --gossip an address such as :7946")
	}
	return problems
}

func (c *Config) clusterProblems() (problems []error) {
	add := func(format string, args ...any) {
		problems = append(problems, vortex.Errorf(vortex.Invalid, format, args...))
	}
	if c.CertificateLifetime < shortestLife {
		add("cluster.certificate_lifetime: expected a duration from %s, such as 24h, got %s", shortestLife, c.CertificateLifetime)
	}
	if m := c.ClusterMembers; m != 1 && m != 3 && m != 5 {
		add("cluster.members: expected 1, 3 or 5, got %d", m)
	}
	switch {
	case c.Worker:
	case c.Advertise == "" && c.Join != "":
		add("--join: a server that joins needs --advertise ADDRESS too, at which the other servers reach it")
	case c.Advertise != "" && checkHost(c.Advertise) != nil:
		add("--advertise: expected the host or host:port at which other machines reach this one, got %q", c.Advertise)
	case c.Advertise != "" && c.Kind == "":
		add("kind.listen: a server of a cluster has to serve the store; give an address such as :50051")
	}
	return append(problems, c.joinProblems()...)
}

// joinProblems are what is wrong about whom to join.
func (c *Config) joinProblems() (problems []error) {
	add := func(format string, args ...any) {
		problems = append(problems, vortex.Errorf(vortex.Invalid, format, args...))
	}
	if c.JoinToken != "" && c.Join == "" {
		add("--token: it is for joining; give --join HOST too, a server of the cluster")
	}
	if c.Join != "" && len(c.Servers()) == 0 {
		add("--join: expected host or host:port, several between commas, got %q", c.Join)
	}
	for _, s := range c.Servers() {
		if err := checkHost(s); err != nil {
			add("--join: expected host or host:port, several between commas, got %q", s)
		}
	}
	return problems
}

// checkHost refuses what is neither host nor host:port.
func checkHost(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = strings.Trim(s, "[]"), "1"
	}
	if host == "" || strings.ContainsAny(host, "/ ") || net.ParseIP(host) == nil && strings.Contains(host, ":") {
		return errors.New("no host")
	}
	n, err := parseUint(port, 16)
	if err == nil && n == 0 {
		err = errors.New("no port")
	}
	return err
}

func (c *Config) tlsProblems() (problems []error) {
	add := func(text string) { problems = append(problems, vortex.Errorf(vortex.Invalid, "%s", text)) }
	if (c.TLSCert == "") != (c.TLSKey == "") {
		add("tls.cert and tls.key: expected both or none, got one")
	}
	if c.TLSClientCA != "" && c.TLSCert == "" {
		add("tls.client_ca: client certificates need TLS; set tls.cert and tls.key too")
	}
	if c.TLSClientAuth == "required" && c.TLSClientCA == "" {
		add("tls.client_auth: required needs tls.client_ca, the CA that signs client certificates")
	}
	return problems
}

// storeSchemes are what an external store's URL starts with.
var storeSchemes = []string{"etcd", "postgres", "postgresql"}

func (c *Config) storeProblems() (problems []error) {
	add := func(format string, args ...any) {
		problems = append(problems, vortex.Errorf(vortex.Invalid, format, args...))
	}
	scheme, rest, ok := strings.Cut(c.Store, "://")
	switch {
	case c.Store != "" && (!ok || rest == "" || !slices.Contains(storeSchemes, scheme)): // not quoted: there may be a password in it
		add("store.url: expected etcd://host:port,host:port or postgres://user@host/database, or nothing for the embedded store, got one that starts with %q",
			scheme[:min(len(scheme), 12)])
	case c.Store == "" && c.StoreCA+c.StoreCert+c.StoreKey != "":
		add("store.ca, store.cert and store.key are for an external store; give store.url too")
	}
	if c.AccessLogPercent > 100 {
		add("edge.access_log_percent: expected a percentage from 0 to 100, got %d", c.AccessLogPercent)
	}
	if (c.StoreCert == "") != (c.StoreKey == "") {
		add("store.cert and store.key: expected both or none")
	}
	return problems
}

func (c *Config) addressProblems() (problems []error) {
	switch trusted, err := c.TrustedPrefixes(); {
	case err != nil:
		problems = append(problems, err)
	case len(trusted) == 0 && c.EdgeAcceptProxy != "off":
		problems = append(problems, vortex.Errorf(vortex.Invalid,
			"edge.accept_proxy_protocol: nobody is believed without edge.trusted, the addresses of the proxies before the edge; set it too"))
	}
	for _, addr := range []struct{ key, value string }{
		{"api.listen", c.API},
		{"kind.listen", c.Kind},
		{"edge.listen", c.Edge},
		{"store.client_listen", c.EtcdClient},
		{"store.peer_listen", c.EtcdPeer},
	} {
		if addr.value == "" {
			continue
		}
		if err := checkAddress(addr.value); err != nil {
			problems = append(problems, vortex.Errorf(vortex.Invalid, "%s: expected host:port such as 127.0.0.1:7070, got %q", addr.key, addr.value))
		}
	}
	return problems
}

// maxValue is the most that kind.max_value_bytes may be.
const maxValue = 8 << 20

func checkAddress(addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	if _, err := parseUint(port, 16); err != nil {
		return fmt.Errorf("port of %s: %w", addr, err)
	}
	return nil
}

func (c *Config) limitProblems() (problems []error) {
	add := func(format string, args ...any) {
		problems = append(problems, vortex.Errorf(vortex.Invalid, format, args...))
	}
	s := c.Settings
	for _, limit := range []struct {
		key          string
		value, least uint32
	}{
		{"kind.max_key_bytes", c.MaxKeyBytes, 128},
		{"kind.max_value_bytes", c.MaxValueBytes, 64 << 10},
		{"kind.max_txn_ops", c.MaxTxnOps, 128},
		{"kind.max_answer_bytes", c.MaxAnswer, 1 << 20},
		{"kind.max_streams", c.MaxStreams, 16},
		{"kind.max_connections", c.MaxConnections, 16},
	} {
		if limit.value < limit.least {
			add("%s: expected a number from %d, got %d: the cluster itself needs that much", limit.key, limit.least, limit.value)
		}
	}
	if c.MaxValueBytes > maxValue {
		add("kind.max_value_bytes: expected a number to %d, got %d: a request holds 16 MiB", maxValue, c.MaxValueBytes)
	}
	if s.MaxReplicas == 0 {
		add("cluster.max_replicas: expected a number from 1, got 0")
	}
	if s.MinReplicas > s.MaxReplicas {
		add("cluster.min_replicas (%d) is more than cluster.max_replicas (%d)", s.MinReplicas, s.MaxReplicas)
	}
	if c.Settings.StartingPort == 0 {
		add("cluster.starting_port: expected a port from 1 to 65535, got 0")
	}
	for _, d := range []struct {
		key   string
		value time.Duration
	}{{"settings.scale_up_grace_period", s.UpGrace}, {"settings.scale_down_cooldown", s.DownCooldown}, {"store.history_age", s.HistoryAge}, {"edge.body_grace", c.BodyGrace}} {
		if d.value < 0 {
			add("%s: expected a duration such as 5s, got %s", d.key, d.value)
		}
	}
	if c.IdleTimeout <= 0 {
		add("edge.idle_timeout: expected a duration such as 75s, got %s", c.IdleTimeout)
	}
	if s.HistoryMax != 0 && s.HistoryMax < s.HistoryCount {
		add("store.history_max (%d) is less than store.history_count (%d)", s.HistoryMax, s.HistoryCount)
	}
	if s.RateLimit == 0 {
		add("ratelimiter.ratelimit: expected a number from 1, got 0: it would refuse every request")
	}
	if s.RateWindow <= 0 {
		add("ratelimiter.ratewindow: expected a duration such as 15s, got %s", s.RateWindow)
	}
	return problems
}

func didYouMean(word string, known []string) string {
	if near := ksl.Nearest(word, known); near != "" && word != "" {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	return ""
}
