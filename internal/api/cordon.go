package api

import (
	"context"
	"net/http"
	"time"

	"vortex"
	"vortex/client"
	recorded "vortex/internal/event"
	"vortex/internal/kind"
)

func (s *Server) cordonNode(r *http.Request, in client.CordonRequest) (client.Node, error) {
	return s.setCordon(r, "NodeCordoned", "nothing new is placed on node ", &vortex.CordonRecord{Reason: in.Reason})
}

func (s *Server) drainNode(r *http.Request, in client.CordonRequest) (client.Node, error) {
	yes := true
	return s.setCordon(r, "NodeDraining", "everything moves away from node ", &vortex.CordonRecord{Reason: in.Reason, Drain: &yes})
}

func (s *Server) uncordonNode(r *http.Request) (client.Node, error) {
	return s.setCordon(r, "NodeUncordoned", "instances are placed again on node ", nil)
}

// setCordon replaces a node's cordon, nil being none, and tells of it. What is so already is written no more.
func (s *Server) setCordon(r *http.Request, what, message string, want *vortex.CordonRecord) (out client.Node, err error) {
	name := r.PathValue("node")
	err = s.retry(r.Context(), func() error {
		var had kind.Entry[vortex.CordonRecord]
		known := false
		s.Store.View(func(v kind.View) {
			_, known = kind.Lookup(v, vortex.Nodes, name)
			had, _ = kind.Lookup(v, vortex.Cordons, name)
		})
		if !known {
			return vortex.Errorf(vortex.NotFound, "no node %q; `vortex nodes` lists them", name)
		}
		return s.writeCordon(r.Context(), name, had, want, vortex.EventRecord{Type: what, Message: message + name})
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

func (s *Server) writeCordon(ctx context.Context, name string, had kind.Entry[vortex.CordonRecord], want *vortex.CordonRecord, ev vortex.EventRecord) error {
	op := kind.DeleteOp(vortex.Cordons, name)
	switch {
	case want == nil && had.Value == nil:
		return nil
	case want == nil:
	case had.Value != nil && deref(had.Value.Drain) == deref(want.Drain) && (want.Reason == "" || want.Reason == had.Value.Reason):
		return nil
	default:
		want.Node, want.Since = name, time.Now().UTC()
		put, err := kind.PutOp(vortex.Cordons, want, name)
		if err != nil {
			return err
		}
		op = put
		if want.Reason != "" {
			ev.Message += ": " + want.Reason
		}
	}
	return s.changeNode(ctx, name, op, had.ModRevision, ev)
}

// changeNode commits one operation about a node, when its key is still at the revision that was seen, and tells of it.
func (s *Server) changeNode(ctx context.Context, name string, op kind.Op, seen int64, ev vortex.EventRecord) error {
	ev.At = time.Now().UTC()
	ev.ID, ev.Severity, ev.Component, ev.Node, ev.Cause = recorded.NewID(ev.At), vortex.SeverityInfo, "api", name, op.Key
	tell, err := kind.PutOp(vortex.Events, &ev, ev.ID)
	if err != nil {
		return err
	}
	tell.TTL = eventTTL
	_, err = s.Store.Commit(ctx, kind.Txn{If: []kind.Condition{kind.IfRevision(op.Key, seen)}, Ops: []kind.Op{op, tell}})
	return err
}
