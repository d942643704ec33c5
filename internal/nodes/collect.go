package nodes

import (
	"context"
	"fmt"
	"time"

	"vortex"
	"vortex/internal/kind"
)

// defaultCollectAfter is for how long a node is down before what it left behind is deleted.
const defaultCollectAfter = time.Minute

// collect deletes what nodes have left behind that have been down for a while: the containers that are not placed there any more, the load that
// their edges saw, and, of those that were put out of the cluster, everything. A node that comes back after all says anew what is so. It returns when to look again, 0 for not at all.
func (m *Monitor) collect(ctx context.Context, now time.Time) (again time.Duration, err error) {
	var txn []kind.Op
	var told []vortex.EventRecord
	down := map[string]bool{}
	m.Writer.Store.View(func(v kind.View) {
		for _, e := range kind.List(v, vortex.Liveness) {
			if e.Value.State != vortex.LivenessStateDown {
				continue
			}
			if left := m.CollectAfter - now.Sub(e.Value.Since); left > 0 {
				if again == 0 || left < again {
					again = left
				}
				continue
			}
			down[e.ID] = true
			containers := abandoned(v, e.ID)
			txn = append(append(txn, containers...), forgotten(v, e.ID)...)
			if n := len(containers); n > 0 {
				told = append(told, vortex.EventRecord{
					Component: "nodes", Type: "InstancesForgotten", Severity: vortex.SeverityInfo, Node: e.ID,
					Message: fmt.Sprintf("%d instances of node %s, which is down, are forgotten: others have taken their place", n, e.ID),
				})
			}
		}
		txn = append(txn, toldBy(v, down)...)
	})
	for len(txn) > 0 {
		n := min(len(txn), collectBatch)
		if err := m.Writer.Commit(ctx, txn[:n]...); err != nil {
			return again, err
		}
		txn = txn[n:]
	}
	for _, ev := range told {
		m.Events.Record(ev)
	}
	return again, nil
}

// collectBatch is how many records one transaction deletes.
const collectBatch = 100

// abandoned are the deletions of a node's containers that are not placed there any more.
func abandoned(v kind.View, node string) (ops []kind.Op) {
	for _, c := range kind.Find(v, vortex.Containers, "node", node) {
		if p, ok := kind.Lookup(v, vortex.Placements, c.ID); !ok || p.Value.Node != node {
			ops = append(ops, kind.DeleteOp(vortex.Containers, c.ID))
		}
	}
	return ops
}

// toldBy are the deletions of the load that edges on nodes saw. An edge is named as its node.
func toldBy(v kind.View, down map[string]bool) (ops []kind.Op) {
	if len(down) == 0 {
		return nil
	}
	for _, e := range kind.List(v, vortex.Metrics) {
		if down[e.Value.Edge] {
			ops = append(ops, kind.DeleteOp(vortex.Metrics, e.ID))
		}
	}
	return ops
}

// forgotten are the deletions of a node itself, once it was put out of the cluster and nothing is placed on it any more.
func forgotten(v kind.View, node string) (ops []kind.Op) {
	if _, secured := kind.Lookup(v, vortex.Clusters, "self"); !secured {
		return nil
	}
	if _, member := kind.Lookup(v, vortex.Identities, node); member || len(kind.Find(v, vortex.Placements, "node", node)) > 0 {
		return nil
	}
	ops = []kind.Op{
		kind.DeleteOp(vortex.Nodes, node), kind.DeleteOp(vortex.Liveness, node), kind.DeleteOp(vortex.Cordons, node),
		kind.DeleteOp(vortex.NodeLabels, node),
	}
	for _, e := range kind.List(v, vortex.Subnets) {
		if e.Value.Node == node {
			ops = append(ops, kind.DeleteOp(vortex.Subnets, e.ID))
		}
	}
	return ops
}
