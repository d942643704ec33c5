package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"slices"
	"time"

	"vortex"
	"vortex/internal/cluster/pki"
	"vortex/internal/config"
	"vortex/internal/kind"
	"vortex/internal/kind/engine"
	"vortex/internal/kind/engine/etcd"
)

// Recover makes the store of a server that does not run a group of its own, when the other members are lost for good: of the data that it has, or of
// what fill puts into an empty one. The cluster has a new epoch afterwards, so that whoever carries the old one has to join again.
func (d Daemon) Recover(ctx context.Context, cfg config.Config, fill func(context.Context, engine.Engine) error, force bool) (engine.Recovery, error) {
	if cfg.Store != "" {
		return engine.Recovery{}, vortex.Errorf(vortex.Invalid, "the store is not kept by this server but at --store; recover it there")
	}
	file, err := lock(cfg.Data)
	if err != nil {
		return engine.Recovery{}, err
	}
	defer func() { _ = file.Close() }()
	member := etcd.Embedded{Dir: filepath.Join(cfg.Data, "store"), Name: cfg.Name, Log: d.logger(cfg).With("component", "engine")}
	var done engine.Recovery
	if fill == nil {
		done, err = member.Recover(ctx, force)
	} else {
		done, err = refill(ctx, member, fill)
	}
	if err != nil {
		return done, err
	}
	done.Epoch, err = renewEpoch(ctx, member, cfg)
	return done, err
}

// refill begins a store with what fill puts into it.
func refill(ctx context.Context, member etcd.Embedded, fill func(context.Context, engine.Engine) error) (done engine.Recovery, err error) {
	if done.Kept, err = member.PutAside(); err != nil {
		return done, err
	}
	eng, err := member.Open(ctx)
	if err != nil {
		return done, err
	}
	if err = fill(ctx, eng); err == nil {
		done.Group = eng.Group().Status().Cluster
		done.Revision, err = eng.ReadIndex(ctx)
	}
	return done, errors.Join(err, eng.Close())
}

// renewEpoch counts the cluster's epoch up, forgets its other members and the leader, and gives this server a certificate of the new epoch.
func renewEpoch(ctx context.Context, member etcd.Embedded, cfg config.Config) (epoch uint64, err error) {
	eng, err := member.Open(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, eng.Close()) }()
	store, err := kind.Open(ctx, kind.Config{Engine: eng})
	if err != nil {
		return 0, err
	}
	running, end := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); _ = store.Run(running) }()
	defer func() { end(); <-done }()
	var ops []kind.Op
	for _, e := range kind.All(store, vortex.Members) {
		ops = append(ops, kind.DeleteOp(vortex.Members, e.ID))
	}
	for _, e := range kind.All(store, vortex.Servers) {
		ops = append(ops, kind.DeleteOp(vortex.Servers, e.ID))
	}
	if _, err := kind.Get(store, vortex.LeaderLocks, "leader"); err == nil {
		ops = append(ops, kind.DeleteOp(vortex.LeaderLocks, "leader"))
	}
	dir := pki.Dir(filepath.Join(cfg.Data, "pki"))
	if cluster, err := kind.Get(store, vortex.Clusters, "self"); err == nil {
		alone, err := onlySelf(store, dir)
		if err != nil {
			return 0, err
		}
		ops = append(ops, alone...)
		renewed := *cluster.Value
		renewed.Epoch++
		op, err := kind.PutOp(vortex.Clusters, &renewed, "self")
		if err != nil {
			return 0, err
		}
		ops, epoch = append(ops, op), renewed.Epoch
	}
	if len(ops) > 0 {
		if _, err := store.Commit(ctx, kind.Txn{Ops: ops}); err != nil {
			return 0, fmt.Errorf("begin the new epoch: %w", err)
		}
	}
	if epoch == 0 {
		return 0, nil
	}
	return epoch, resign(dir, epoch)
}

// onlySelf makes this server the only one that belongs to the cluster: names are free for who joins again, and those who do not come back are not
// waited for. A store that never knew this server, from a snapshot, does from now on.
func onlySelf(store *kind.Store, dir pki.Dir) (ops []kind.Op, err error) {
	holder, err := pki.Open(dir)
	if errors.Is(err, fs.ErrNotExist) || vortex.IsKind(err, vortex.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read this server's certificate: %w", err)
	}
	self := holder.Identity().Name
	known := false
	for _, e := range kind.All(store, vortex.Identities) {
		switch {
		case e.ID != self:
			ops = append(ops, kind.DeleteOp(vortex.Identities, e.ID))
		case e.Value.Key == holder.KeyHash():
			known = true
		}
	}
	if known {
		return ops, nil
	}
	op, err := kind.PutOp(vortex.Identities, &vortex.IdentityRecord{
		Name: self, Role: vortex.ClusterRoleServer, Key: holder.KeyHash(), JoinedAt: time.Now().UTC(),
	}, self)
	return append(ops, op), err
}

// resign gives the certificate of this server the new epoch, where it has one and the key to sign it.
func resign(dir pki.Dir, epoch uint64) error {
	holder, err := pki.Open(dir)
	if errors.Is(err, fs.ErrNotExist) || vortex.IsKind(err, vortex.NotFound) {
		return nil // it is no server of a cluster yet
	}
	if err != nil {
		return fmt.Errorf("read this server's certificate: %w", err)
	}
	leaf := holder.Pair().Leaf
	req := pki.Request{Identity: holder.Identity(), Lifetime: max(leaf.NotAfter.Sub(leaf.NotBefore)-pki.Skew, time.Hour)}
	req.Epoch = epoch
	own := []string{pki.ServerName, "localhost", req.Name + ".node.vortex.internal"}
	for _, name := range leaf.DNSNames {
		if !slices.Contains(own, name) {
			req.Hosts = append(req.Hosts, name)
		}
	}
	for _, ip := range leaf.IPAddresses {
		if !ip.Equal(net.IPv4(127, 0, 0, 1)) && !ip.Equal(net.IPv6loopback) {
			req.Hosts = append(req.Hosts, ip.String())
		}
	}
	bundle, err := dir.Sign(req)
	if err != nil {
		return fmt.Errorf("sign this server's certificate for the new epoch: %w", err)
	}
	return dir.Install(bundle)
}
