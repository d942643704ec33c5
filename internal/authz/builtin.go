package authz

import (
	"strings"

	"vortex"
)

// Mode says what callers without a token or certificate may do.
type Mode string

// The modes of anonymous access.
const (
	Off     Mode = "off"     // nothing
	Limited Mode = "limited" // read what is published, write metrics, own what no cluster type owns
	Full    Mode = "full"    // everything
)

// The built-in roles. A record of one of these names changes nothing.
var (
	adminRole  = &Role{Name: "admin", Grants: []Grant{{"", Admin}}}
	viewerRole = &Role{Name: "viewer", Grants: []Grant{{"", Read}}}
	// anonymousRole reads what is published to other programs, reports metrics, and does as it likes with keys that are not the cluster's.
	anonymousRole = &Role{
		Name: "anonymous",
		Grants: []Grant{
			{"", Read | Write},
			{"vortex:metrics", Read | Write},
			{"vortex:queue", Read},
			{"vortex:container", Read},
			{"vortex:daemon:leader", Read},
			{"router", Read},
		},
		Fences: []Grant{{"vortex", Read | Write}, {"router", Read | Write}},
	}
)

// nodePrefix begins the names of the roles of nodes: node:<id>.
const nodePrefix = "node:"

// NodeRole returns the role of a node: it reads what agents and edges need, no secret, and writes what only that node and its edge
// write. Of containers, metrics, events and subnets, whose keys begin the same for all nodes, it may write its own: see Caller.Check.
func NodeRole(id string) *Role {
	role := &Role{Name: nodePrefix + id, Grants: []Grant{{"vortex", Read}, {vortex.Routers.Prefix, Read}}, node: id}
	for _, key := range []string{
		vortex.Nodes.Key(id), vortex.Edges.Key(id), vortex.Quotas.Key(id), vortex.Containers.Prefix, vortex.Events.Prefix, vortex.Metrics.Prefix,
		vortex.Subnets.Prefix,
	} {
		role.Grants = append(role.Grants, Grant{key, Write})
	}
	return role
}

// BuiltIn returns the built-in role of a name.
func BuiltIn(name string) (*Role, bool) {
	switch name {
	case adminRole.Name:
		return adminRole, true
	case viewerRole.Name:
		return viewerRole, true
	case anonymousRole.Name:
		return anonymousRole, true
	}
	if id, ok := strings.CutPrefix(name, nodePrefix); ok && id != "" && !strings.Contains(id, ":") {
		return NodeRole(id), true
	}
	return nil, false
}

// roleOf makes a Role of its record.
func roleOf(rec *vortex.RoleRecord, revision int64) *Role {
	role := &Role{Name: rec.Name, revision: revision}
	for _, p := range rec.Allow {
		role.Grants = append(role.Grants, Grant{Prefix: p.Prefix, Verbs: verbs[p.Verb]})
	}
	return role
}
