package authz

import (
	"crypto/x509"
	"fmt"

	"vortex"
	"vortex/internal/cluster/pki"
)

// Identity is what a client certificate says, as far as it matters here.
type Identity struct {
	// Name is the subject's common name, else the first URI among its alternative names.
	Name string
	// Roles are the subject's organizations, of who is no member of a cluster.
	Roles []string

	member pki.Role // "" of who is no server or node of a cluster
	public string   // of a member: the hash of its public key
	key    string
}

// Identify reads a client certificate, whose chain must have been verified.
func Identify(cert *x509.Certificate) *Identity {
	id := &Identity{Name: cert.Subject.CommonName, Roles: cert.Subject.Organization}
	if id.Name == "" && len(cert.URIs) > 0 {
		id.Name = cert.URIs[0].String()
	}
	if pki.IsMember(cert) {
		id.Roles, id.public = nil, pki.KeyHash(cert)
		if member, err := pki.Identify(cert); err == nil {
			id.member = member.Role
		}
	}
	id.key = fmt.Sprintf("%q", append([]string{id.Name, id.public, string(id.member)}, id.Roles...)) // quoted: a name may hold anything
	return id
}

// Certificate returns the caller that a client certificate belongs to. That of a server or node has its role while
// the store's record of it names the certificate's key, and is Unauthenticated else.
func (a *Authority) Certificate(id *Identity) (*Caller, error) {
	for {
		r := a.register()
		c, ok := r.certificates.Load(id.key)
		if !ok {
			roles, known := r.rolesOf(id)
			if !known {
				return nil, vortex.Errorf(vortex.Unauthenticated, "%s does not belong to this cluster, or not any more; let it join again with a new token: `vortex token join`", id.Name)
			}
			c, _ = r.certificates.LoadOrStore(id.key, r.certified(id, roles))
		}
		if a.current.Load() == r { // whoever replaces r from now on sees this caller
			return c.(*Caller), nil //nolint:errcheck,forcetypeassert // nothing else is stored
		}
	}
}

func (r *register) certified(id *Identity, roles []*Role) *Caller {
	c := newCaller("certificate \""+id.Name+"\"", roles...)
	c.identity, c.store = id, r.store
	return c
}

// rolesOf returns the roles that a certificate gives, and whether it is known at all: other than a member of the cluster, anybody is.
func (r *register) rolesOf(id *Identity) ([]*Role, bool) {
	if id.public == "" {
		return r.find(id.Roles...), true
	}
	rec := r.identities[id.Name]
	switch {
	case rec == nil || rec.Key != id.public:
		return nil, false
	case rec.Role == vortex.ClusterRoleServer && id.member == pki.Server:
		return []*Role{adminRole}, true
	case rec.Role == vortex.ClusterRoleAgent && id.member == pki.Node:
		return []*Role{NodeRole(id.Name)}, true
	default:
		return nil, false
	}
}
