package authz

import (
	"strings"

	"vortex"
	"vortex/internal/kind"
)

// owns reports whether a key that any node may write in general is this node's own: a container that is placed on it or
// was observed by it, metrics of its edge, an event or a subnet that is new or its own.
func (c *Caller) owns(node, key string) bool {
	switch {
	case below(vortex.Containers.Prefix, key):
		id := vortex.Containers.ID(key)
		placed, err := kind.Get(c.store, vortex.Placements, id)
		if err == nil && placed.Value.Node == node {
			return true
		}
		seen, err := kind.Get(c.store, vortex.Containers, id)
		return err == nil && seen.Value.Node == node
	case below(vortex.Metrics.Prefix, key):
		return strings.HasSuffix(key, ":"+node)
	case below(vortex.Events.Prefix, key):
		before, err := kind.Get(c.store, vortex.Events, vortex.Events.ID(key))
		return vortex.IsKind(err, vortex.NotFound) || err == nil && before.Value.Node == node
	case below(vortex.Subnets.Prefix, key):
		before, err := kind.Get(c.store, vortex.Subnets, vortex.Subnets.ID(key))
		return vortex.IsKind(err, vortex.NotFound) || err == nil && before.Value.Node == node
	default:
		return true
	}
}

// CheckPut is Check of a write with the value to be put: a node may only say of itself that it runs a container, and of the app
// that the container is placed for; and it claims subnets for itself alone.
func (c *Caller) CheckPut(key string, value []byte) error {
	if err := c.Check(Write, key); err != nil || c.all || !below(vortex.Containers.Prefix, key) && !below(vortex.Subnets.Prefix, key) {
		return err
	}
	for _, r := range c.roles {
		if r.node != "" && !c.tells(r.node, key, value) {
			return vortex.Errorf(vortex.Denied, "%s may not write %q: it would be another node's or app's", c.name, key)
		}
	}
	return nil
}

// tells reports whether a record says what its node can know.
func (c *Caller) tells(node, key string, value []byte) bool {
	if below(vortex.Subnets.Prefix, key) {
		rec, err := vortex.Subnets.Decode(value)
		return err != nil || rec.Node == node
	}
	rec, err := vortex.Containers.Decode(value)
	if err != nil {
		return true // the store says what is wrong with it
	}
	placed, err := kind.Get(c.store, vortex.Placements, vortex.Containers.ID(key))
	return rec.Node == node && (err != nil || placed.Value.Node != node || placed.Value.ClientID == rec.ClientID)
}
