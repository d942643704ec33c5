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
	// PeerAdvertise is the host:port by which the other members reach this one; default PeerAddr.
	PeerAdvertise string
	// PeerTLS protects what members say to each other; without it they speak plainly.
	PeerTLS PeerTLS
	// Group is the members of the group that this one begins with or joins, by name, with their URLs and its own. Empty is a
	// group of one. A member that has data already is in its group, whatever this says.
	Group map[string]string
	// Join is set when the group runs already and has this member as a learner.
	Join bool
	// MaxRequestBytes bounds one transaction; default 16 MiB.
	MaxRequestBytes uint
	// Log receives etcd's warnings and errors.
	Log *slog.Logger
}

const (
	tickMillis     = 30  // heartbeat interval: at 10 the ticks alone cost an idle process over one per cent of a core
	electionMillis = 300 // election timeout, and most of what a start waits for
	// A member that others reach asks for votes when it heard nothing of its leader for one to two of these. They hold for a host that
	// is gone; a process that died is found out by its connection, see sentinel.
	groupTickMillis     = 25
	groupElectionMillis = 250
	maxTxnOps           = 20_000
	groupOps            = 2000      // of all transactions that share a round
	groupBytes          = 512 << 10 // the same
	// snapshotCount is after how many rounds etcd writes down where it is, so that a start need not read older ones again, and
	// catchUp how many it keeps in memory for members that lag. A round may be large: etcd's own 10,000 and 5,000 took
	// half a gigabyte after a million records.
	snapshotCount = 1000
	catchUp       = 500
	quotaBytes    = 8 << 30
	readyTimeout  = 30 * time.Second
	reminder      = 10 * time.Second
	peerSocket    = "peer.sock"
	clientSocket  = "client.sock"
)

// Open starts the member and returns when it serves.
func (c Embedded) Open(ctx context.Context) (*Engine, error) {
	return c.open(ctx, func(*embed.Config) {})
}

// open starts the member with a configuration that change has the last word on.
func (c Embedded) open(ctx context.Context, change func(*embed.Config)) (*Engine, error) {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make store directory: %w", err)
	}
	sockets, forget, err := c.socketDir()
	if err != nil {
		return nil, err
	}
	if err := c.PeerTLS.check(); err != nil {
		return nil, err
	}
	e, err := c.start(ctx, sockets, change)
	if err != nil {
		forget()
		return nil, err
	}
	end := e.close
	e.close = func() error { defer forget(); return end() }
	return e, nil
}

// start runs the member with its private sockets in a directory.
func (c Embedded) start(ctx context.Context, sockets string, change func(*embed.Config)) (*Engine, error) {
	failed := &failure{log: c.Log}
	cfg := c.config(sockets, failed)
	change(cfg)
	member, err := startMember(cfg)
	if err != nil {
		return nil, c.unusable(err)
	}
	if err := c.ready(ctx, member); err != nil {
		return nil, err
	}
	failed.started.Store(true)
	shrink(member, c.Log)
	client := v3client.New(member.Server)
	e := newEngine(newRoute(client), "", bounds{operations: groupOps, bytes: groupBytes})
	e.follow = followMember(member.Server)
	if c.PeerAddr != "" {
		e.changed = member.Server.LeaderChangedNotify
	}
	e.group = newGroup(member.Server, cfg, c.Log)
	space := newDisk(c.Dir)
	e.room = func(bytes int) error { return cmp.Or(failed.err(), e.group.trouble(), space.room(bytes)) }
	e.index = func(ctx context.Context) (int64, error) {
		if err := cmp.Or(failed.err(), e.group.trouble()); err != nil {
			return 0, err
		}
		if err := confirmed(ctx, member.Server); err != nil {
			return 0, fmt.Errorf("wait for quorum: %w", err)
		}
		return member.Server.KV().Rev(), nil
	}
	e.settle = func() { pageOut(filepath.Join(member.Config().Dir, "member", "snap", "db")) }
	e.close = func() error {
		e.group.stop()
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

// ready waits until the member serves, and ends it when it does not. One of several waits for the others as long as it takes.
func (c Embedded) ready(ctx context.Context, member *embed.Etcd) error {
	var late <-chan time.Time
	if len(member.Server.Cluster().Members()) <= 1 && len(c.Group) <= 1 {
		late = time.After(readyTimeout)
	}
	remind := time.NewTicker(reminder)
	defer remind.Stop()
	for {
		select {
		case <-member.Server.ReadyNotify():
			return nil
		case <-member.Server.StoppingNotify():
			go member.Close()
			return ErrRemoved
		case err := <-member.Err():
			member.Close()
			return fmt.Errorf("start embedded etcd: %w", err)
		case <-ctx.Done():
			member.Close()
			return context.Cause(ctx)
		case <-late:
			go member.Close() // it may wait for the very thing that did not happen; the process ends soon
			return c.unusable(fmt.Errorf("it was not ready within %s", readyTimeout))
		case <-remind.C:
			if c.Log != nil {
				c.Log.WarnContext(ctx, "Store waits for the other members: more than half of them must run", "members", len(member.Server.Cluster().Members()))
			}
		}
	}
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
	cfg.Dir = filepath.Join(c.Dir, memberData)
	cfg.Name = c.Name
	if cfg.Name == "" {
		cfg.Name = "vortex"
	}
	client := listenURL(c.ClientAddr, filepath.Join(sockets, clientSocket))
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{advertised(client, "2379")}
	cfg.TickMs, cfg.ElectionMs = tickMillis, electionMillis
	c.peers(cfg, listenURL(c.PeerAddr, filepath.Join(sockets, peerSocket)))
	cfg.StrictReconfigCheck = false // it lets nobody in for a member that is dead; Group has checks of its own
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
