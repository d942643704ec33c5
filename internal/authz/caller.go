package authz

import (
	"context"
	"slices"
	"sync"
	"time"

	"vortex"
	"vortex/internal/kind"
)

// Caller is somebody whose token or certificate was checked, or nobody in particular.
type Caller struct {
	name     string // for messages
	roles    []*Role
	all      bool
	expires  time.Time // zero: never
	revision int64     // of the token's record
	identity *Identity // of who showed a certificate
	store    *kind.Store

	mu    sync.Mutex
	ended error                                 // why it may do nothing any more
	open  map[*context.CancelCauseFunc]struct{} // its open streams
}

func newCaller(name string, roles ...*Role) *Caller {
	return &Caller{name: name, roles: roles, all: slices.ContainsFunc(roles, (*Role).all)}
}

// Name says who it is, for messages: `token "ci"`.
func (c *Caller) Name() string { return c.name }

// May reports whether the caller may do something to a key.
func (c *Caller) May(verb Verb, key string) bool {
	if c.all {
		return true
	}
	if verb == Write && below(schemas, key) {
		verb, key = Schema, ""
	}
	for _, r := range c.roles {
		if r.May(verb, key) && (verb != Write || r.node == "" || c.owns(r.node, key)) {
			return true
		}
	}
	return false
}

// Identity returns what the caller's certificate says, nil when it showed a token or nothing.
func (c *Caller) Identity() *Identity { return c.identity }

// Check returns nil when the caller may do something to a key, and else why not.
func (c *Caller) Check(verb Verb, key string) error {
	switch {
	case c.May(verb, key):
		return nil
	case verb == Schema:
		return c.denied("change the schema")
	case verb == Admin:
		return c.denied(key)
	default:
		return vortex.Errorf(vortex.Denied, "%s may not %s %q; %s", c.name, verb, key, c.hint())
	}
}

// denied refuses something that is about no key.
func (c *Caller) denied(what string) error {
	return vortex.Errorf(vortex.Denied, "%s may not %s; %s", c.name, what, c.hint())
}

func (c *Caller) hint() string {
	switch {
	case len(c.roles) == 1 && c.roles[0] == anonymousRole:
		return "send a token"
	case len(c.roles) == 0:
		return "it has no role that exists; `vortex role ls` lists them"
	default:
		return "its role " + c.roles[0].Name + " does not allow it"
	}
}

// CheckScan returns nil when the caller may read any key that starts with prefix, and else why not.
func (c *Caller) CheckScan(prefix string) error {
	if c.all || slices.ContainsFunc(c.roles, func(r *Role) bool { return r.MayScan(prefix) }) {
		return nil
	}
	return c.Check(Read, prefix)
}

// ReadsAll reports whether the caller can read every key below prefix.
func (c *Caller) ReadsAll(prefix string) bool {
	return c.all || slices.ContainsFunc(c.roles, func(r *Role) bool { return r.ReadsAll(prefix) })
}

// live returns why the caller may do nothing any more, nil while it may.
func (c *Caller) live() error {
	if !c.expires.IsZero() && !time.Now().Before(c.expires) {
		return vortex.Errorf(vortex.Unauthenticated, "%s has expired; make another with `vortex token create`", c.name)
	}
	return nil
}

// Hold returns a context that ends with the reason as its cause when the caller loses what it may do now. Call release when
// the stream that it is for has ended.
func (c *Caller) Hold(ctx context.Context) (held context.Context, release func()) {
	held, cancel := context.WithCancelCause(ctx)
	stop := func() {}
	if !c.expires.IsZero() {
		timer := time.AfterFunc(time.Until(c.expires), func() { cancel(c.live()) })
		stop = func() { timer.Stop() }
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended != nil {
		cancel(c.ended)
	}
	if c.open == nil {
		c.open = map[*context.CancelCauseFunc]struct{}{}
	}
	c.open[&cancel] = struct{}{}
	return held, func() {
		c.mu.Lock()
		delete(c.open, &cancel)
		c.mu.Unlock()
		stop()
		cancel(nil)
	}
}

// end takes everything from the caller.
func (c *Caller) end(reason error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = reason
	for cancel := range c.open {
		(*cancel)(reason)
	}
}
