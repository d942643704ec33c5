package pki_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vortex"
	"vortex/internal/cluster/pki"
)

// cluster is a CA with directories for its members.
type cluster struct {
	*testing.T

	ca  *pki.CA
	dir string
}

func found(t *testing.T, id string) *cluster {
	t.Helper()
	c := &cluster{T: t, dir: t.TempDir()}
	dir := pki.Dir(filepath.Join(c.dir, "ca"))
	if err := dir.Found(id); err != nil {
		t.Fatal(err)
	}
	var err error
	if c.ca, err = dir.CA(); err != nil {
		t.Fatal(err)
	}
	return c
}

// issue gives a member a certificate.
func (c *cluster) issue(req pki.Request) *pki.Holder {
	c.Helper()
	dir := pki.Dir(filepath.Join(c.dir, fmt.Sprintf("%s-%d", req.Name, req.Epoch)))
	key, err := dir.Key()
	if err != nil {
		c.Fatal(err)
	}
	cert, err := c.ca.Sign(key.Public(), req)
	if err != nil {
		c.Fatal(err)
	}
	if err := dir.Install(pki.Bundle{Certificate: cert, CA: c.ca.CertPEM()}); err != nil {
		c.Fatal(err)
	}
	h, err := pki.Open(dir)
	if err != nil {
		c.Fatal(err)
	}
	h.Renew = func(_ context.Context, old pki.Renewal) (pki.Bundle, error) {
		pub, _, err := pki.ParseSigningRequest(old.Request)
		if err != nil {
			return pki.Bundle{}, err
		}
		cert, err := c.ca.Sign(pub, req)
		return pki.Bundle{Certificate: cert, CA: c.ca.CertPEM()}, err
	}
	return h
}

func (c *cluster) member(name string, role pki.Role, epoch uint64) *pki.Holder {
	c.Helper()
	return c.issue(pki.Request{Identity: pki.Identity{Name: name, Role: role, Epoch: epoch}, Lifetime: time.Hour})
}

// serve accepts connections and answers each line with the same, until the test ends.
func serve(t *testing.T, cfg *tls.Config) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					if _, err := fmt.Fprintln(conn, lines.Text()); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// link is a connection whose other side repeats what is said.
type link struct {
	*tls.Conn

	lines *bufio.Reader
}

func dial(ctx context.Context, addr string, cfg *tls.Config) (*link, error) {
	conn, err := (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	l := &link{conn.(*tls.Conn), bufio.NewReader(conn)}
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	return l, l.say("hello") // in TLS 1.3 a server's refusal comes with the first answer
}

func (l *link) say(text string) error {
	if _, err := fmt.Fprintln(l, text); err != nil {
		return err
	}
	got, err := l.lines.ReadString('\n')
	if err == nil && got != text+"\n" {
		err = fmt.Errorf("got %q", got)
	}
	return err
}

func TestWhoIsTaken(t *testing.T) {
	ours, others := found(t, "prod"), found(t, "test")
	server := ours.member("s1", pki.Server, 1)
	addr := serve(t, server.Server())
	plain := func(pool *x509.CertPool) *tls.Config { return &tls.Config{RootCAs: pool, ServerName: "localhost"} }
	for name, c := range map[string]struct {
		addr string
		cfg  *tls.Config
		want string // in the error; "" is none
	}{
		"a node":                       {addr, ours.member("n1", pki.Node, 1).Client(), ""},
		"a server":                     {addr, ours.member("s2", pki.Server, 1).Client(), ""},
		"a server by its name":         {addr, ours.member("n1", pki.Node, 1).Peer("s1"), ""},
		"a server of another name":     {addr, ours.member("n1", pki.Node, 1).Peer("s3"), "expected s3, got s1"},
		"a program with the CA":        {addr, plain(server.Roots()), ""},
		"a program with another CA":    {addr, plain(others.member("x", pki.Server, 1).Roots()), "unknown authority"},
		"a node of another cluster":    {addr, others.member("n1", pki.Node, 1).Client(), "not one of this cluster"},
		"an older epoch":               {addr, ours.member("n2", pki.Node, 0).Client(), "join again"},
		"a node that plays the server": {serve(t, ours.member("n3", pki.Node, 1).Server()), ours.member("n1", pki.Node, 1).Client(), "expected a server"},
		"a node that plays a host":     {serve(t, ours.member("n3", pki.Node, 1).Server()), plain(server.Roots()), "not localhost"},
	} {
		conn, err := dial(t.Context(), c.addr, c.cfg)
		if err == nil {
			_ = conn.Close()
		}
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
}

// A client that does not look at the server still has to show a certificate of this cluster and epoch.
func TestTheServerJudgesClientsItself(t *testing.T) {
	ours, others := found(t, "prod"), found(t, "test")
	addr := serve(t, ours.member("s1", pki.Server, 2).Server())
	short := ours.issue(pki.Request{Identity: pki.Identity{Name: "brief", Role: pki.Node, Epoch: 2}, Lifetime: pki.MinLifetime})
	for time.Now().Before(short.Expires()) {
		<-time.After(time.Until(short.Expires()) + time.Millisecond)
	}
	for name, c := range map[string]struct {
		holder *pki.Holder
		ok     bool
	}{
		"this epoch":      {ours.member("n1", pki.Node, 2), true},
		"an older epoch":  {ours.member("n1", pki.Node, 1), false},
		"another cluster": {others.member("n1", pki.Node, 2), false},
		"expired":         {short, false},
	} {
		conn, err := dial(t.Context(), addr, &tls.Config{InsecureSkipVerify: true, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return c.holder.Pair(), nil
		}})
		if err == nil {
			_ = conn.Close()
		}
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCertificatesRotateUnderOpenConnections(t *testing.T) {
	c := found(t, "prod")
	brief := func(name string, role pki.Role) *pki.Holder {
		return c.issue(pki.Request{Identity: pki.Identity{Name: name, Role: role, Epoch: 1}, Lifetime: 6 * time.Second})
	}
	server, node := brief("s1", pki.Server), brief("n1", pki.Node)
	var renewals [2]atomic.Int64
	server.Renewed = func() { renewals[0].Add(1) }
	node.Renewed = func() { renewals[1].Add(1) }
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer func() { cancel(); running.Wait() }()
	for _, h := range []*pki.Holder{server, node} {
		running.Go(func() { _ = h.Run(ctx) })
	}
	addr := serve(t, server.Server())
	trust := node.Client()
	old, err := dial(t.Context(), addr, trust)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	serials := map[string]bool{}
	for begun := time.Now(); renewals[0].Load() < 3 || renewals[1].Load() < 3; {
		if time.Since(begun) > time.Minute {
			t.Fatalf("only %d and %d renewals", renewals[0].Load(), renewals[1].Load())
		}
		conn, err := dial(t.Context(), addr, trust)
		if err != nil {
			t.Fatalf("after %d and %d renewals: %v", renewals[0].Load(), renewals[1].Load(), err)
		}
		serials[conn.ConnectionState().PeerCertificates[0].SerialNumber.String()] = true
		_ = conn.Close()
		if err := old.say("still there"); err != nil {
			t.Fatalf("the connection that was open: %v", err)
		}
		<-time.After(20 * time.Millisecond)
	}
	if len(serials) < 3 {
		t.Errorf("new connections saw %d certificates of the server; want at least 3", len(serials))
	}
	again, err := pki.Open(server.Dir())
	if err != nil || again.Expires().Before(server.Expires()) {
		t.Errorf("what is kept expires %v, what is used %v: %v", again.Expires(), server.Expires(), err)
	}
}

func TestRenewalIsTriedUntilItSucceeds(t *testing.T) {
	c := found(t, "prod")
	h := c.issue(pki.Request{Identity: pki.Identity{Name: "n1", Role: pki.Node, Epoch: 1}, Lifetime: pki.MinLifetime})
	sign, failures := h.Renew, 0
	h.Renew = func(ctx context.Context, old pki.Renewal) (pki.Bundle, error) {
		if failures++; failures <= 3 {
			return pki.Bundle{}, errors.New("no server answers")
		}
		if failures == 4 {
			return pki.Bundle{Certificate: []byte("nonsense"), CA: c.ca.CertPEM()}, nil
		}
		return sign(ctx, old)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	h.Renewed = func() {
		if failures != 5 {
			t.Errorf("taken up at attempt %d", failures)
		}
		if err := h.Trouble(); err == nil || !strings.Contains(err.Error(), "no server answers") && !strings.Contains(err.Error(), "PEM") {
			t.Errorf("the trouble was %v", err)
		}
		cancel()
	}
	if err := h.Run(ctx); err != nil || failures < 5 {
		t.Errorf("%v after %d attempts", err, failures)
	}
}

func TestOthersCertificatesAreNotInstalled(t *testing.T) {
	ours, others := found(t, "prod"), found(t, "test")
	h := ours.member("n1", pki.Node, 1)
	key, err := h.Dir().Key()
	if err != nil {
		t.Fatal(err)
	}
	id := pki.Request{Identity: pki.Identity{Name: "n1", Role: pki.Node, Epoch: 1}, Lifetime: time.Hour}
	foreign, _ := others.ca.Sign(key.Public(), id)
	renamed := id
	renamed.Name = "n2"
	otherName, _ := ours.ca.Sign(key.Public(), renamed)
	otherKey, _ := ours.ca.Sign(ours.member("n3", pki.Node, 1).Pair().Leaf.PublicKey, id)
	for want, cert := range map[string][]byte{
		"not from the cluster's CA": foreign, "got one for n2": otherName, "another key": otherKey, "PEM": []byte("x"),
	} {
		if err := h.Take(pki.Bundle{Certificate: cert, CA: ours.ca.CertPEM()}); !vortex.IsKind(err, vortex.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	if again, err := pki.Open(h.Dir()); err != nil || again.Identity() != h.Identity() {
		t.Errorf("what was kept has changed: %v", err)
	}
}

func TestFilesAreTheirOwnersOnly(t *testing.T) {
	c := found(t, "prod")
	for _, dir := range []pki.Dir{c.member("n1", pki.Node, 1).Dir(), pki.Dir(filepath.Join(c.dir, "ca"))} {
		entries, err := os.ReadDir(string(dir))
		if err != nil || len(entries) < 2 {
			t.Fatalf("%v, %v", entries, err)
		}
		for _, e := range entries {
			if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %v, %v", e.Name(), info.Mode(), err)
			}
		}
	}
	if _, err := pki.Open(pki.Dir(t.TempDir())); !vortex.IsKind(err, vortex.NotFound) {
		t.Errorf("an empty directory: %v", err)
	}
	damaged := pki.Dir(t.TempDir())
	if err := damaged.Write(pki.KeyFile, []byte("half a fi")); err != nil {
		t.Fatal(err)
	}
	if _, err := damaged.Key(); !vortex.IsKind(err, vortex.Invalid) {
		t.Errorf("a damaged key: %v", err)
	}
}

func TestCertificatesSayWhoAndWhere(t *testing.T) {
	c := found(t, "prod")
	for _, req := range []pki.Request{
		{Identity: pki.Identity{Name: "s1", Role: pki.Server, Epoch: 7}, Hosts: []string{"10.1.2.3", "s1.example.com"}, Lifetime: time.Hour},
		{Identity: pki.Identity{Name: "n1", Role: pki.Node, Epoch: 7}, Hosts: []string{"10.1.2.3", "s1.example.com"}, Lifetime: time.Hour},
	} {
		h := c.issue(req)
		want := req.Identity
		want.Cluster = "prod"
		if h.Identity() != want {
			t.Errorf("got %s; want %s", h.Identity(), want)
		}
		leaf := h.Pair().Leaf
		for _, host := range []string{"10.1.2.3", "s1.example.com", "localhost", "127.0.0.1", pki.ServerName} {
			if (leaf.VerifyHostname(host) == nil) != (req.Role == pki.Server) {
				t.Errorf("%s is for %s: %v", req.Name, host, leaf.VerifyHostname(host))
			}
		}
		if early := time.Now().Add(-pki.Skew + time.Minute); leaf.NotBefore.After(early) {
			t.Errorf("valid from %v", leaf.NotBefore)
		}
	}
	for _, bad := range []string{"", "a:b", "-a", "a/b", strings.Repeat("a", 64), "ä"} {
		if err := pki.CheckName(bad); !vortex.IsKind(err, vortex.Invalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestASigningRequestProvesItsKey(t *testing.T) {
	key, err := pki.Dir(t.TempDir()).Key()
	if err != nil {
		t.Fatal(err)
	}
	der, err := pki.SigningRequest(key)
	if err != nil {
		t.Fatal(err)
	}
	if pub, _, err := pki.ParseSigningRequest(der); err != nil || !key.PublicKey.Equal(pub) {
		t.Errorf("%v, %v", pub, err)
	}
	der[len(der)/2] ^= 1
	for _, bad := range [][]byte{der, nil, []byte("x")} {
		if _, _, err := pki.ParseSigningRequest(bad); !vortex.IsKind(err, vortex.Invalid) {
			t.Errorf("%v", err)
		}
	}
}
