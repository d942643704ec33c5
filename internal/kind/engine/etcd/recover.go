package etcd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"vortex"
)

const (
	memberData = "member-data"
	// revisionJump is what a recovered store's revisions go up by, so that none is given twice: the members that are lost may have given some
	// that the survivor never heard of, and whoever saw one of those must load anew.
	revisionJump = 1 << 24
)

// Recovered tells what Recover did.
type Recovered struct {
	// Cluster is the new group's identity. Members of the old one are refused by it, and refuse it.
	Cluster uint64
	// Revision is the newest one of the recovered store.
	Revision int64
	// Kept is the directory that holds the data as it was.
	Kept string
}

// Recover makes a group of one, this member, of the data that it has from a larger group that will never have a quorum again. It keeps everything that
// this member has ever been sent, acknowledged or not; what only the others had is lost. The group has a new identity, so that
// the others, should they come back, cannot mix with it. The store must not be open.
func (c Embedded) Recover(ctx context.Context) (Recovered, error) {
	data := filepath.Join(c.Dir, memberData)
	if !wal.Exist(filepath.Join(data, "member", "wal")) {
		return Recovered{}, vortex.Errorf(vortex.NotFound, "%s holds no data of a member; name the data directory of a server that was one", c.Dir)
	}
	work, err := os.MkdirTemp(c.Dir, "recover-")
	if err != nil {
		return Recovered{}, fmt.Errorf("make a directory to recover in: %w", err)
	}
	defer func() { _ = os.RemoveAll(work) }()
	if err := os.CopyFS(filepath.Join(work, memberData), os.DirFS(data)); err != nil {
		return Recovered{}, fmt.Errorf("copy the member's data: %w", err)
	}
	if err := commitAll(filepath.Join(work, memberData)); err != nil {
		return Recovered{}, c.unusable(err)
	}
	image := filepath.Join(work, "image")
	if err := c.extract(ctx, work, image); err != nil {
		return Recovered{}, err
	}
	renewed := filepath.Join(work, "renewed")
	if err := c.renew(image, renewed); err != nil {
		return Recovered{}, fmt.Errorf("make the new group: %w", err)
	}
	kept := filepath.Join(c.Dir, memberData+"-before-"+time.Now().UTC().Format("20060102T150405"))
	if err := os.Rename(data, kept); err != nil {
		return Recovered{}, fmt.Errorf("put the old data aside: %w", err)
	}
	if err := os.Rename(renewed, data); err != nil {
		return Recovered{}, errors.Join(fmt.Errorf("put the new data in place: %w", err), os.Rename(kept, data))
	}
	e, err := c.Open(ctx)
	if err != nil {
		return Recovered{}, err
	}
	rev, err := e.ReadIndex(ctx)
	return Recovered{Cluster: e.Group().Status().Cluster, Revision: rev, Kept: kept}, errors.Join(err, e.Close())
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
	url := cfg.AdvertisePeerUrls[0].String()
	return snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
		SnapshotPath: image, OutputDataDir: data, Name: cfg.Name, PeerURLs: []string{url}, InitialCluster: cfg.Name + "=" + url,
		InitialClusterToken: rand.Text(), RevisionBump: revisionJump, MarkCompacted: true,
	})
}
