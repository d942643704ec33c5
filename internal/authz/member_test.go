package authz_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"

	"vortex"
	"vortex/internal/authz"
	"vortex/internal/cluster/pki"
	"vortex/internal/kind"
)

// member is a certificate that a CA signed for a new key.
func member(t *testing.T, ca *pki.CA, name string, role pki.Role) *x509.Certificate {
	t.Helper()
	key, err := pki.Dir(t.TempDir()).Key()
	if err != nil {
		t.Fatal(err)
	}
	text, err := ca.Sign(key.Public(), pki.Request{Identity: pki.Identity{Name: name, Role: role, Epoch: 1}, Lifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// admit keeps that a certificate's holder was let in.
func admit(t *testing.T, a *authz.Authority, cert *x509.Certificate, role vortex.ClusterRole) {
	t.Helper()
	put(t, a, vortex.Identities, vortex.IdentityRecord{Name: cert.Subject.CommonName, Role: role, Key: pki.KeyHash(cert), JoinedAt: time.Now()}, cert.Subject.CommonName)
}

func put[T any](t *testing.T, a *authz.Authority, table vortex.Table[T], rec T, id ...string) {
	t.Helper()
	if _, err := kind.Put(t.Context(), a.Store, table, &rec, id...); err != nil {
		t.Fatal(err)
	}
}

func newCA(t *testing.T) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA("prod")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func TestMembersAreKnownByTheirRecords(t *testing.T) {
	a, ca := authority(t, authz.Off), newCA(t)
	server, node := member(t, ca, "s1", pki.Server), member(t, ca, "n1", pki.Node)
	id := func(cert *x509.Certificate) *authz.Identity { return authz.Identify(cert) }
	unknown := func(what string, cert *x509.Certificate) {
		t.Helper()
		if _, err := a.Certificate(id(cert)); !vortex.IsKind(err, vortex.Unauthenticated) {
			t.Errorf("%s: %v", what, err)
		}
	}
	unknown("a server nobody let in", server)
	admit(t, a, server, vortex.ClusterRoleServer)
	admit(t, a, node, vortex.ClusterRoleAgent)
	if c, err := a.Certificate(id(server)); err != nil || !c.May(authz.Admin, "") {
		t.Errorf("a server: %v", err)
	}
	c, err := a.Certificate(id(node))
	if err != nil || !c.May(authz.Write, "vortex:node:n1") || c.May(authz.Write, "vortex:node:n2") || c.May(authz.Write, "vortex:app:web") {
		t.Errorf("a node: %v", err)
	}
	unknown("a node with a server's certificate", member(t, ca, "n1", pki.Server))
	unknown("another key with the same name", member(t, ca, "n1", pki.Node))
	both := member(t, ca, "n1", pki.Node)
	both.Subject.Organization = append(both.Subject.Organization, "admin")
	unknown("a node that says it is an admin", both)
	upstart := member(t, ca, "n1", pki.Server)
	admit(t, a, upstart, vortex.ClusterRoleAgent)
	unknown("a server's certificate of who was let in as an agent", upstart)
}

func TestAMembersRemovalEndsItsStreams(t *testing.T) {
	a, ca := authority(t, authz.Off), newCA(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = a.Run(ctx) }()
	defer func() { cancel(); <-done }()
	cert := member(t, ca, "n1", pki.Node)
	admit(t, a, cert, vortex.ClusterRoleAgent)
	caller, err := a.Certificate(authz.Identify(cert))
	if err != nil {
		t.Fatal(err)
	}
	held, release := caller.Hold(ctx)
	defer release()
	admit(t, a, cert, vortex.ClusterRoleAgent) // it joined once more
	if again, err := a.Certificate(authz.Identify(cert)); err != nil || again != caller || held.Err() != nil {
		t.Errorf("who joins again with the same key is somebody else: %v", err)
	}
	if _, err := a.Store.Delete(ctx, vortex.Identities.Key("n1")); err != nil {
		t.Fatal(err)
	}
	<-held.Done()
	if _, err := a.Certificate(authz.Identify(cert)); !vortex.IsKind(err, vortex.Unauthenticated) {
		t.Errorf("a node that was removed: %v", err)
	}
}

func TestANodeWritesItsOwnOnly(t *testing.T) {
	a := authority(t, authz.Off)
	now := time.Now()
	place := func(id, node string) {
		put(t, a, vortex.Placements, vortex.PlacementRecord{Instance: id, ClientID: "web", Node: node, CreatedAt: now}, id)
	}
	container := func(node, app string) vortex.ContainerRecord {
		return vortex.ContainerRecord{ID: "x", ClientID: app, Status: vortex.ContainerStatusRunning, Node: node}
	}
	event := func(id, node string) {
		put(t, a, vortex.Events, vortex.EventRecord{ID: id, At: now, Component: "agent", Type: "T", Message: "m", Node: node}, id)
	}
	place("mine", "n1")
	place("theirs", "n2")
	place("moved", "n2")
	put(t, a, vortex.Containers, container("n1", "web"), "moved")
	put(t, a, vortex.Containers, container("n1", "web"), "gone")
	put(t, a, vortex.Containers, container("n2", "web"), "lost")
	put(t, a, vortex.Subnets, vortex.SubnetRecord{Node: "n1"}, "10.42.1.0/24")
	put(t, a, vortex.Subnets, vortex.SubnetRecord{Node: "n2"}, "10.42.2.0/24")
	event("mine", "n1")
	event("theirs", "n2")
	issue(t, a, "n1", "node:n1", time.Time{})
	c := bearer(t, a, "n1")
	for key, want := range map[string]bool{
		"vortex:container:mine": true, "vortex:container:theirs": false, "vortex:container:moved": true, "vortex:container:gone": true,
		"vortex:container:lost": false, "vortex:container:never": false, "vortex:container": false,
		"vortex:metrics:web:n1": true, "vortex:metrics:web:n2": false, "vortex:metrics:web": false,
		"vortex:event:mine": true, "vortex:event:theirs": false, "vortex:event:new": true,
		"vortex:quota:n1": true, "vortex:quota:n2": false, "vortex:placement:mine": false,
		"vortex:subnet:10.42.1.0/24": true, "vortex:subnet:10.42.2.0/24": false, "vortex:subnet:10.42.3.0/24": true, "vortex:liveness:n1": false, "router:web": false,
	} {
		if got := c.May(authz.Write, key); got != want {
			t.Errorf("may write %s: %t", key, got)
		}
	}
	for name, rec := range map[string]struct {
		key string
		vortex.ContainerRecord
		ok bool
	}{
		"its own":             {"mine", container("n1", "web"), true},
		"of another app":      {"mine", container("n1", "bank"), false},
		"of another node":     {"mine", container("n2", "web"), false},
		"one that was placed": {"gone", container("n1", "web"), true},
		"a foreign key":       {"theirs", container("n1", "web"), false},
	} {
		value, err := vortex.Containers.Encode(rec.ContainerRecord)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.CheckPut(vortex.Containers.Key(rec.key), value); (err == nil) != rec.ok || err != nil && !vortex.IsKind(err, vortex.Denied) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for node, ok := range map[string]bool{"n1": true, "n2": false} {
		value, err := vortex.Subnets.Encode(vortex.SubnetRecord{Node: node})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.CheckPut("vortex:subnet:10.42.3.0/24", value); (err == nil) != ok || err != nil && !vortex.IsKind(err, vortex.Denied) {
			t.Errorf("claiming a subnet for %s: %v", node, err)
		}
	}
}
