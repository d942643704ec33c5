// Package authz decides who a caller of the store is and what it may do.
//
// A role is a set of grants: verbs on the keys below a prefix. A caller has roles: through its bearer token, through its
// client certificate, or because it shows neither and is anonymous. Grants add up; what no grant allows is refused. A server
// or node of the cluster has its role by its certificate for as long as the store's record of it names the certificate's key.
//
// It guarantees that a role or token that was removed gives nothing any more once its removal was acknowledged, on
// streams that are already open too. It keeps no token, only hashes, and knows no transport.
//
//	authority := &authz.Authority{Store: store, Token: token, Anonymous: authz.Limited}
//	caller, err := authority.Bearer("vx_…")
//	if err == nil && caller.May(authz.Read, "vortex:app:web") { … }
package authz

import (
	"slices"
	"strings"

	"vortex"
)

// Verb is what can be done to keys; several may be joined by |.
type Verb uint8

// The verbs.
const (
	Read   Verb = 1 << iota // get, scan, query, watch, sync and compare
	Write                   // put and delete: a put with a short life deletes too, so they are not told apart
	Schema                  // load and remove schemas
	Admin                   // everything; alone gives roles, tokens, snapshots and compaction
)

// String returns the verb's name, of several verbs the first one's.
func (v Verb) String() string {
	switch {
	case v&Read != 0:
		return string(vortex.AccessVerbRead)
	case v&Write != 0:
		return string(vortex.AccessVerbWrite)
	case v&Schema != 0:
		return string(vortex.AccessVerbSchema)
	default:
		return string(vortex.AccessVerbAdmin)
	}
}

// Grant allows verbs on a key and on every key below it: the prefix "jobs" is about "jobs" and "jobs:1", not about "jobs2". The
// empty prefix is about all keys.
type Grant struct {
	Prefix string
	Verbs  Verb
}

// Role is a named set of grants.
type Role struct {
	Name   string
	Grants []Grant
	// Fences hold back grants with a shorter prefix than theirs: what is below a fence has to be granted there.
	Fences []Grant

	revision int64  // of its record; 0: built in
	node     string // of a node's role, whose id it is
}

// fences are those of every role: what is behind them says who may do what, or is secret.
var fences = []Grant{
	{vortex.Tokens.Prefix, Read | Write},
	{vortex.JoinTokens.Prefix, Read | Write},
	{"vortex:secret", Read | Write},
	{vortex.Roles.Prefix, Write},
	{vortex.Identities.Prefix, Write},
	{vortex.Clusters.Prefix, Write},
}

// schemas is where schemas are kept. To write there is to change the schema.
const schemas = "vortex:schema"

// May reports whether the role allows a verb on a key.
func (r *Role) May(verb Verb, key string) bool {
	for _, g := range r.Grants {
		if g.Verbs&Admin != 0 || g.Verbs&verb != 0 && below(g.Prefix, key) && !r.fenced(g, verb, key) {
			return true
		}
	}
	return false
}

// fenced reports whether a fence keeps a grant from a key.
func (r *Role) fenced(g Grant, verb Verb, key string) bool {
	between := func(f Grant) bool {
		return f.Verbs&verb != 0 && len(f.Prefix) > len(g.Prefix) && below(f.Prefix, key)
	}
	return slices.ContainsFunc(fences, between) || slices.ContainsFunc(r.Fences, between)
}

// MayScan reports whether the role can read any key that starts with prefix.
func (r *Role) MayScan(prefix string) bool {
	return r.May(Read, prefix) || slices.ContainsFunc(r.Grants, func(g Grant) bool {
		return g.Verbs&Read != 0 && strings.HasPrefix(g.Prefix, prefix)
	})
}

// ReadsAll reports whether the role can read every key below prefix.
func (r *Role) ReadsAll(prefix string) bool {
	inside := func(f Grant) bool { return f.Verbs&Read != 0 && strings.HasPrefix(f.Prefix, prefix) }
	return r.all() || r.May(Read, prefix) && !slices.ContainsFunc(fences, inside) && !slices.ContainsFunc(r.Fences, inside)
}

// all reports whether the role allows everything.
func (r *Role) all() bool {
	return slices.ContainsFunc(r.Grants, func(g Grant) bool { return g.Verbs&Admin != 0 })
}

// same reports whether two roles are of the same record, or of the same built-in name.
func (r *Role) same(other *Role) bool { return r.Name == other.Name && r.revision == other.revision }

// below reports whether key is prefix or lies below it.
func below(prefix, key string) bool {
	rest, ok := strings.CutPrefix(key, prefix)
	return ok && (prefix == "" || rest == "" || rest[0] == ':' || prefix[len(prefix)-1] == ':')
}

// ParseGrant reads verb:prefix, such as read:vortex:app, or a verb alone for all keys.
func ParseGrant(text string) (vortex.Permission, error) {
	word, prefix, _ := strings.Cut(text, ":")
	verb := vortex.AccessVerb(word)
	if !slices.Contains(verb.Values(), verb) {
		return vortex.Permission{}, vortex.Errorf(vortex.Invalid, "%q: expected read:PREFIX, write:PREFIX, schema or admin, got the verb %q", text, word)
	}
	if prefix != "" && (verb == vortex.AccessVerbSchema || verb == vortex.AccessVerbAdmin) {
		return vortex.Permission{}, vortex.Errorf(vortex.Invalid, "%q: %s is about the whole store; leave the prefix out", text, word)
	}
	return vortex.Permission{Verb: verb, Prefix: prefix}, nil
}

// verbs are the verbs of records.
var verbs = map[vortex.AccessVerb]Verb{
	vortex.AccessVerbRead: Read, vortex.AccessVerbWrite: Write, vortex.AccessVerbSchema: Schema, vortex.AccessVerbAdmin: Admin,
}
