package node

import (
	"context"
	"crypto/x509/pkix"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vortex"
	"vortex/client"
	"vortex/internal/api/kindrpc"
)

// start runs a node with a store and an API until the test ends.
func start(t *testing.T, cfg Config) Addresses {
	t.Helper()
	cfg.Data, cfg.API, cfg.Kind, cfg.NoAgent, cfg.NoEdge = t.TempDir(), "127.0.0.1:0", "127.0.0.1:0", true, true
	ready, ended := make(chan Addresses, 1), make(chan error, 1)
	cfg.Ready = func(a Addresses) { ready <- a }
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { ended <- n.Run(ctx) }()
	select {
	case a := <-ready:
		t.Cleanup(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
		return a
	case err := <-ended:
		cancel()
		t.Fatal(err)
		return Addresses{}
	}
}

// kindAt opens a client of a node's store that is closed when the test ends.
func kindAt(t *testing.T, addr, token string, security client.TLS) *client.Kind {
	t.Helper()
	k, err := client.OpenKind(addr, token, security)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	return k
}

func TestClientsAreKnownByTheirCertificates(t *testing.T) {
	authority, stranger := newCA(t, "ca"), newCA(t, "stranger")
	hour := time.Now().Add(time.Hour)
	cert, key := authority.sign("server", pkix.Name{CommonName: "server"}, hour)
	a := start(t, Config{Anonymous: kindrpc.AnonymousOff, TLS: TLS{Cert: cert, Key: key, ClientCA: authority.file, RequireClient: true}})
	secure := "https://" + a.Kind
	with := func(from *ca, name string, until time.Time, roles ...string) client.TLS {
		cert, key := from.sign(name, pkix.Name{CommonName: name, Organization: roles}, until)
		return client.TLS{CA: authority.file, Cert: cert, Key: key}
	}
	for _, c := range []struct {
		name        string
		addr        string
		security    client.TLS
		read, write vortex.ErrorKind
		hint        string // in the error of a failed handshake
	}{
		{"admin", secure, with(authority, "root", hour, "admin"), 0, 0, ""},
		{"viewer", secure, with(authority, "vi", hour, "viewer"), 0, vortex.Denied, ""},
		{"no role", secure, with(authority, "nobody", hour), vortex.Denied, vortex.Denied, ""},
		{"expired", secure, with(authority, "old", time.Now().Add(-time.Hour), "admin"), vortex.Unavailable, vortex.Unavailable, "client CA"},
		{"another CA", secure, with(stranger, "eve", hour, "admin"), vortex.Unavailable, vortex.Unavailable, "client CA"},
		{"none", secure, client.TLS{CA: authority.file}, vortex.Unavailable, vortex.Unavailable, "client CA"},
		{"a server nobody trusts", secure, client.TLS{}, vortex.Unavailable, vortex.Unavailable, "--ca"},
		{"in the clear", a.Kind, client.TLS{}, vortex.Unavailable, vortex.Unavailable, "use https://"},
	} {
		k := kindAt(t, c.addr, "", c.security)
		_, err := k.Scan(t.Context(), "vortex:app:")
		check(t, c.name+" reads", err, c.read, c.hint)
		_, err = k.Put(t.Context(), "x", []byte("1"), 0)
		check(t, c.name+" writes", err, c.write, c.hint)
	}
	web, err := client.New(client.Options{Server: "https://" + a.API, Token: a.Token, TLS: a.TLS})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := web.Cluster(t.Context()); err != nil {
		t.Errorf("the API over TLS: %v", err)
	}
}

// check compares the kind of an error; 0 is none.
func check(t *testing.T, what string, err error, want vortex.ErrorKind, hint string) {
	t.Helper()
	switch {
	case want == 0 && err != nil:
		t.Errorf("%s: %v", what, err)
	case want != 0 && (!vortex.IsKind(err, want) || !strings.Contains(err.Error(), hint)):
		t.Errorf("%s: %v (%s); want %s with %q", what, err, vortex.KindOf(err), want, hint)
	}
}

func TestAnExpiredServerCertificateStopsTheStart(t *testing.T) {
	authority := newCA(t, "ca")
	cert, key := authority.sign("server", pkix.Name{CommonName: "server"}, time.Now().Add(-time.Minute))
	n, err := New(Config{Data: t.TempDir(), API: "127.0.0.1:0", TLS: TLS{Cert: cert, Key: key}})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Run(t.Context()); !vortex.IsKind(err, vortex.Invalid) {
		t.Errorf("got %v; want Invalid", err)
	}
	if _, err := os.Stat(filepath.Join(n.cfg.Data, "lock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the start went on: %v", err)
	}
}
