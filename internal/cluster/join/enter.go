package join

import (
	"context"
	"slices"
	"time"

	"vortex"
	"vortex/internal/cluster/pki"
	"vortex/internal/kind"
)

// self is the id of the cluster's own record.
const self = "self"

// Enter keeps in the store who a server is and where it is reached. The first server of a cluster writes the cluster's record with it; one
// that comes with a newer epoch raises that, and puts everybody else out. A server that was removed, or is of an older
// epoch or another cluster than the store, is refused with Precondition.
func Enter(ctx context.Context, store *kind.Store, holder *pki.Holder, address string, hosts []string) error {
	for range attempts {
		if err := store.Sync(ctx); err != nil {
			return err
		}
		txn, err := entry(store, holder, address, hosts)
		if err != nil || len(txn.Ops) == 0 {
			return err
		}
		if _, err = store.Commit(ctx, txn); !vortex.IsKind(err, vortex.Conflict) {
			return err
		}
	}
	return vortex.Errorf(vortex.Unavailable, "the records of the cluster change too often; try again")
}

// entry is the transaction that enters a server; empty when everything is there.
func entry(store *kind.Store, holder *pki.Holder, address string, hosts []string) (txn kind.Txn, err error) {
	id, now := holder.Identity(), time.Now().UTC()
	own := vortex.IdentityRecord{Name: id.Name, Role: vortex.ClusterRoleServer, Key: holder.KeyHash(), Address: address, Hosts: hosts, JoinedAt: now}
	cluster, member := kind.Entry[vortex.ClusterRecord]{}, kind.Entry[vortex.IdentityRecord]{}
	var others []kind.Entry[vortex.IdentityRecord]
	store.View(func(v kind.View) {
		cluster, _ = kind.Lookup(v, vortex.Clusters, self)
		member, _ = kind.Lookup(v, vortex.Identities, id.Name)
		others = kind.List(v, vortex.Identities)
	})
	known := cluster.Value
	switch {
	case known == nil:
		others = nil
	case known.ID != id.Cluster:
		return txn, vortex.Errorf(vortex.Precondition, "the store is of the cluster %s, the certificate in %s of %s\nput back the directory that belongs to this store", known.ID, holder.Dir(), id.Cluster)
	case known.Epoch > id.Epoch:
		return txn, vortex.Errorf(vortex.Precondition, "the cluster was recovered without this server: it is at epoch %d, this server at %d\nremove %s and join again with a new token", known.Epoch, id.Epoch, holder.Dir())
	case known.Epoch == id.Epoch && (member.Value == nil || member.Value.Key != own.Key):
		return txn, vortex.Errorf(vortex.Precondition, "%s does not belong to the cluster any more: it was removed, or another machine has its name\nremove %s and join again with a new token", id.Name, holder.Dir())
	case known.Epoch == id.Epoch:
		own.Token, own.JoinedAt = member.Value.Token, member.Value.JoinedAt
		if member.Value.Address == address && slices.Equal(member.Value.Hosts, hosts) {
			return txn, nil
		}
		others = nil
	}
	txn.If = []kind.Condition{kind.IfRevision(vortex.Clusters.Key(self), cluster.ModRevision), kind.IfRevision(vortex.Identities.Key(id.Name), member.ModRevision)}
	if known == nil || known.Epoch < id.Epoch {
		op, err := kind.PutOp(vortex.Clusters, &vortex.ClusterRecord{ID: id.Cluster, Epoch: id.Epoch, CA: string(holder.CertPEM()), CreatedAt: now}, self)
		if err != nil {
			return txn, err
		}
		txn.Ops = append(txn.Ops, op)
	}
	for _, e := range others {
		if e.ID != id.Name {
			txn.Ops = append(txn.Ops, kind.DeleteOp(vortex.Identities, e.ID))
		}
	}
	op, err := kind.PutOp(vortex.Identities, &own, id.Name)
	txn.Ops = append(txn.Ops, op)
	return txn, err
}
