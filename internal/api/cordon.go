package api

import (
	"net/http"
	"time"

	"vortex"
	"vortex/client"
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
func (s *Server) setCordon(r *http.Request, what, message string, want *vortex.CordonRecord) (client.Node, error) {
	return operate(s, r, vortex.Cordons, func(n *vortex.NodeRecord, had *vortex.CordonRecord) (op kind.Op, ev vortex.EventRecord, err error) {
		ev = vortex.EventRecord{Type: what, Message: message + n.ID}
		switch {
		case want == nil && had == nil:
			return op, ev, nil
		case want == nil:
			return kind.DeleteOp(vortex.Cordons, n.ID), ev, nil
		case had != nil && deref(had.Drain) == deref(want.Drain) && (want.Reason == "" || want.Reason == had.Reason):
			return op, ev, nil
		}
		if want.Reason != "" {
			ev.Message += ": " + want.Reason
		}
		want.Node, want.Since = n.ID, time.Now().UTC()
		op, err = kind.PutOp(vortex.Cordons, want, n.ID)
		return op, ev, err
	})
}
