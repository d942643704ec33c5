package api

import (
	"net/http"
	"time"

	"vortex"
	"vortex/client"
	recorded "vortex/internal/event"
	"vortex/internal/kind"
)

// operate changes what operators said of a node in a table, and returns the node as it is then. change gets the node and what was said before, and
// returns the operation, whose key is "" when all is so already, and the event that tells of it.
func operate[T any](
	s *Server, r *http.Request, t vortex.Table[T],
	change func(n *vortex.NodeRecord, had *T) (kind.Op, vortex.EventRecord, error),
) (out client.Node, err error) {
	name := r.PathValue("node")
	err = s.retry(r.Context(), func() error {
		var n kind.Entry[vortex.NodeRecord]
		var had kind.Entry[T]
		known := false
		s.Store.View(func(v kind.View) {
			n, known = kind.Lookup(v, vortex.Nodes, name)
			had, _ = kind.Lookup(v, t, name)
		})
		if !known {
			return vortex.Errorf(vortex.NotFound, "no node %q; `vortex nodes` lists them", name)
		}
		op, ev, err := change(n.Value, had.Value)
		if err != nil || op.Key == "" {
			return err
		}
		ev.At = time.Now().UTC()
		ev.ID, ev.Severity, ev.Component, ev.Node, ev.Cause = recorded.NewID(ev.At), vortex.SeverityInfo, "api", name, op.Key
		tell, err := kind.PutOp(vortex.Events, &ev, ev.ID)
		if err != nil {
			return err
		}
		tell.TTL = eventTTL
		_, err = s.Store.Commit(r.Context(), kind.Txn{If: []kind.Condition{kind.IfRevision(op.Key, had.ModRevision)}, Ops: []kind.Op{op, tell}})
		return err
	})
	if err != nil {
		return out, err
	}
	s.Store.View(func(v kind.View) {
		if rec, ok := kind.Lookup(v, vortex.Nodes, name); ok {
			out = node(v, rec.Value)
		}
	})
	return out, nil
}
