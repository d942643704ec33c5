package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"vortex"
	"vortex/client"
	kindpb "vortex/proto/kind"
	"vortex/test/harness"
)

// Cluster is servers of the built binary, each on a host of its own, with a store of as many members beside them.
type Cluster struct {
	*Network
	Servers []*Server
	bin     string
	etcd    string
	change  sync.Mutex // held while Servers changes
}

// Server is one of them.
type Server struct {
	Host  *Host
	Run   client.RunFile           // where it answers
	API   *client.Client           // asked from the seat
	Kind  kindpb.KindServiceClient // asked from the seat, with every right
	Proc  *Process                 // the server; it is another after each Boot
	Store *Process                 // the store's member

	cluster *Cluster
}

// The ports are the same on every host.
const (
	apiPort, kindPort          = 7070, 50051
	etcdClientPort, etcdPeer   = 2379, 2380
	etcdHeartbeat, etcdTimeout = "50", "500" // milliseconds
)

// Start starts servers on hosts of a new network and returns when each of them answers.
func Start(tb testing.TB, servers int) *Cluster {
	tb.Helper()
	bin, err := harness.Binary()
	if err != nil {
		tb.Skip(err)
	}
	etcd, err := exec.LookPath("etcd")
	if err != nil {
		tb.Skip("no etcd on PATH: install etcd-server")
	}
	c := &Cluster{Network: New(tb, servers), bin: bin, etcd: etcd}
	for _, h := range c.Hosts() {
		c.Servers = append(c.Servers, &Server{Host: h, cluster: c})
	}
	for _, s := range c.Servers {
		s.startStore()
	}
	c.check(together(c.Hosts(), func(h *Host) error { return c.Servers[h.number-1].boot() }))
	return c
}

// Boot starts what of the server does not run, after it was killed or its host lost its power, and returns when it answers.
func (s *Server) Boot() {
	s.cluster.tb.Helper()
	if s.Store.Ended() {
		s.startStore()
	}
	if s.Proc.Ended() {
		s.cluster.check(s.boot())
	}
}

// startStore starts the host's member of the store.
func (s *Server) startStore() {
	s.cluster.tb.Helper()
	at := func(h *Host, port int) string { return fmt.Sprintf("http://%s:%d", h.Addr, port) }
	var members []string
	for _, h := range s.cluster.Hosts() {
		members = append(members, h.Name+"="+at(h, etcdPeer))
	}
	s.Store = s.Host.Run(s.cluster.etcd, "--data-dir", filepath.Join(s.Host.Data, "etcd"), "--name", s.Host.Name, "--log-level", "error",
		"--listen-client-urls", at(s.Host, etcdClientPort), "--advertise-client-urls", at(s.Host, etcdClientPort),
		"--listen-peer-urls", at(s.Host, etcdPeer), "--initial-advertise-peer-urls", at(s.Host, etcdPeer),
		"--initial-cluster", strings.Join(members, ","), "--heartbeat-interval", etcdHeartbeat, "--election-timeout", etcdTimeout)
}

// boot starts the server and waits until it answers.
func (s *Server) boot() error {
	data := filepath.Join(s.Host.Data, "vortex")
	file := filepath.Join(data, "run.json")
	if err := os.RemoveAll(file); err != nil {
		return err
	}
	var stores []string
	for _, h := range s.cluster.Hosts() {
		stores = append(stores, fmt.Sprintf("%s:%d", h.Addr, etcdClientPort))
	}
	var err error
	s.Proc, err = s.Host.Start(exec.Command(s.cluster.bin, "server", "--data", data, "--name", s.Host.Name, //nolint:noctx // it ends with the host
		"--store", "etcd://"+strings.Join(stores, ","), "--no-agent", "--no-edge", "--edge", "",
		"--api", fmt.Sprintf("%s:%d", s.Host.Addr, apiPort), "--kind", fmt.Sprintf("%s:%d", s.Host.Addr, kindPort)))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		if text, err := os.ReadFile(file); err == nil && json.Unmarshal(text, &s.Run) == nil {
			return s.connect()
		}
		select {
		case <-s.Proc.Done():
			return fmt.Errorf("vortex ended while starting: %s", s.Proc.Log())
		case <-ctx.Done():
			return fmt.Errorf("vortex is not ready within %s: %s", patience, s.Proc.Log())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// bearer is a token, as gRPC wants it.
type bearer string

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (bearer) RequireTransportSecurity() bool { return false }

// connect makes the clients, which outlive restarts: the data directory, and with it the token, is the same.
func (s *Server) connect() (err error) {
	if s.Kind != nil {
		return nil
	}
	transport := &http.Transport{DialContext: s.cluster.Dial}
	security := insecure.NewCredentials()
	if s.Run.TLS != (client.TLS{}) {
		if transport.TLSClientConfig, err = s.Run.TLS.Config(); err != nil {
			return err
		}
		security = credentials.NewTLS(transport.TLSClientConfig.Clone())
	}
	s.cluster.tb.Cleanup(transport.CloseIdleConnections)
	if s.API, err = client.New(client.Options{Server: s.Run.API, Token: s.Run.Token, HTTPClient: &http.Client{Transport: transport}}); err != nil {
		return err
	}
	again := backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: 200 * time.Millisecond}
	conn, err := grpc.NewClient("passthrough:///"+s.Run.Kind, grpc.WithTransportCredentials(security),
		grpc.WithPerRPCCredentials(bearer(s.Run.Token)), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: again, MinConnectTimeout: time.Second}),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (conn net.Conn, err error) {
			return s.cluster.Dial(ctx, "tcp", addr)
		}))
	if err != nil {
		return err
	}
	s.cluster.tb.Cleanup(func() { _ = conn.Close() })
	s.Kind = kindpb.NewKindServiceClient(conn)
	return nil
}

// Leader returns the lock of the lead as the first of the servers tells that answers; its ID is a host's name. It is the zero value when nobody
// leads, or nobody answers.
func (c *Cluster) Leader() (lock vortex.LeaderLock) {
	c.change.Lock()
	servers := c.Servers
	c.change.Unlock()
	for _, s := range servers {
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		var header metadata.MD
		rec, err := s.Kind.Get(ctx, &kindpb.GetRequest{Key: "vortex:daemon:leader"}, grpc.Header(&header))
		cancel()
		if err == nil && !Stale(header) && json.Unmarshal(rec.GetValue(), &lock) == nil {
			return lock
		}
	}
	return vortex.LeaderLock{}
}

// Stale reports whether an answer with this header came from the memory of a server whose store is away.
func Stale(header metadata.MD) bool { return len(header.Get("vortex-stale")) > 0 }

// Server returns the server on a host of that name, or nil.
func (c *Cluster) Server(host string) *Server {
	for _, s := range c.Servers {
		if s.Host.Name == host {
			return s
		}
	}
	return nil
}

// Use changes which servers there are.
func (c *Cluster) Use(servers ...*Server) {
	c.change.Lock()
	defer c.change.Unlock()
	c.Servers = servers
}

// Others returns the servers that are none of these.
func (c *Cluster) Others(than ...*Server) []*Server {
	return slices.DeleteFunc(slices.Clone(c.Servers), func(s *Server) bool { return slices.Contains(than, s) })
}
