package node

import (
	"context"
	"time"

	"vortex"
	"vortex/client"
	"vortex/internal/cluster/bootstrap"
	"vortex/internal/cluster/join"
	"vortex/internal/cluster/pki"
	"vortex/internal/kind"
)

const (
	foundingOpen = 7 * 24 * time.Hour // for the others to join
	foundingLook = 250 * time.Millisecond
	foundingTell = time.Minute
	joinAgain    = 500 * time.Millisecond
)

// bootstrap makes a cluster with other servers that are started as this one is: it founds it, or joins the one that does.
func (n *Node) bootstrap(ctx context.Context, dir pki.Dir) error {
	f, secret, err := n.listenForOthers(ctx, dir)
	if err != nil {
		return err
	}
	for {
		founder, err := f.Settle(ctx)
		switch {
		case err != nil:
			_ = f.Close()
			return err
		case founder == nil:
			n.founding = f
			n.parts.closer("founding's gossip", f.Close)
			return n.found(dir)
		}
		id, word := secret.Token()
		err = n.join(ctx, dir, []string{founder.Kind}, client.JoinToken{ID: id, Secret: word, CA: founder.CA}.String())
		if err == nil {
			if err := f.Close(); err != nil {
				return err
			}
			return bootstrap.Finish(dir)
		}
		if !vortex.IsKind(err, vortex.Unavailable) {
			_ = f.Close()
			return err
		}
		n.log.WarnContext(ctx, "The server that founded the cluster does not answer, trying again", "server", founder.Name, "err", err)
		select {
		case <-ctx.Done():
			_ = f.Close()
			return context.Cause(ctx)
		case <-time.After(joinAgain):
		}
	}
}

// listenForOthers begins to find the servers with which this one makes a cluster.
func (n *Node) listenForOthers(ctx context.Context, dir pki.Dir) (*bootstrap.Founding, bootstrap.Secret, error) {
	c := n.cfg.Cluster
	secret, err := bootstrap.ParseSecret(c.Token)
	if err != nil {
		return nil, secret, vortex.Errorf(vortex.Invalid, "--token: %w", err)
	}
	f, err := bootstrap.Listen(bootstrap.Config{
		Name: n.cfg.Name, Kind: c.address(n.cfg.Kind), Servers: c.Bootstrap, Hosts: hostsOf(c.Join), Secret: secret,
		Listen: n.gossipPort(), Address: n.gossipAddress(ctx), Dir: dir, Log: n.component("bootstrap"),
	})
	return f, secret, err
}

// resumeFounding goes on founding a cluster of which this server is, when it was restarted before the others had joined.
func (n *Node) resumeFounding(ctx context.Context, dir pki.Dir) error {
	if n.founding != nil {
		return nil
	}
	unfinished, err := bootstrap.Unfinished(dir)
	if err != nil {
		return err
	}
	if !unfinished {
		return bootstrap.Finish(dir) // it may have been ended between joining and that
	}
	if n.cfg.Cluster.Bootstrap == 0 {
		n.log.WarnContext(ctx, "Not all servers have joined since the cluster was founded; start with --bootstrap and its --token to let them, or give them tokens of `vortex token join --role server`")
		return nil
	}
	if n.founding, _, err = n.listenForOthers(ctx, dir); err == nil {
		n.parts.closer("founding's gossip", n.founding.Close)
	}
	return err
}

// startFounding lets the others join the cluster that this server founds, and takes part in the cluster's gossip when they have.
func (n *Node) startFounding(ctx context.Context) error {
	if n.founding == nil {
		return nil
	}
	secret, err := bootstrap.ParseSecret(n.cfg.Cluster.Token)
	if err != nil {
		return err
	}
	id, word := secret.Token()
	ca, err := n.holder.Dir().CA()
	if err != nil {
		return err
	}
	if err := n.admitOthers(ctx, client.JoinToken{ID: id, Secret: word, CA: ca.Pin()}); err != nil {
		return err
	}
	if err := n.founding.Offer(ca.Pin()); err != nil {
		return err
	}
	n.parts.start("founding", func(ctx context.Context) error { return n.awaitOthers(ctx, id) })
	return nil
}

// admitOthers makes the token that the others join with, once: it is not made again when it was removed or has expired.
func (n *Node) admitOthers(ctx context.Context, token client.JoinToken) error {
	now := time.Now().UTC()
	rec := vortex.JoinRecord{
		ID: token.ID, Hash: token.Hash(), Role: vortex.ClusterRoleServer, Uses: uint32(max(n.cfg.Cluster.Bootstrap-1, 0)), //nolint:gosec // a handful
		ExpiresAt: now.Add(foundingOpen), CreatedAt: now,
	}
	offered, err := bootstrap.Offered(n.holder.Dir())
	if offered || err != nil {
		return err
	}
	op, err := kind.PutOp(vortex.JoinTokens, &rec, token.ID)
	if err != nil {
		return err
	}
	op.TTL = foundingOpen
	_, err = n.store.Commit(ctx, kind.Txn{If: []kind.Condition{kind.IfRevision(vortex.JoinTokens.Key(token.ID), 0)}, Ops: []kind.Op{op}})
	if err != nil && !vortex.IsKind(err, vortex.Conflict) { // it was made before a crash
		return err
	}
	return bootstrap.SetOffered(n.holder.Dir())
}

// awaitOthers waits until all others have joined, then ends the founding and gossips with the cluster.
func (n *Node) awaitOthers(ctx context.Context, token string) error {
	look := time.NewTicker(foundingLook) // it lasts for a moment: the others are being started
	defer look.Stop()
	told := time.Now()
	for {
		missing := n.missing(token)
		if missing == 0 && n.founding.Others() == 0 {
			break
		}
		if time.Since(told) > foundingTell {
			told = time.Now()
			n.log.InfoContext(ctx, "Waiting for servers to join the cluster that was founded", "missing", missing)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-n.founding.Changed():
		case <-look.C:
		}
	}
	if err := n.founding.Close(); err != nil {
		return err
	}
	if err := bootstrap.Finish(n.holder.Dir()); err != nil {
		return err
	}
	n.log.InfoContext(ctx, "All servers have joined the cluster", "servers", len(join.Servers(n.store)))
	if n.cfg.Gossip == "" {
		<-ctx.Done()
		return nil
	}
	if err := n.openGossip(ctx); err != nil {
		return err
	}
	return n.runGossip(ctx)
}

// missing is how many servers may still join with a token.
func (n *Node) missing(token string) uint32 {
	rec, err := kind.Get(n.store, vortex.JoinTokens, token)
	if err != nil { // it was removed, or has expired
		return 0
	}
	return rec.Value.Uses
}
