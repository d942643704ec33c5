// Package node puts a Vortex process together: it opens the store, starts the loops, the agent, the edge and
// the API in the order in which they stand on each other, and stops them in the opposite order.
//
// It is the only package that imports adapters. It decides nothing: what it knows is who needs whom.
package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"vortex"
	"vortex/internal/agent"
	"vortex/internal/api"
	"vortex/internal/api/kindrpc"
	"vortex/internal/authz"
	"vortex/internal/cluster/bootstrap"
	"vortex/internal/cluster/gossip"
	clusterimages "vortex/internal/cluster/images"
	"vortex/internal/cluster/join"
	"vortex/internal/cluster/pki"
	"vortex/internal/edge"
	"vortex/internal/edge/accesslog"
	"vortex/internal/edge/limit"
	"vortex/internal/election"
	"vortex/internal/event"
	"vortex/internal/image"
	"vortex/internal/kind"
	"vortex/internal/kind/engine"
	"vortex/internal/kind/engine/remote"
	"vortex/internal/nodes"
	"vortex/internal/session"
	clusterpb "vortex/proto/cluster"
	imagespb "vortex/proto/images"
	sessionpb "vortex/proto/session"
)

// Node is one Vortex process. Use New.
type Node struct {
	cfg   Config
	log   *slog.Logger
	parts *stack

	store    *kind.Store
	stored   atomic.Pointer[kind.Store] // store, for what runs before it is open
	engine   engine.Engine
	events   *event.Recorder
	beats    *nodes.Heartbeats
	registry *prometheus.Registry
	images   *image.Store                // nil without an agent
	stock    atomic.Pointer[image.Store] // images, once it is open
	drivers  *drivers
	agent    *agent.Agent
	edge     *edge.Edge
	acting   atomic.Pointer[edge.Edge] // edge, once it runs
	sessions *session.Server           // nil without heartbeats
	calls    *session.Client           // the sessions to servers; nil without heartbeats
	addrs    Addresses
	api      net.Listener // nil without an API
	token    string
	access   *authz.Authority

	certificates *certificates                 // nil without TLS of its own
	holder       *pki.Holder                   // nil without a cluster
	followed     atomic.Pointer[remote.Engine] // nil where the store never stood on others

	founding *bootstrap.Founding             // nil but while this server founds a cluster
	finder   atomic.Pointer[gossip.Finder]   // nil without gossip
	heard    chan struct{}                   // one slot: gossip tells of something new
	members  atomic.Pointer[map[string]bool] // the servers' names as the store has them; nil while it is away
	using    sync.Mutex                      // guards used
	used     []string                        // the servers that store and sessions use
}

const (
	settleTime  = 10 * time.Second // for the API's last answers
	headerLimit = 10 * time.Second
	idleLimit   = 5 * time.Minute
	maxHeader   = 64 << 10
)

// New returns a node that does nothing before Run. The error lists everything that is wrong with cfg.
func New(cfg Config) (*Node, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Out == nil {
		cfg.Out = io.Discard
	}
	if cfg.Name == "" {
		name, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("find the host's name: %w", err)
		}
		cfg.Name = name
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Cluster.Worker {
		cfg.API, cfg.Kind = "", "" // others serve
	}
	if cfg.Bridge == "" {
		cfg.Bridge = bridgeOf(cfg.Data)
	}
	return &Node{cfg: cfg, log: cfg.Log, parts: newStack(cfg.Log), beats: &nodes.Heartbeats{}, registry: prometheus.NewRegistry(), heard: make(chan struct{}, 1)}, nil
}

// defaultData is where a machine's own Vortex keeps its data; it has the bridge that people know.
const defaultData = "/var/lib/vortex"

// bridgeOf names the container network of a data directory, so that several Vortexes on one machine do not share one.
func bridgeOf(data string) string {
	if data == defaultData {
		return "vortex0"
	}
	sum := sha256.Sum256([]byte(data))
	return "vx-" + hex.EncodeToString(sum[:4])
}

// Run starts everything, calls cfg.Ready, and returns when ctx ended, nil, or a part failed. Containers
// go on unless cfg.Remove is set.
func (n *Node) Run(ctx context.Context) error {
	defer n.parts.stop()
	boundHeap()
	for _, step := range []func(context.Context) error{
		n.readCertificates, n.takeData, n.enlist, n.findToken, n.startGossip, n.openStore, n.listenAPI, n.startHeartbeats, n.startFollowing, n.startKind, n.startFounding, n.startPresence, n.startSeat, n.startControl, n.startAgent, n.startEdge, n.startAPI,
	} {
		if err := step(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
	n.log.InfoContext(ctx, "Node ready", "node", n.cfg.Name)
	if n.cfg.Ready != nil {
		n.addrs.TLS = n.localTrust()
		n.cfg.Ready(n.addrs)
	}
	leanAfterStart()
	select {
	case <-ctx.Done():
		return nil
	case err := <-n.parts.failed:
		return err
	}
}

// takeData locks the data directory.
func (n *Node) takeData(context.Context) error {
	file, err := lock(n.cfg.Data)
	if err != nil {
		return err
	}
	n.parts.closer("data directory", file.Close)
	return nil
}

func (n *Node) tokenFile() string { return filepath.Join(n.cfg.Data, "token") }

// findToken finds the API's token.
func (n *Node) findToken(context.Context) (err error) {
	n.token = n.cfg.Token
	if n.token == "" && !n.cfg.Cluster.Worker {
		n.token, err = keptToken(n.tokenFile())
	}
	n.addrs.Token = n.token
	return err
}

func (n *Node) openStore(ctx context.Context) error {
	opening, end := n.unlessOutdated(ctx)
	defer end()
	store, eng, err := n.openEngineAndStore(opening)
	if err != nil {
		return err
	}
	settleHeap()
	n.store, n.engine = store, eng
	n.stored.Store(store)
	n.parts.closer("engine", eng.Close)
	n.parts.start("store", store.Run)
	n.events = &event.Recorder{Store: store, Log: n.component("events")}
	n.parts.start("events", n.events.Run)
	n.access = &authz.Authority{Store: store, Token: n.token, Anonymous: n.cfg.Anonymous}
	n.parts.start("access", n.access.Run)
	return nil
}

func (n *Node) component(name string) *slog.Logger { return n.log.With("component", name) }

// startKind serves the store's wire contract.
func (n *Node) startKind(ctx context.Context) error {
	if n.cfg.Kind == "" {
		return nil
	}
	l, err := listen(ctx, "Kind", "--kind", n.cfg.Kind)
	if err != nil {
		return err
	}
	n.addrs.Kind = l.Addr().String()
	if n.cfg.Anonymous == kindrpc.AnonymousFull {
		n.log.WarnContext(ctx, "Anyone who reaches Kind's port may change everything: --kind-anonymous is full", "address", n.addrs.Kind)
	}
	n.warnOpen(ctx, "Kind", n.addrs.Kind)
	service := &kindrpc.Service{Store: n.store, Access: n.access, Limits: n.cfg.Limits, Version: n.cfg.Version, Log: n.component("kind-rpc")}
	if n.holder != nil {
		service.Public = join.Methods()
		if err := join.Enter(ctx, n.store, n.holder, n.cfg.Cluster.address(n.addrs.Kind), n.cfg.Cluster.hosts()); err != nil {
			return errors.Join(err, l.Close())
		}
	}
	srv := kindrpc.NewServer(service, n.kindSecurity()...)
	if n.holder != nil {
		clusterpb.RegisterClusterServiceServer(srv, &join.Service{
			Store: n.store, Holder: n.holder, Lifetime: n.lifetime(), Token: n.token, Events: n.events, Log: n.component("join"),
		})
	}
	imagespb.RegisterImageServiceServer(srv, &clusterimages.Service{Images: n, Authorize: mayHaveImages})
	if n.sessions != nil {
		sessionpb.RegisterSessionServiceServer(srv, n.sessions)
	}
	n.parts.start("Kind", func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, srv.Stop)
		defer stop()
		return srv.Serve(n.bounded(l))
	})
	return nil
}

// startControl competes for the lead, under which the control plane's loops run, whenever this server has a vote in the store.
func (n *Node) startControl(context.Context) error {
	if n.cfg.Cluster.Worker {
		return nil
	}
	c := &control{name: n.cfg.Name, group: n.member, members: n.cfg.Cluster.Members, store: n.store, settings: n.cfg.Settings, backups: n.cfg.Backups, version: n.cfg.Version, beats: n.beats, events: n.events, log: n.log}
	e := &election.Election{Store: n.store, ID: n.cfg.Name, Address: n.addrs.API, Peers: n.beats, Log: n.component("election")}
	n.parts.start("control plane", func(ctx context.Context) error {
		return n.whileVoting(ctx, func(ctx context.Context) error { return e.Run(ctx, c.lead) })
	})
	return nil
}

// startAgent opens images and runtimes and runs this machine's instances.
func (n *Node) startAgent(ctx context.Context) error {
	if n.cfg.NoAgent {
		return nil
	}
	var err error
	n.images, err = image.Open(image.Config{
		Dir: filepath.Join(n.cfg.Data, "images"), DockerHost: n.cfg.DockerHost, Log: n.component("images"),
	})
	if err != nil {
		return err
	}
	n.stock.Store(n.images)
	n.parts.closer("images", n.images.Close)
	n.parts.start("image collection", n.collectImages)
	if err := n.takeSubnet(ctx); err != nil {
		return err
	}
	if n.drivers, err = openDrivers(ctx, n.cfg, n.images, n.parts, n.startingPort, n.edgePorts); err != nil {
		return err
	}
	n.agent, err = agent.New(agent.Config{
		Node: machine(n.cfg), Store: n.store, Drivers: n.drivers.byName, Default: n.drivers.def,
		Images: n.puller(), VolumesDir: filepath.Join(n.cfg.Data, "volumes"),
		Events: n.events, Log: n.component("agent"), StopOnExit: n.cfg.Remove,
	})
	if err != nil {
		return err
	}
	n.parts.start("agent", n.agent.Run)
	n.startRoutes()
	n.beats.Beat(n.cfg.Name) // it lives as long as this process does
	return nil
}

func (n *Node) startEdge(ctx context.Context) error {
	if n.cfg.NoEdge || n.cfg.Edge == "" {
		return nil
	}
	l, err := listen(ctx, "The edge", "--edge", n.cfg.Edge)
	if err != nil {
		return err
	}
	n.addrs.Edge = l.Addr().String()
	var access *accesslog.Log
	if c := n.cfg.AccessLog; c.Path != "" {
		c.Log = n.component("edge")
		if access, err = accesslog.Open(c); err != nil {
			return errors.Join(vortex.Errorf(vortex.Invalid, "edge.access_log: %w", err), l.Close())
		}
	}
	n.edge = edge.New(edge.Config{
		ID: n.cfg.Name, Node: n.cfg.Name, Zone: n.labels()[vortex.ZoneLabel], Address: n.addrs.Edge, Listeners: []net.Listener{l},
		Limit:   limit.Config{Limit: n.cfg.Settings.RateLimit, Window: n.cfg.Settings.RateWindow},
		Metrics: n.metrics(), Log: n.component("edge"), Contested: n.contested, Quotas: quotas{n.store}, Away: n.store.Stale,
		Trusted: n.cfg.Trusted, PortHost: hostOf(n.cfg.Edge), PortFailed: n.portFailed, PortContested: n.portContested,
		Access: access, AcceptProxy: n.cfg.AcceptProxy, ClientLimits: n.cfg.ClientLimits,
	}, routers{n.store}, publisher{n.store})
	n.registry.MustRegister(n.edge.Collector())
	n.parts.start("edge", n.edge.Run)
	n.acting.Store(n.edge)
	n.parts.start("rate limit", n.followRateLimit)
	n.parts.start("zone", n.followZone)
	return nil
}

// listenAPI takes the API's address, which the leader's lock tells the others, before anything answers there.
func (n *Node) listenAPI(ctx context.Context) error {
	if n.cfg.API == "" {
		return nil
	}
	l, err := listen(ctx, "The API", "--api", n.cfg.API)
	if err != nil {
		return err
	}
	n.api, n.addrs.API = n.bounded(l), l.Addr().String()
	n.warnOpen(ctx, "API", n.addrs.API)
	n.parts.closer("API listener", func() error {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	return nil
}

// startAPI serves the REST API.
func (n *Node) startAPI(context.Context) error {
	if n.api == nil {
		return nil
	}
	n.registry.MustRegister(newCollector(n.store))
	srv := &http.Server{
		Handler: n.handler().Handler(), ReadHeaderTimeout: headerLimit, IdleTimeout: idleLimit, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(n.component("api").Handler(), slog.LevelDebug),
	}
	serve := srv.Serve
	if srv.TLSConfig = n.apiTLS(); srv.TLSConfig != nil {
		serve = func(l net.Listener) error { return srv.ServeTLS(l, "", "") }
	}
	n.parts.start("API", func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, func() { shutdown(srv) })
		defer stop()
		if err := serve(n.api); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return nil
}

// shutdown lets requests end for a while; streams are cut.
func shutdown(srv *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), settleTime)
	defer cancel()
	if srv.Shutdown(ctx) != nil {
		_ = srv.Close()
	}
}

// handler gives the API everything this node has.
func (n *Node) handler() *api.Server {
	s := &api.Server{
		Store: n.store, Token: n.token, Access: n.access, Version: n.cfg.Version, Log: n.component("api"),
		Metrics: n.metrics(), Ready: n.ready, Defaults: n.cfg.Settings, ReservedPorts: n.reservedPorts(),
	}
	if n.edge != nil {
		s.Edge = n.edgeStatus
	}
	s.StoreLeader = func() string { return storeLeader(n.member()) }
	if n.agent != nil {
		s.Instances, s.Checker = n.agent, n.agent
		s.Images, s.Builder = images{n.images}, images{n.images}
	}
	return s
}
