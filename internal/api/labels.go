package api

import (
	"cmp"
	"maps"
	"net/http"
	"slices"

	"vortex"
	"vortex/client"
	"vortex/internal/kind"
)

// labelNode changes the labels that operators gave a node. What is so already is written no more.
func (s *Server) labelNode(r *http.Request, in client.LabelsRequest) (client.Node, error) {
	if err := checkLabels(in); err != nil {
		return client.Node{}, err
	}
	out, err := operate(s, r, vortex.NodeLabels, func(n *vortex.NodeRecord, had *vortex.LabelsRecord) (op kind.Op, ev vortex.EventRecord, err error) {
		given := map[string]string{}
		if had != nil {
			given = had.Labels
		}
		next, err := relabeled(n, given, in)
		if err != nil || maps.Equal(next, given) {
			return op, ev, err
		}
		ev = vortex.EventRecord{Type: "NodeLabeled", Message: "labels given to node " + n.ID + ": " + cmp.Or(vortex.LabelsText(next), "none")}
		if len(next) == 0 {
			return kind.DeleteOp(vortex.NodeLabels, n.ID), ev, nil
		}
		op, err = kind.PutOp(vortex.NodeLabels, &vortex.LabelsRecord{Node: n.ID, Labels: next}, n.ID)
		return op, ev, err
	})
	for _, key := range in.Remove { // the node's record may still have it for a moment
		delete(out.Labels, key)
	}
	return out, err
}

func checkLabels(in client.LabelsRequest) error {
	if len(in.Set)+len(in.Remove) == 0 {
		return vortex.Errorf(vortex.Invalid, `expected labels to set or to remove, such as {"set": {"zone": "eu"}, "remove": ["disk"]}, got neither`)
	}
	for _, key := range slices.Sorted(maps.Keys(in.Set)) {
		if err := vortex.CheckLabel(key, in.Set[key]); err != nil {
			return err
		}
		if slices.Contains(in.Remove, key) {
			return vortex.Errorf(vortex.Invalid, "expected label %q to be set or removed, got both", key)
		}
	}
	return nil
}

// relabeled returns the labels given to a node after a change.
func relabeled(n *vortex.NodeRecord, given map[string]string, in client.LabelsRequest) (map[string]string, error) {
	next := vortex.OverLabels(given, in.Set)
	for _, key := range in.Remove {
		_, isGiven := given[key]
		if _, isOwn := n.Labels[key]; isOwn && !isGiven {
			return nil, vortex.Errorf(vortex.Invalid, "label %q of node %s is its own: set it to another value here, or remove it where the node is started (--label, or node.labels in vortex.yaml)", key, n.ID)
		}
		delete(next, key)
	}
	return next, nil
}
