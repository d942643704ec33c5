package authz

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"vortex"
	"vortex/internal/kind"
)

// Authority knows every role, token and member of the cluster. Set its fields before the first call; its methods are safe for concurrent use.
type Authority struct {
	// Store holds the roles, tokens and identities.
	Store *kind.Store
	// Token is the bearer token of the role admin; empty accepts none.
	Token string
	// Anonymous is what callers without a token or certificate may do; "" is off.
	Anonymous Mode

	current atomic.Pointer[register]
	changes atomic.Pointer[kind.Watch] // of roles, tokens and identities; something is pending when current is out of date
	loading atomic.Bool

	mu sync.Mutex // held while current is replaced
}

// register is what was known of roles, tokens and identities at one moment.
type register struct {
	admin, anonymous *Caller
	tokens           map[[sha256.Size]byte]*Caller
	roles            map[string]*Role
	identities       map[string]*vortex.IdentityRecord
	certificates     sync.Map // Identity.key -> *Caller, made when it is first seen
	store            *kind.Store
}

// Bearer returns the caller that a token belongs to.
func (a *Authority) Bearer(token string) (*Caller, error) {
	c, ok := a.register().tokens[sha256.Sum256([]byte(token))]
	if !ok {
		return nil, vortex.Errorf(vortex.Unauthenticated, "the token is not valid; see `vortex login`")
	}
	return c, c.live()
}

// Nobody returns the caller that shows neither token nor certificate.
func (a *Authority) Nobody() (*Caller, error) {
	if c := a.register().anonymous; c != nil {
		return c, nil
	}
	return nil, vortex.Errorf(vortex.Unauthenticated, "a token is needed: send `authorization: Bearer TOKEN`")
}

// Run ends the streams of callers that lose what they may do, at once. It returns nil when ctx ended.
func (a *Authority) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		watch := a.watch()
		var err error
		for err == nil {
			a.register()
			_, err = watch.Next(ctx)
		}
		watch.Close()
		select {
		case <-ctx.Done():
		case <-time.After(watchAgain):
		}
	}
	return nil
}

// watchAgain is how long Run waits after its watch broke.
const watchAgain = 100 * time.Millisecond

// watch subscribes to roles, tokens and identities.
func (a *Authority) watch() *kind.Watch {
	return a.Store.Watch(kind.WatchOptions{Prefixes: []string{vortex.Roles.Prefix, vortex.Tokens.Prefix, vortex.Identities.Prefix}})
}

// register returns what is known now: every change that the store has taken in is in it.
func (a *Authority) register() *register {
	told := a.told()
	if w := a.changes.Load(); told && w != nil && !w.Pending() && !a.loading.Load() {
		return a.current.Load()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.changes.Load()
	if told && w != nil && !w.Pending() {
		return a.current.Load()
	}
	a.loading.Store(true)
	defer a.loading.Store(false)
	if w == nil {
		a.changes.Store(a.watch())
	} else if _, err := w.Take(); err != nil {
		w.Close()
		a.changes.Store(a.watch())
	}
	next := a.load()
	before := a.current.Swap(next)
	if before != nil {
		before.retire(next)
	}
	return next
}

// told waits for the moment between a change and its watches knowing it to end, and reports whether it did: it lasts
// long only where the store has stopped.
func (a *Authority) told() bool {
	const tries = 1000
	for range tries {
		if a.Store.Told() {
			return true
		}
		runtime.Gosched()
	}
	return false
}

// load reads every role, token and identity.
func (a *Authority) load() *register {
	before := a.current.Load()
	if before == nil {
		before = &register{}
	}
	r := &register{
		admin: before.admin, anonymous: before.anonymous, tokens: map[[sha256.Size]byte]*Caller{}, roles: map[string]*Role{},
		identities: map[string]*vortex.IdentityRecord{}, store: a.Store,
	}
	if r.admin == nil {
		r.admin, r.anonymous = newCaller("the admin token", adminRole), nobody(a.Anonymous)
	}
	a.Store.View(func(v kind.View) {
		for _, rec := range kind.List(v, vortex.Roles) {
			r.addRole(rec, before)
		}
		for _, rec := range kind.List(v, vortex.Tokens) {
			r.addToken(rec, before)
		}
		for _, rec := range kind.List(v, vortex.Identities) {
			r.identities[rec.ID] = rec.Value
		}
	})
	if a.Token != "" {
		r.tokens[sha256.Sum256([]byte(a.Token))] = r.admin
	}
	before.certificates.Range(func(key, c any) bool {
		caller := c.(*Caller) //nolint:errcheck,forcetypeassert // nothing else is stored
		if roles, ok := r.rolesOf(caller.identity); ok && slices.EqualFunc(caller.roles, roles, (*Role).same) {
			r.certificates.Store(key, c)
		}
		return true
	})
	return r
}

func nobody(mode Mode) *Caller {
	switch mode {
	case Full:
		return newCaller("anonymous clients", adminRole)
	case Limited:
		return newCaller("anonymous clients", anonymousRole)
	default:
		return nil
	}
}

func (r *register) addRole(rec kind.Entry[vortex.RoleRecord], before *register) {
	if known := before.roles[rec.ID]; known != nil && known.revision == rec.ModRevision {
		r.roles[rec.ID] = known
		return
	}
	r.roles[rec.ID] = roleOf(rec.Value, rec.ModRevision)
	r.roles[rec.ID].Name = rec.ID
}

func (r *register) addToken(rec kind.Entry[vortex.TokenRecord], before *register) {
	hash, err := hex.DecodeString(rec.Value.Hash)
	if err != nil || len(hash) != sha256.Size {
		return // it belongs to no token
	}
	key := [sha256.Size]byte(hash)
	roles := r.find(rec.Value.Role)
	if known := before.tokens[key]; known != nil && known.revision == rec.ModRevision && slices.EqualFunc(known.roles, roles, (*Role).same) {
		r.tokens[key] = known
		return
	}
	c := newCaller("token \""+rec.ID+"\"", roles...)
	c.store = r.store
	c.revision, c.expires = rec.ModRevision, rec.Value.ExpiresAt
	r.tokens[key] = c
}

// find returns the roles of these names that exist.
func (r *register) find(names ...string) (found []*Role) {
	for _, name := range names {
		if role, ok := BuiltIn(name); ok {
			found = append(found, role)
		} else if role, ok := r.roles[name]; ok {
			found = append(found, role)
		}
	}
	return found
}

// retire ends the callers that next no longer has.
func (r *register) retire(next *register) {
	for hash, c := range r.tokens {
		switch now, ok := next.tokens[hash]; {
		case now == c:
		case !ok:
			c.end(vortex.Errorf(vortex.Unauthenticated, "%s was removed", c.name))
		default:
			c.end(vortex.Errorf(vortex.Denied, "what %s may do has changed; connect again", c.name))
		}
	}
	r.certificates.Range(func(key, old any) bool {
		if now, _ := next.certificates.Load(key); now != old {
			c := old.(*Caller) //nolint:errcheck,forcetypeassert // nothing else is stored
			c.end(vortex.Errorf(vortex.Denied, "what %s may do has changed; connect again", c.name))
		}
		return true
	})
}
