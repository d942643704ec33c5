package config

import (
	"strconv"
	"strings"
	"time"

	"vortex"
)

// Setting is one thing that can be set, whatever the source.
type Setting struct {
	// Key is its place in vortex.yaml: section.name.
	Key string
	// Flag is its flag, "" when it has none.
	Flag string
	// Usage describes it in one line.
	Usage string
	// Switch tells that the flag may stand without a value.
	Switch bool

	env     string // the variable's name, when it does not follow from the flag
	negated bool   // the key says the opposite of the flag and the variable
	value   func(*Config) value
}

// Env is the name of its environment variable.
func (s Setting) Env() string {
	if s.env != "" {
		return s.env
	}
	name := s.Flag
	if name == "" {
		name = s.Key
	}
	return envPrefix + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(name))
}

// Default is its default as text.
func (s Setting) Default() string {
	cfg := Default()
	return s.value(&cfg).text()
}

const envPrefix = "VORTEX_"

// Settings returns every setting, in the order of the documentation.
func Settings() []Setting {
	return []Setting{
		{Key: "node.data", Flag: "data", Usage: "directory everything is kept in", value: text(func(c *Config) *string { return &c.Data })},
		{Key: "node.name", Flag: "name", Usage: "this node's name (default: the host name)", value: text(func(c *Config) *string { return &c.Name })},
		{Key: "node.labels", Flag: "label", Usage: "this node's labels, key=value,key=value", value: labels(func(c *Config) *map[string]string { return &c.Labels })},
		{Key: "api.listen", Flag: "api", Usage: "address of the API and the dashboard", value: text(func(c *Config) *string { return &c.API })},
		{Key: "api.token", Flag: "", Usage: "the API's token (default: one is made and kept)", value: text(func(c *Config) *string { return &c.Token })},
		{Key: "kind.listen", Flag: "kind", Usage: "address of the state store's gRPC service", value: text(func(c *Config) *string { return &c.Kind })},
		{Key: "kind.anonymous", Flag: "kind-anonymous", Usage: "what store clients without a token may do: full, limited or off", value: text(func(c *Config) *string { return &c.KindAnonymous })},
		{Key: "kind.max_key_bytes", Usage: "how long a key of the store may be", value: number32(func(c *Config) *uint32 { return &c.MaxKeyBytes })},
		{Key: "kind.max_value_bytes", Usage: "how large a value of the store may be", value: number32(func(c *Config) *uint32 { return &c.MaxValueBytes })},
		{Key: "kind.max_txn_ops", Usage: "how many compares and writes a transaction may have", value: number32(func(c *Config) *uint32 { return &c.MaxTxnOps })},
		{Key: "kind.max_answer_bytes", Usage: "how large one answer of the store may be", value: number32(func(c *Config) *uint32 { return &c.MaxAnswer })},
		{Key: "kind.max_streams", Usage: "how many streams of the store may be open in all", value: number32(func(c *Config) *uint32 { return &c.MaxStreams })},
		{Key: "kind.max_connections", Usage: "how many connections the store takes", value: number32(func(c *Config) *uint32 { return &c.MaxConnections })},
		{Key: "tls.cert", Flag: "tls-cert", Usage: "certificate of the API and the store, a PEM file (default: no TLS)", value: text(func(c *Config) *string { return &c.TLSCert })},
		{Key: "tls.key", Flag: "tls-key", Usage: "key of the certificate, a PEM file", value: text(func(c *Config) *string { return &c.TLSKey })},
		{Key: "tls.client_ca", Flag: "tls-client-ca", Usage: "CA of client certificates, a PEM file (default: none are asked for)", value: text(func(c *Config) *string { return &c.TLSClientCA })},
		{Key: "tls.client_auth", Flag: "tls-client-auth", Usage: "client certificates for the store are optional or required", value: text(func(c *Config) *string { return &c.TLSClientAuth })},
		{Key: "store.url", Flag: "store", Usage: "etcd://host:port,… or postgres://user@host/database instead of the embedded store", value: text(func(c *Config) *string { return &c.Store })},
		{Key: "store.ca", Flag: "store-ca", Usage: "file with the authority that signs the external store's certificate", value: text(func(c *Config) *string { return &c.StoreCA })},
		{Key: "store.cert", Flag: "store-cert", Usage: "file with this server's certificate for the external store", value: text(func(c *Config) *string { return &c.StoreCert })},
		{Key: "store.key", Flag: "store-key", Usage: "file with the key of --store-cert", value: text(func(c *Config) *string { return &c.StoreKey })},
		{Key: "store.history_age", Flag: "history-age", Usage: "transactions younger than this are kept to be read and undone; 0s: the engine decides", value: duration(func(c *Config) *time.Duration { return &c.Settings.HistoryAge })},
		{Key: "store.history_count", Flag: "history-count", Usage: "the newest transactions that are kept whatever their age", value: number64(func(c *Config) *uint64 { return &c.Settings.HistoryCount })},
		{Key: "store.history_max", Flag: "history-max", Usage: "the most transactions that are kept however young; 0: no limit", value: number64(func(c *Config) *uint64 { return &c.Settings.HistoryMax })},
		{Key: "store.client_listen", Flag: "etcd-client", Usage: "client address of the embedded store; empty: a private socket", value: text(func(c *Config) *string { return &c.EtcdClient })},
		{Key: "store.peer_listen", Flag: "etcd-peer", Usage: "peer address of the embedded store; empty: a private socket", value: text(func(c *Config) *string { return &c.EtcdPeer })},
		{Key: "backup.dir", Flag: "backup-dir", Usage: "directory the leader keeps snapshots of the store in; empty: none", value: text(func(c *Config) *string { return &c.BackupDir })},
		{Key: "backup.every", Flag: "backup-every", Usage: "time between two snapshots", value: duration(func(c *Config) *time.Duration { return &c.BackupEvery })},
		{Key: "backup.keep", Flag: "backup-keep", Usage: "how many snapshots stay", value: number32(func(c *Config) *uint32 { return &c.BackupKeep })},
		{Key: "backup.ship", Flag: "no-backup-log", Usage: "keep no log of the transactions between snapshots", Switch: true, negated: true, value: toggle(func(c *Config) *bool { return &c.NoBackupLog })},
		{Key: "edge.listen", Flag: "edge", Usage: "address of the edge, where apps are reached", value: text(func(c *Config) *string { return &c.Edge })},
		{Key: "edge.trusted", Usage: "addresses or prefixes, between commas, of proxies before the edge: their X-Forwarded-For and PROXY protocol are believed", value: text(func(c *Config) *string { return &c.EdgeTrusted })},
		{Key: "edge.accept_proxy_protocol", Usage: "whether these proxies may begin HTTP connections with a header of the PROXY protocol: off, optional or required, which serves nobody else", value: text(func(c *Config) *string { return &c.EdgeAcceptProxy })},
		{Key: "edge.max_client_connections", Usage: "HTTP connections that one client address may have open, trusted proxies aside; 0: no limit", value: number32(func(c *Config) *uint32 { return &c.MaxClientConns })},
		{Key: "edge.max_connection_requests", Usage: "requests on one HTTP connection; 0: no limit", value: number32(func(c *Config) *uint32 { return &c.MaxConnRequests })},
		{Key: "edge.min_body_rate", Usage: "bytes per second that a request's body must come with on average; 0: any rate", value: number32(func(c *Config) *uint32 { return &c.MinBodyRate })},
		{Key: "edge.body_grace", Usage: "a request's body may be slower for this long", value: duration(func(c *Config) *time.Duration { return &c.BodyGrace })},
		{Key: "edge.idle_timeout", Usage: "a client's HTTP connection is closed when nothing was asked on it for this long", value: duration(func(c *Config) *time.Duration { return &c.IdleTimeout })},
		{Key: "edge.access_log", Flag: "access-log", Usage: "file that gets a line of JSON for each request of the edge; - is standard output; empty: none", value: text(func(c *Config) *string { return &c.AccessLog })},
		{Key: "edge.access_log_percent", Usage: "share of the answers below 500 that the access log has; all others are in it", value: number32(func(c *Config) *uint32 { return &c.AccessLogPercent })},
		{Key: "edge.enabled", Flag: "no-edge", Usage: "run no edge", Switch: true, negated: true, value: toggle(func(c *Config) *bool { return &c.NoEdge })},
		{Key: "agent.enabled", Flag: "no-agent", Usage: "run no instances on this machine", Switch: true, negated: true, value: toggle(func(c *Config) *bool { return &c.NoAgent })},
		{Key: "agent.runtime", Flag: "runtime", Usage: "driver of apps that name none: auto, oci, docker, process or sim", value: text(func(c *Config) *string { return &c.Runtime })},
		{Key: "agent.docker_host", Flag: "docker-host", Usage: "address of the Docker Engine (default: Docker's own)", value: text(func(c *Config) *string { return &c.DockerHost })},
		{Key: "agent.rm", Flag: "rm", Usage: "remove all containers when stopped", Switch: true, value: toggle(func(c *Config) *bool { return &c.Rm })},
		{Key: "log.format", Flag: "log-format", Usage: "text or json", value: text(func(c *Config) *string { return &c.LogFormat })},
		{Key: "log.level", Flag: "log-level", Usage: "debug, info, warn or error", value: text(func(c *Config) *string { return &c.LogLevel })},
		{Key: "cluster.advertise", Flag: "advertise", Usage: "host or host:port at which other machines reach this server; with it others can join", value: text(func(c *Config) *string { return &c.Advertise })},
		{Key: "cluster.join", Flag: "join", Usage: "servers of a cluster to join, host or host:port between commas", value: text(func(c *Config) *string { return &c.Join })},
		{Key: "cluster.token", Flag: "token", env: "VORTEX_JOIN_TOKEN", Usage: "token for joining, from `vortex token join`, or with --bootstrap the servers' secret; needed once", value: text(func(c *Config) *string { return &c.JoinToken })},
		{Key: "cluster.bootstrap", Flag: "bootstrap", Usage: "so many servers make a cluster together, started with the same --join, the hosts of all, and the same secret as --token; needed once", value: number32(func(c *Config) *uint32 { return &c.Bootstrap })},
		{Key: "cluster.certificate_lifetime", Usage: "how long the certificates of servers and nodes live", value: duration(func(c *Config) *time.Duration { return &c.CertificateLifetime })},
		{Key: "cluster.gossip", Flag: "gossip", Usage: "address, TCP and UDP, at which the machines of a cluster find each other, its port the same on all; empty: takes no part", value: text(func(c *Config) *string { return &c.Gossip })},
		{Key: "cluster.heartbeat", Flag: "heartbeat", Usage: "UDP address of heartbeats between the machines of a cluster; empty: none, and failures are found later", value: text(func(c *Config) *string { return &c.Heartbeat })},
		{Key: "cluster.subnet", Usage: "range of which every machine of a cluster takes a /24 for its instances", value: text(func(c *Config) *string { return &c.ClusterSubnet })},
		{Key: "cluster.members", Usage: "how many servers keep a cluster's store at most: 1, 3 or 5", value: number32(func(c *Config) *uint32 { return &c.ClusterMembers })},
		{Key: "cluster.min_replicas", Usage: "default floor for an app", value: number32(func(c *Config) *uint32 { return &c.Settings.MinReplicas })},
		{Key: "cluster.max_replicas", Usage: "hard ceiling per app", value: number32(func(c *Config) *uint32 { return &c.Settings.MaxReplicas })},
		{Key: "cluster.starting_port", Usage: "first port given to apps of TCP and UDP on the edges, and on their node to instances that need one (runtime process)", value: port(func(c *Config) *uint16 { return &c.Settings.StartingPort })},
		{Key: "settings.scaleupnumber", Usage: "at most this many instances added per scale-up; 0: no limit", value: number32(func(c *Config) *uint32 { return &c.Settings.StepUp })},
		{Key: "settings.scaledownnumber", Usage: "at most this many removed per scale-down; 0: no limit", value: number32(func(c *Config) *uint32 { return &c.Settings.StepDown })},
		{Key: "settings.scale_up_grace_period", Usage: "time between two scale-ups", value: duration(func(c *Config) *time.Duration { return &c.Settings.UpGrace })},
		{Key: "settings.scale_down_cooldown", Usage: "load must have been lower for this long", value: duration(func(c *Config) *time.Duration { return &c.Settings.DownCooldown })},
		{Key: "ratelimiter.ratelimit", Usage: "requests per client IP and window", value: number64(func(c *Config) *uint64 { return &c.Settings.RateLimit })},
		{Key: "ratelimiter.ratewindow", Usage: "the window", value: duration(func(c *Config) *time.Duration { return &c.Settings.RateWindow })},
	}
}

// value reads and shows one field of a Config as text.
type value interface {
	set(text string) error
	text() string
}

type textValue struct{ p *string }

func text(field func(*Config) *string) func(*Config) value {
	return func(c *Config) value { return textValue{field(c)} }
}
func (v textValue) set(s string) error { *v.p = s; return nil }
func (v textValue) text() string       { return *v.p }

type boolValue struct{ p *bool }

func toggle(field func(*Config) *bool) func(*Config) value {
	return func(c *Config) value { return boolValue{field(c)} }
}

func (v boolValue) set(s string) (err error) {
	on, err := strconv.ParseBool(s)
	if err != nil {
		return vortex.Errorf(vortex.Invalid, "expected true or false, got %q", s)
	}
	*v.p = on
	return nil
}
func (v boolValue) text() string { return strconv.FormatBool(*v.p) }

// numberValue is a whole number from 0 of so many bits.
type numberValue struct {
	bits int
	put  func(uint64)
	get  func() uint64
}

func number32(field func(*Config) *uint32) func(*Config) value {
	return func(c *Config) value {
		p := field(c)
		return numberValue{32, func(n uint64) { *p = uint32(n) }, func() uint64 { return uint64(*p) }} //nolint:gosec // set checks the bits
	}
}

func number64(field func(*Config) *uint64) func(*Config) value {
	return func(c *Config) value {
		p := field(c)
		return numberValue{64, func(n uint64) { *p = n }, func() uint64 { return *p }}
	}
}

func port(field func(*Config) *uint16) func(*Config) value {
	return func(c *Config) value {
		p := field(c)
		return numberValue{16, func(n uint64) { *p = uint16(n) }, func() uint64 { return uint64(*p) }} //nolint:gosec // set checks the bits
	}
}

func (v numberValue) set(s string) error {
	n, err := parseUint(s, v.bits)
	if err != nil {
		return err
	}
	v.put(n)
	return nil
}
func (v numberValue) text() string { return strconv.FormatUint(v.get(), 10) }

// parseUint reads a whole number from 0 of so many bits.
func parseUint(s string, bits int) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, bits)
	if err != nil {
		return 0, vortex.Errorf(vortex.Invalid, "expected a whole number from 0 to %d, got %q", uint64(1)<<bits-1, s)
	}
	return n, nil
}

type durationValue struct{ p *time.Duration }

func duration(field func(*Config) *time.Duration) func(*Config) value {
	return func(c *Config) value { return durationValue{field(c)} }
}

func (v durationValue) set(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil {
		return vortex.Errorf(vortex.Invalid, "expected a duration such as 5s or 1m30s, got %q", s)
	}
	*v.p = d
	return nil
}
func (v durationValue) text() string { return v.p.String() }

// labelsValue is key=value,key=value.
type labelsValue struct{ p *map[string]string }

func labels(field func(*Config) *map[string]string) func(*Config) value {
	return func(c *Config) value { return labelsValue{field(c)} }
}

func (v labelsValue) set(s string) error {
	out := map[string]string{}
	for pair := range strings.SplitSeq(s, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		key, val, ok := strings.Cut(pair, "=")
		if !ok || strings.TrimSpace(key) == "" {
			return vortex.Errorf(vortex.Invalid, "expected key=value, got %q", pair)
		}
		out[strings.TrimSpace(key)] = strings.TrimSpace(val)
	}
	*v.p = out
	return nil
}

func (v labelsValue) text() string { return vortex.LabelsText(*v.p) }
