package node

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"vortex"
	"vortex/internal/kind/engine/enginetest"
	"vortex/internal/kind/kindtest"
)

// authority signs certificates, and writes them into files.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.sign(name, true)
	return a
}

// sign makes a certificate for a name and 127.0.0.1, in name.crt and name.key.
func (a *authority) sign(name string, ca bool) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: ca, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := a.cert, a.key
	if ca {
		parent, signer = cert, key
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(name+".crt", &pem.Block{Type: "CERTIFICATE", Bytes: der})
	a.write(name+".key", &pem.Block{Type: "PRIVATE KEY", Bytes: private})
	signed, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return signed, key
}

func (a *authority) write(name string, block *pem.Block) {
	a.t.Helper()
	if err := os.WriteFile(a.file(name), pem.EncodeToMemory(block), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// secureEtcd runs an etcd that speaks TLS only, asks for a certificate, and for the password of its user root.
func secureEtcd(t *testing.T, ours *authority) (addr string) {
	t.Helper()
	if _, err := exec.LookPath("etcd"); err != nil {
		t.Skip("no etcd on PATH: install etcd-server to test external clusters")
	}
	addr = freeAddr(t)
	peer := "http://" + freeAddr(t)
	cmd := exec.CommandContext(context.Background(), "etcd", "--data-dir", t.TempDir(),
		"--listen-client-urls", "https://"+addr, "--advertise-client-urls", "https://"+addr,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer,
		"--cert-file", ours.file("server.crt"), "--key-file", ours.file("server.key"), "--trusted-ca-file", ours.file("ours.crt"), "--client-cert-auth")
	cmd.Env = append(os.Environ(), "ETCD_UNSUPPORTED_ARCH=arm64")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	config, err := StoreTLS{CA: ours.file("ours.crt"), Cert: ours.file("client.crt"), Key: ours.file("client.key")}.load()
	if err != nil {
		t.Fatal(err)
	}
	admin, err := clientv3.New(clientv3.Config{Endpoints: []string{addr}, TLS: config, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = admin.Close() }()
	kindtest.Eventually(t, "etcd asks for a password", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, _ = admin.UserAdd(ctx, "root", "p@ss")
		_, _ = admin.UserGrantRole(ctx, "root", "root")
		_, err := admin.AuthEnable(ctx)
		return err == nil
	})
	return addr
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// TestEtcdWithCertificateAndPassword opens an external etcd by --store, --store-ca, --store-cert and --store-key.
func TestEtcdWithCertificateAndPassword(t *testing.T) {
	ours, theirs := newAuthority(t, "ours"), newAuthority(t, "theirs")
	ours.sign("server", false)
	ours.sign("client", false)
	addr := secureEtcd(t, ours)
	good := StoreTLS{CA: ours.file("ours.crt"), Cert: ours.file("client.crt"), Key: ours.file("client.key")}
	for name, tt := range map[string]struct {
		url  string
		tls  StoreTLS
		want string // "" works
	}{
		"everything":          {"etcd://root:p%40ss@" + addr, good, ""},
		"another authority":   {"etcd://root:p%40ss@" + addr, StoreTLS{CA: theirs.file("theirs.crt"), Cert: good.Cert, Key: good.Key}, "check --store"},
		"without certificate": {"etcd://root:p%40ss@" + addr, StoreTLS{CA: good.CA}, "check --store"},
		"without TLS":         {"etcd://root:p%40ss@" + addr, StoreTLS{}, "check --store"},
		"wrong password":      {"etcd://root:wrong@" + addr, good, "check --store"},
		"no such file":        {"etcd://" + addr, StoreTLS{CA: "none.crt"}, "--store-ca cannot be read"},
		"a key is no CA":      {"etcd://" + addr, StoreTLS{CA: ours.file("client.key")}, "--store-ca: expected certificates in PEM"},
		"not its key":         {"etcd://" + addr, StoreTLS{Cert: good.Cert, Key: ours.file("server.key")}, "--store-cert and --store-key"},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := openEngine(t.Context(), Config{Store: tt.url, StoreTLS: tt.tls}, slog.New(slog.DiscardHandler))
			if err == nil {
				defer func() { _ = e.Close() }()
			}
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%v; want %q", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			rev := enginetest.Commit(t, e, enginetest.Put("k", "v"))
			if index, err := e.ReadIndex(t.Context()); err != nil || index < rev {
				t.Errorf("read index %d, %v; want at least %d", index, err, rev)
			}
		})
	}
}

// TestStoreURLs holds that a URL that means nothing is refused, and where certificates go in one that means a database.
func TestStoreURLs(t *testing.T) {
	if _, err := openEngine(t.Context(), Config{Store: "redis://x"}, slog.New(slog.DiscardHandler)); !vortex.IsKind(err, vortex.Invalid) {
		t.Errorf("redis: %v; want Invalid", err)
	}
	files := StoreTLS{CA: "/a b/ca.crt", Cert: "c", Key: "k"}
	for url, want := range map[string]string{
		"postgres://u@h1,h2/d":                 "postgres://u@h1,h2/d?sslrootcert=%2Fa+b%2Fca.crt&sslcert=c&sslkey=k&sslmode=verify-full",
		"postgres://u@h/d?sslmode=verify-ca&x": "postgres://u@h/d?sslmode=verify-ca&x&sslrootcert=%2Fa+b%2Fca.crt&sslcert=c&sslkey=k",
	} {
		if got := files.addTo(url); got != want {
			t.Errorf("%s\n got %s\nwant %s", url, got, want)
		}
	}
}
