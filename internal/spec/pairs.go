package spec

import (
	"iter"

	"go.yaml.in/yaml/v4"
)

// pairs yields the keys and values of a mapping, merge keys (<<) expanded: a key that is written out wins over a merged
// one, an earlier merged one over a later. A key that is there twice is a fault.
func (d *decoder) pairs(n *yaml.Node, path string) iter.Seq2[*yaml.Node, *yaml.Node] {
	return func(yield func(key, value *yaml.Node) bool) {
		w := walk{d: d, path: path, seen: make(map[string]*yaml.Node, len(n.Content)/2), yield: yield}
		w.mapping(n, false)
	}
}

// walk goes through one mapping and what is merged into it.
type walk struct {
	d     *decoder
	path  string
	seen  map[string]*yaml.Node
	yield func(key, value *yaml.Node) bool
}

// mapping visits the keys of n, then those merged into it. It reports whether to go on.
func (w *walk) mapping(n *yaml.Node, merged bool) bool {
	var merges []*yaml.Node
	own := make(map[string]*yaml.Node, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		for key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		if isMerge(key) {
			merges = append(merges, value)
			continue
		}
		if !w.pair(key, value, own, merged) {
			return false
		}
	}
	for _, m := range merges {
		if !w.merge(m) {
			return false
		}
	}
	return true
}

// pair visits one key. own holds the keys of the same mapping, all that were visited are in seen.
func (w *walk) pair(key, value *yaml.Node, own map[string]*yaml.Node, merged bool) bool {
	if key.Kind != yaml.ScalarNode {
		w.d.src.fault(key, "%sexpected a name as the key, got %s", prefix(w.path), describe(key))
		return true
	}
	if first, ok := own[key.Value]; ok {
		w.d.src.fault(key, "%q stands in %s twice, first on line %d; remove one of them", key.Value, section(w.path), first.Line)
		return true
	}
	own[key.Value] = key
	if w.seen[key.Value] != nil && merged {
		return true
	}
	w.seen[key.Value] = key
	return !w.d.src.full() && w.yield(key, value)
}

// merge visits what << names: a mapping, or a list of them.
func (w *walk) merge(n *yaml.Node) bool {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if !w.d.enter(n) {
		return false
	}
	defer func() { w.d.depth-- }()
	switch n.Kind {
	case yaml.MappingNode:
		return w.mapping(n, true)
	case yaml.SequenceNode:
		for _, item := range n.Content {
			if !w.merge(item) {
				return false
			}
		}
		return true
	default:
		w.d.src.fault(n, "%sexpected an alias of an object after <<, as in <<: *base, got %s", prefix(w.path), describe(n))
		return true
	}
}

// isMerge reports whether a key is the merge key and not a quoted string that looks like it.
func isMerge(key *yaml.Node) bool {
	return key.Kind == yaml.ScalarNode && key.Value == "<<" && key.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) == 0
}
