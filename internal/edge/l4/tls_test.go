package l4_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"vortex/internal/edge/l4"
	"vortex/internal/edge/pool"
	"vortex/internal/edge/proxyproto"
)

// certificate makes a certificate for any of the names.
func certificate(t *testing.T, names ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: names, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// secure is a backend that ends TLS itself, and says its name and the protocol agreed on.
func secure(t *testing.T, name string, protocols ...string) pool.Endpoint {
	t.Helper()
	config := &tls.Config{Certificates: []tls.Certificate{certificate(t, name)}, NextProtos: protocols} //nolint:gosec // the default is good
	return backend(t, name, func(c *net.TCPConn) {
		s := tls.Server(c, config)
		if s.Handshake() == nil {
			_, _ = io.WriteString(s, name+" "+s.ConnectionState().NegotiatedProtocol)
			_ = s.Close()
		}
	})
}

// slow writes byte by byte, the way that cuts everything everywhere.
type slow struct{ net.Conn }

func (s slow) Write(b []byte) (int, error) {
	for i := range b {
		if _, err := s.Conn.Write(b[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(b), nil
}

// hear returns what the backend of a server name says, or the error.
func hear(t *testing.T, conn net.Conn, name string, protocols ...string) string {
	t.Helper()
	c := tls.Client(conn, &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: protocols}) //nolint:gosec // the name it says is what counts
	b, err := io.ReadAll(c)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func TestTLSIsPassedThroughByName(t *testing.T) {
	h := start(t, nil)
	port := freePort(t)
	h.apply(t, "a", l4.Service{First: port, Names: []string{"a.example"}, Endpoints: []pool.Endpoint{secure(t, "a.example")}})
	h.apply(t, "b", l4.Service{First: port, Names: []string{"*.b.example"}, Endpoints: []pool.Endpoint{secure(t, "*.b.example", "h2", "x")}})
	h.apply(t, "c", l4.Service{First: port, Names: []string{"*.b.example"}, ALPN: []string{"acme-tls/1"}, Endpoints: []pool.Endpoint{secure(t, "acme", "acme-tls/1")}})
	for _, test := range []struct {
		name      string
		protocols []string
		want      string
	}{
		{"a.example", nil, "a.example "},
		{"A.EXAMPLE", nil, "a.example "},
		{"x.b.example", []string{"h2"}, "*.b.example h2"},
		{"x.y.b.example", nil, "*.b.example "},
		{"x.b.example", []string{"acme-tls/1"}, "acme acme-tls/1"},
		{"c.example", nil, "remote error: tls: unrecognized name"},
	} {
		if got := hear(t, dial(t, port), test.name, test.protocols...); got != test.want {
			t.Errorf("%s %v: %q, want %q", test.name, test.protocols, got, test.want)
		}
		if got := hear(t, slow{dial(t, port)}, test.name, test.protocols...); got != test.want {
			t.Errorf("%s %v byte by byte: %q, want %q", test.name, test.protocols, got, test.want)
		}
	}
	if got := ask(t, port, "GET / HTTP/1.1\r\n\r\n"); !strings.Contains(got, "reset") {
		t.Errorf("plain HTTP where nobody takes it: %q", got)
	}
	h.apply(t, "rest", l4.Service{First: port, Endpoints: []pool.Endpoint{backend(t, "rest", echo)}})
	if got, _ := tell(t, port, "GET / HTTP/1.1\r\n\r\n"); got != "GET / HTTP/1.1\r\n\r\n" {
		t.Errorf("plain HTTP: %q", got)
	}
	if got := hear(t, dial(t, port), "a.example"); got != "a.example " {
		t.Errorf("a.example: %q", got)
	}
}

func TestServerThatSpeaksFirstOnASharedPort(t *testing.T) {
	h := start(t, func(c *l4.Config) { c.HeadTimeout = 50 * time.Millisecond })
	port := freePort(t)
	h.apply(t, "a", l4.Service{First: port, Names: []string{"a.example"}, Endpoints: []pool.Endpoint{secure(t, "a.example")}})
	if _, err := io.ReadAll(dial(t, port)); err == nil {
		t.Error("a client that says nothing was not cut")
	}
	h.apply(t, "rest", l4.Service{First: port, Endpoints: []pool.Endpoint{backend(t, "rest", saying("hello"))}})
	if got := ask(t, port, ""); got != "hello" {
		t.Errorf("got %q", got)
	}
}

// told is a backend that says which PROXY header it got, and what came after it.
func told(t *testing.T) pool.Endpoint {
	t.Helper()
	return backend(t, "told", func(c *net.TCPConn) {
		b, err := io.ReadAll(c)
		if err != nil {
			return
		}
		h, n, err := proxyproto.Parse(b)
		if err != nil {
			_, _ = io.WriteString(c, err.Error())
			return
		}
		_, _ = io.WriteString(c, h.Source.String()+" "+h.Destination.Addr().String()+" "+string(b[n:]))
	})
}

// tell sends text and its end, and returns the answer.
func tell(t *testing.T, port uint16, text string) (answer string, self netip.AddrPort) {
	t.Helper()
	c, err := dialTCP(port)
	if err != nil {
		return err.Error(), self // refused before it was there
	}
	defer c.Close()
	self = c.LocalAddr().(*net.TCPAddr).AddrPort()
	_, _ = io.WriteString(c, text)
	_ = c.CloseWrite()
	b, err := io.ReadAll(c)
	if err != nil {
		return err.Error(), self
	}
	return string(b), self
}

func TestBackendIsToldTheClient(t *testing.T) {
	h := start(t, nil)
	for _, version := range []int{1, 2} {
		port := freePort(t)
		h.apply(t, "app", l4.Service{First: port, SendProxy: version, Endpoints: []pool.Endpoint{told(t)}})
		if got, self := tell(t, port, "hello"); got != self.String()+" 127.0.0.1 hello" {
			t.Errorf("version %d: %q from %s", version, got, self)
		}
	}
}

func TestOnlyTrustedProxiesAreBelieved(t *testing.T) {
	header := "PROXY TCP4 192.0.2.7 198.51.100.1 1234 443\r\n"
	local := "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
	for _, test := range []struct {
		trusted bool
		accept  l4.Acceptance
		say     string
		want    string // SELF is the client's own address
	}{
		{true, l4.AcceptRequired, header + "hello", "192.0.2.7:1234 198.51.100.1 hello"},
		{true, l4.AcceptRequired, local + "hello", "SELF 127.0.0.1 hello"},
		{true, l4.AcceptRequired, "hello, no header", "reset"},
		{true, l4.AcceptRequired, header[:10], "reset"},
		{true, l4.AcceptTrusted, header + "hello", "192.0.2.7:1234 198.51.100.1 hello"},
		{true, l4.AcceptNever, header + "hello", "SELF 127.0.0.1 " + header + "hello"},
		{false, l4.AcceptRequired, header + "hello", "reset"},
		{false, l4.AcceptTrusted, header + "hello", "SELF 127.0.0.1 " + header + "hello"},
		{false, l4.AcceptTrusted, "hello", "SELF 127.0.0.1 hello"},
	} {
		h := start(t, func(c *l4.Config) {
			if test.trusted {
				c.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
			}
		})
		port := freePort(t)
		h.apply(t, "app", l4.Service{First: port, Accept: test.accept, SendProxy: 2, Endpoints: []pool.Endpoint{told(t)}})
		got, self := tell(t, port, test.say)
		want := strings.ReplaceAll(test.want, "SELF", self.String())
		if got != want && (want != "reset" || !strings.Contains(got, "reset")) {
			t.Errorf("trusted %v, accept %d, %q: got %q, want %q", test.trusted, test.accept, test.say, got, want)
		}
	}
}

func TestHeaderAndHelloTogether(t *testing.T) {
	h := start(t, func(c *l4.Config) { c.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} })
	port := freePort(t)
	h.apply(t, "a", l4.Service{
		First: port, Names: []string{"a.example"}, Accept: l4.AcceptRequired, Endpoints: []pool.Endpoint{secure(t, "a.example")},
	})
	c := dial(t, port)
	header := proxyproto.AppendV2(nil, proxyproto.Header{
		Transport: proxyproto.TCP, Source: netip.MustParseAddrPort("192.0.2.7:1"), Destination: netip.MustParseAddrPort("192.0.2.8:2"),
		TLVs: proxyproto.AppendTLV(nil, proxyproto.TypeNoop, bytes.Repeat([]byte{0}, 3000)),
	})
	if _, err := c.Write(header); err != nil {
		t.Fatal(err)
	}
	if got := hear(t, c, "a.example"); got != "a.example " {
		t.Errorf("got %q", got)
	}
}
