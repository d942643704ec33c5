package api

import (
	"cmp"
	"maps"
	"net/http"
	"slices"
	"strings"

	"vortex"
	"vortex/client"
	"vortex/internal/kind"
)

// labelNode changes the labels that operators gave a node. What is so already is written no more.
func (s *Server) labelNode(r *http.Request, in client.LabelsRequest) (out client.Node, err error) {
	if err := checkLabels(in); err != nil {
		return out, err
	}
	name := r.PathValue("node")
	err = s.retry(r.Context(), func() error {
		var own kind.Entry[vortex.NodeRecord]
		var had kind.Entry[vortex.LabelsRecord]
		known := false
		s.Store.View(func(v kind.View) {
			own, known = kind.Lookup(v, vortex.Nodes, name)
			had, _ = kind.Lookup(v, vortex.NodeLabels, name)
		})
		if !known {
			return vortex.Errorf(vortex.NotFound, "no node %q; `vortex nodes` lists them", name)
		}
		given := map[string]string{}
		if had.Value != nil {
			given = had.Value.Labels
		}
		next, err := relabeled(name, own.Value.Labels, given, in)
		if err != nil || maps.Equal(next, given) {
			return err
		}
		return s.writeLabels(r, name, had, next)
	})
	if err != nil {
		return out, err
	}
	s.Store.View(func(v kind.View) {
		if rec, ok := kind.Lookup(v, vortex.Nodes, name); ok {
			out = node(v, rec.Value)
		}
	})
	for _, key := range in.Remove { // the node's record may still have it for a moment
		if _, again := in.Set[key]; !again {
			delete(out.Labels, key)
		}
	}
	return out, nil
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
func relabeled(name string, own, given map[string]string, in client.LabelsRequest) (map[string]string, error) {
	next := vortex.OverLabels(given, in.Set)
	for _, key := range in.Remove {
		_, isGiven := given[key]
		if _, isOwn := own[key]; isOwn && !isGiven {
			return nil, vortex.Errorf(vortex.Invalid, "label %q of node %s is its own: set it to another value here, or remove it where the node is started (--label, or node.labels in vortex.yaml)", key, name)
		}
		delete(next, key)
	}
	return next, nil
}

func (s *Server) writeLabels(r *http.Request, name string, had kind.Entry[vortex.LabelsRecord], labels map[string]string) error {
	op := kind.DeleteOp(vortex.NodeLabels, name)
	if len(labels) > 0 {
		put, err := kind.PutOp(vortex.NodeLabels, &vortex.LabelsRecord{Node: name, Labels: labels}, name)
		if err != nil {
			return err
		}
		op = put
	}
	ev := vortex.EventRecord{Type: "NodeLabeled", Message: "labels given to node " + name + ": " + cmp.Or(shown(labels), "none")}
	return s.changeNode(r.Context(), name, op, had.ModRevision, ev)
}

// shown are labels for people.
func shown(labels map[string]string) string {
	pairs := make([]string, 0, len(labels))
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		pairs = append(pairs, key+"="+labels[key])
	}
	return strings.Join(pairs, ",")
}
