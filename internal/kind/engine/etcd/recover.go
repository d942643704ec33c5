package etcd

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"vortex"
	"vortex/internal/kind/engine"
)

const (
	memberData = "member-data"
	// revisionJump is what a recovered store's revisions go up by, so that none is given twice: the members that are lost may have given some
	// that the survivor never heard of, and whoever saw one of those must load anew.
	revisionJump = 1 << 24
)

// Recover makes a group of one, this member, of the data that it has from a larger group that will never have a quorum again. It keeps everything that
// this member has ever been sent, acknowledged or not; what only the others had is lost. The group has a new identity, so that
// the others, should they come back, cannot mix with it. The store must not be open. It is refused while enough of the others answer for
// a quorum, unless force is set.
func (c Embedded) Recover(ctx context.Context, force bool) (engine.Recovery, error) {
	data := filepath.Join(c.Dir, memberData)
	if !c.Kept() {
		return engine.Recovery{}, vortex.Errorf(vortex.NotFound, "%s holds no data of a member; name the data directory of a server that was one", c.Dir)
	}
	if err := c.alone(ctx, data); err != nil && !force {
		return engine.Recovery{}, err
	}
	work, err := os.MkdirTemp(c.Dir, "recover-")
	if err != nil {
		return engine.Recovery{}, fmt.Errorf("make a directory to recover in: %w", err)
	}
	defer func() { _ = os.RemoveAll(work) }()
	if err := os.CopyFS(filepath.Join(work, memberData), os.DirFS(data)); err != nil {
		return engine.Recovery{}, fmt.Errorf("copy the member's data: %w", err)
	}
	if err := commitAll(filepath.Join(work, memberData)); err != nil {
		return engine.Recovery{}, c.unusable(err)
	}
	image := filepath.Join(work, "image")
	if err := c.extract(ctx, work, image); err != nil {
		return engine.Recovery{}, err
	}
	renewed := filepath.Join(work, "renewed")
	if err := c.renew(image, renewed); err != nil {
		return engine.Recovery{}, fmt.Errorf("make the new group: %w", err)
	}
	kept, err := c.PutAside()
	if err != nil {
		return engine.Recovery{}, err
	}
	if err := os.Rename(renewed, data); err != nil {
		return engine.Recovery{}, errors.Join(fmt.Errorf("put the new data in place: %w", err), os.Rename(kept, data))
	}
	e, err := c.Open(ctx)
	if err != nil {
		return engine.Recovery{}, err
	}
	rev, err := e.ReadIndex(ctx)
	return engine.Recovery{Group: e.Group().Status().Cluster, Revision: rev, Kept: kept}, errors.Join(err, e.Close())
}

// Kept reports whether there is data of this member from an earlier run.
func (c Embedded) Kept() bool { return wal.Exist(filepath.Join(c.Dir, memberData, "member", "wal")) }

// PutAside moves the member's data away, so that a store that is opened begins with nothing, and returns where to.
func (c Embedded) PutAside() (kept string, err error) {
	kept = filepath.Join(c.Dir, memberData+"-before-"+time.Now().UTC().Format("20060102T150405.000"))
	err = os.Rename(filepath.Join(c.Dir, memberData), kept)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("put the old data aside: %w", err)
	}
	return kept, nil
}

// alone refuses a recovery that nobody needs: enough of the other members answer for a quorum.
func (c Embedded) alone(ctx context.Context, data string) error {
	urls, err := voters(filepath.Join(data, "member", "snap", "db"))
	if err != nil || len(urls) < 2 { //nolint:mnd // one alone has no others to ask
		return err
	}
	answer := 1 // this one, once it runs
	for _, u := range urls {
		if reachable(ctx, u) {
			answer++
		}
	}
	if answer < len(urls)/2+1 {
		return nil
	}
	return vortex.Errorf(vortex.Precondition, "%d of the %d other members answer, which is a quorum with this server: start it instead. "+
		"To cut it loose from them all the same, pass --force", answer-1, len(urls)-1)
}

// voters reads the members' URLs from a database.
func voters(path string) (urls []string, err error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: lockPatience})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	defer func() { _ = db.Close() }()
	return urls, db.View(func(tx *bolt.Tx) error {
		members := tx.Bucket([]byte("members"))
		if members == nil {
			return nil
		}
		return members.ForEach(func(_, value []byte) error {
			var m membership.Member
			if json.Unmarshal(value, &m) == nil && len(m.PeerURLs) > 0 && !m.IsLearner {
				urls = append(urls, m.PeerURLs[0])
			}
			return nil
		})
	})
}

// reachable reports whether somebody listens at a member's URL.
func reachable(ctx context.Context, member string) bool {
	target, err := url.Parse(member)
	if err != nil {
		return false
	}
	conn, err := (&net.Dialer{Timeout: dialPatience}).DialContext(ctx, "tcp", target.Host)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// commitAll makes everything in a member's log final. What the leader had acknowledged to writers is in the logs of a majority, but the others hear
// only with the next message that it is final; a recovery that went by that would lose the newest writes.
func commitAll(data string) error {
	lg := zap.NewNop()
	dir := filepath.Join(data, "member", "wal")
	snaps, err := wal.ValidSnapshotEntries(lg, dir)
	if err != nil {
		return fmt.Errorf("read the log: %w", err)
	}
	from := &walpb.Snapshot{}
	if len(snaps) > 0 {
		from = snaps[len(snaps)-1]
	}
	for repaired := false; ; repaired = true {
		log, err := wal.Open(lg, dir, from)
		if err != nil {
			return fmt.Errorf("open the log: %w", err)
		}
		_, state, entries, err := log.ReadAll()
		if err != nil {
			_ = log.Close()
			if !repaired && errors.Is(err, io.ErrUnexpectedEOF) && wal.Repair(lg, dir) { // it was killed in the middle of a write
				continue
			}
			return fmt.Errorf("read the log: %w", err)
		}
		if len(entries) > 0 {
			last := entries[len(entries)-1].GetIndex()
			if last > state.GetCommit() {
				final := &raftpb.HardState{Term: new(state.GetTerm()), Vote: new(state.GetVote()), Commit: new(last)}
				if err := log.Save(final, nil); err != nil {
					return errors.Join(fmt.Errorf("write the log: %w", err), log.Close())
				}
			}
		}
		return log.Close()
	}
}

// extract runs a copy of the member by itself, so that its log is applied, and writes its database to a file.
func (c Embedded) extract(ctx context.Context, dir, image string) error {
	alone := Embedded{Dir: dir, Name: c.Name, Log: c.Log}
	e, err := alone.open(ctx, func(cfg *embed.Config) { cfg.ForceNewCluster = true })
	if err != nil {
		return err
	}
	err = save(ctx, e, image)
	return errors.Join(err, e.Close())
}

func save(ctx context.Context, e *Engine, image string) error {
	stream, err := e.route.client().Snapshot(ctx)
	if err != nil {
		return classify(ctx, "read the database", err)
	}
	defer func() { _ = stream.Close() }()
	f, err := os.OpenFile(image, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write the database: %w", err)
	}
	if _, err := io.Copy(f, stream); err != nil {
		return errors.Join(fmt.Errorf("write the database: %w", err), f.Close())
	}
	return f.Close()
}

// renew makes the data of a group of one, with an identity of its own, from a database.
func (c Embedded) renew(image, data string) error {
	cfg := c.config(c.Dir, &failure{log: c.Log})
	address := cfg.AdvertisePeerUrls[0].String()
	return snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
		SnapshotPath: image, OutputDataDir: data, Name: cfg.Name, PeerURLs: []string{address}, InitialCluster: cfg.Name + "=" + address,
		InitialClusterToken: rand.Text(), RevisionBump: revisionJump, MarkCompacted: true,
	})
}
