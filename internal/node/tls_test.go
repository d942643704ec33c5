package node

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vortex/client"
)

// ca signs certificates.
type ca struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newCA(t *testing.T, name string) *ca {
	t.Helper()
	c := &ca{t: t, dir: t.TempDir()}
	c.key = newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &c.key.PublicKey, c.key)
	if err != nil {
		t.Fatal(err)
	}
	if c.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	c.file = filepath.Join(c.dir, "ca.crt")
	writePEM(t, c.file, "CERTIFICATE", der)
	return c
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func writePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// sign writes a certificate and its key, valid for the loopback address until a time.
func (c *ca) sign(file string, subject pkix.Name, until time.Time) (cert, key string) {
	c.t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		c.t.Fatal(err)
	}
	private := newKey(c.t)
	template := &x509.Certificate{
		SerialNumber: serial, Subject: subject, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.cert, &private.PublicKey, c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		c.t.Fatal(err)
	}
	cert, key = filepath.Join(c.dir, file+".crt"), filepath.Join(c.dir, file+".key")
	writePEM(c.t, cert, "CERTIFICATE", der)
	writePEM(c.t, key, "PRIVATE KEY", raw)
	return cert, key
}

func TestWrongCertificatesAreRefusedWithTheReason(t *testing.T) {
	authority := newCA(t, "ca")
	hour := time.Now().Add(time.Hour)
	cert, key := authority.sign("server", pkix.Name{CommonName: "server"}, hour)
	_, otherKey := authority.sign("other", pkix.Name{CommonName: "other"}, hour)
	oldCert, oldKey := authority.sign("old", pkix.Name{CommonName: "old"}, time.Now().Add(-time.Hour))
	for want, files := range map[string]TLS{
		"no such file":         {Cert: cert + "x", Key: key},
		"does not match":       {Cert: cert, Key: otherKey},
		"expired on":           {Cert: oldCert, Key: oldKey},
		"holds no certificate": {Cert: cert, Key: key, ClientCA: key},
		"cannot be read":       {Cert: cert, Key: key, ClientCA: filepath.Join(authority.dir, "none")},
	} {
		if _, err := openCertificates(files, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v; want %q", files, err, want)
		}
	}
}

func TestCertificatesAreReadAgainWhenTheyChange(t *testing.T) {
	authority := newCA(t, "ca")
	cert, key := authority.sign("server", pkix.Name{CommonName: "first"}, time.Now().Add(time.Hour))
	c, err := openCertificates(TLS{Cert: cert, Key: key}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", c.config(false, "h2"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.(*tls.Conn).HandshakeContext(t.Context())
			_ = conn.Close()
		}
	}()
	served := func() string {
		t.Helper()
		trust, err := client.TLS{CA: authority.file}.Config()
		if err != nil {
			t.Fatal(err)
		}
		conn, err := (&tls.Dialer{Config: trust}).DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	if got := served(); got != "first" {
		t.Errorf("serves %s", got)
	}
	authority.sign("server", pkix.Name{CommonName: "the second, which is longer"}, time.Now().Add(time.Hour))
	if got := served(); got != "the second, which is longer" {
		t.Errorf("still serves %s", got)
	}
	if err := os.WriteFile(cert, []byte("half a fi"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := served(); got != "the second, which is longer" {
		t.Errorf("with a damaged file it serves %s", got)
	}
}
