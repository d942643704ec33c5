package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"

	"vortex"
	"vortex/internal/kind/engine"
)

// Embedded configures an etcd member inside this process.
type Embedded struct {
	// Dir holds the write-ahead log and the database.
	Dir string
	// Name is the member's name; default "vortex".
	Name string
	// ClientAddr and PeerAddr are host:port to listen on. Empty listens on a unix socket in Dir only.
	ClientAddr, PeerAddr string
	// MaxRequestBytes bounds one transaction; default 16 MiB.
	MaxRequestBytes uint
	// Log receives etcd's warnings and errors.
	Log *slog.Logger
}

const (
	tickMillis     = 10  // heartbeat interval: one machine or a local network
	electionMillis = 100 // election timeout
	maxTxnOps      = 20_000
	quotaBytes     = 8 << 30
	readyTimeout   = 30 * time.Second
)

// Open starts the member and returns when it serves.
func (c Embedded) Open(ctx context.Context) (*Engine, error) {
	cfg, err := c.config()
	if err != nil {
		return nil, err
	}
	member, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, &vortex.Error{Kind: vortex.Unavailable, Msg: "the embedded store does not start in " + c.Dir, Err: err}
	}
	select {
	case <-member.Server.ReadyNotify():
	case err := <-member.Err():
		member.Close()
		return nil, fmt.Errorf("start embedded etcd: %w", err)
	case <-ctx.Done():
		member.Close()
		return nil, context.Cause(ctx)
	case <-time.After(readyTimeout):
		member.Close()
		return nil, vortex.Errorf(vortex.Unavailable, "the embedded store was not ready within %s", readyTimeout)
	}
	client := v3client.New(member.Server)
	e := &Engine{client: client}
	e.index = func(ctx context.Context) (int64, error) {
		if err := member.Server.LinearizableReadNotify(ctx); err != nil {
			return 0, fmt.Errorf("wait for quorum: %w", err)
		}
		return member.Server.KV().Rev(), nil
	}
	e.close = func() error {
		err := client.Close()
		member.Close()
		if errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	}
	return e, nil
}

func (c Embedded) config() (*embed.Config, error) {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make store directory: %w", err)
	}
	cfg := embed.NewConfig()
	cfg.Dir = filepath.Join(c.Dir, "member-data")
	cfg.Name = c.Name
	if cfg.Name == "" {
		cfg.Name = "vortex"
	}
	peer := c.listenURL(c.PeerAddr, "peer.sock")
	client := c.listenURL(c.ClientAddr, "client.sock")
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{advertised(peer, "2380")}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{advertised(client, "2379")}
	cfg.InitialCluster = cfg.Name + "=" + cfg.AdvertisePeerUrls[0].String()
	cfg.TickMs, cfg.ElectionMs = tickMillis, electionMillis
	cfg.MaxTxnOps = maxTxnOps
	cfg.MaxRequestBytes = max(c.MaxRequestBytes, 16<<20)
	cfg.QuotaBackendBytes = quotaBytes
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = "periodic", "10m"
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(newBridge(c.Log)))
	return cfg, nil
}

// listenURL is where to listen: a TCP address, or a socket in the data directory that only its owner can open.
func (c Embedded) listenURL(addr, socket string) url.URL {
	if addr != "" {
		return url.URL{Scheme: "http", Host: addr}
	}
	path := filepath.Join(c.Dir, socket)
	_ = os.Remove(path) // left behind by a killed process; etcd refuses to replace it
	return url.URL{Scheme: "unix", Host: path}
}

// advertised is the URL written into the member's record. A private socket advertises a
// fixed loopback address, so that the data directory can be moved.
func advertised(listen url.URL, port string) url.URL {
	if listen.Scheme == "unix" {
		return url.URL{Scheme: "http", Host: "127.0.0.1:" + port}
	}
	return listen
}

var _ engine.Engine = (*Engine)(nil)
