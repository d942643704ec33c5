package etcd

import (
	"cmp"
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
	tickMillis     = 30  // heartbeat interval: at 10 the ticks alone cost an idle process over one per cent of a core
	electionMillis = 300 // election timeout, and most of what a start waits for
	maxTxnOps      = 20_000
	groupOps       = 2000      // of all transactions that share a round
	groupBytes     = 512 << 10 // the same
	// snapshotCount is after how many rounds etcd writes down where it is, so that a start need not read older ones again, and
	// catchUp how many it keeps in memory for members that lag. A round may be large: etcd's own 10,000 and 5,000 took
	// half a gigabyte after a million records.
	snapshotCount = 1000
	catchUp       = 500
	quotaBytes    = 8 << 30
	readyTimeout  = 30 * time.Second
	peerSocket    = "peer.sock"
	clientSocket  = "client.sock"
)

// Open starts the member and returns when it serves.
func (c Embedded) Open(ctx context.Context) (*Engine, error) {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make store directory: %w", err)
	}
	sockets, forget, err := c.socketDir()
	if err != nil {
		return nil, err
	}
	e, err := c.start(ctx, sockets)
	if err != nil {
		forget()
		return nil, err
	}
	end := e.close
	e.close = func() error { defer forget(); return end() }
	return e, nil
}

// start runs the member with its private sockets in a directory.
func (c Embedded) start(ctx context.Context, sockets string) (*Engine, error) {
	failed := &failure{log: c.Log}
	member, err := startMember(c.config(sockets, failed))
	if err != nil {
		return nil, c.unusable(err)
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
		go member.Close() // it may wait for the very thing that did not happen; the process ends soon
		return nil, c.unusable(fmt.Errorf("it was not ready within %s", readyTimeout))
	}
	failed.started.Store(true)
	shrink(member, c.Log)
	client := v3client.New(member.Server)
	e := newEngine(newRoute(client), "", bounds{operations: groupOps, bytes: groupBytes})
	e.follow = followMember(member.Server)
	space := newDisk(c.Dir)
	e.room = func(bytes int) error { return cmp.Or(failed.err(), space.room(bytes)) }
	e.index = func(ctx context.Context) (int64, error) {
		if err := failed.err(); err != nil {
			return 0, err
		}
		if err := member.Server.LinearizableReadNotify(ctx); err != nil {
			return 0, fmt.Errorf("wait for quorum: %w", err)
		}
		return member.Server.KV().Rev(), nil
	}
	e.settle = func() { pageOut(filepath.Join(member.Config().Dir, "member", "snap", "db")) }
	e.close = func() error {
		err := client.Close()
		if failed.err() != nil {
			go member.Close() // it may wait for what has ended; the process ends soon
			return err
		}
		member.Close()
		if errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	}
	return e, nil
}

// unusable is the error of a store that does not start.
func (c Embedded) unusable(err error) error {
	msg := "the embedded store does not start in " + c.Dir + "; is the disk full, or are its files damaged? " +
		"Free space, or put a good copy of that directory in its place; moved away, the server starts with nothing in it"
	return &vortex.Error{Kind: vortex.Unavailable, Msg: msg, Err: err}
}

// startMember starts etcd. It panics where it cannot write or read its files, which is nothing a user should see.
func startMember(cfg *embed.Config) (member *embed.Etcd, err error) {
	defer func() {
		if r := recover(); r != nil {
			member, err = nil, fmt.Errorf("start embedded etcd: %v", r)
		}
	}()
	if err := checkFiles(cfg.Dir); err != nil {
		return nil, err
	}
	return embed.StartEtcd(cfg)
}

// maxSocketPath is how long the path of a unix socket may be: sun_path less its final zero on macOS, the shortest.
const maxSocketPath = 103

// socketDir returns the directory for private sockets: the data directory, or a directory of its own where
// that one's path is longer than a socket's may be. forget removes the latter.
func (c Embedded) socketDir() (dir string, forget func(), err error) {
	if len(filepath.Join(c.Dir, clientSocket)) <= maxSocketPath {
		return c.Dir, func() {}, nil
	}
	if dir, err = os.MkdirTemp("", "vortex-store-"); err != nil {
		return "", nil, fmt.Errorf("make socket directory: %w", err)
	}
	return dir, func() { _ = os.RemoveAll(dir) }, nil
}

func (c Embedded) config(sockets string, failed *failure) *embed.Config {
	cfg := embed.NewConfig()
	cfg.Dir = filepath.Join(c.Dir, "member-data")
	cfg.Name = c.Name
	if cfg.Name == "" {
		cfg.Name = "vortex"
	}
	peer := listenURL(c.PeerAddr, filepath.Join(sockets, peerSocket))
	client := listenURL(c.ClientAddr, filepath.Join(sockets, clientSocket))
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{advertised(peer, "2380")}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{advertised(client, "2379")}
	cfg.InitialCluster = cfg.Name + "=" + cfg.AdvertisePeerUrls[0].String()
	cfg.TickMs, cfg.ElectionMs = tickMillis, electionMillis
	cfg.MaxTxnOps = maxTxnOps
	cfg.SnapshotCount, cfg.SnapshotCatchUpEntries = snapshotCount, catchUp
	cfg.MaxRequestBytes = max(c.MaxRequestBytes, 16<<20)
	cfg.QuotaBackendBytes = quotaBytes
	cfg.AutoCompactionRetention = "0" // the store compacts: it knows what is to be kept
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(newBridge(c.Log), zap.WithFatalHook(failed), zap.WithPanicHook(failed)))
	return cfg
}

// listenURL is where to listen: a TCP address, or a socket in a directory that only its owner can open.
func listenURL(addr, socket string) url.URL {
	if addr != "" {
		return url.URL{Scheme: "http", Host: addr}
	}
	_ = os.Remove(socket) // left behind by a killed process; etcd refuses to replace it
	return url.URL{Scheme: "unix", Host: socket}
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
