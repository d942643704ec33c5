package edge_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"vortex"
	"vortex/internal/edge"
	"vortex/internal/edge/proxyproto"
)

// introducing accepts connections that begin with a header of the PROXY protocol, and makes them those of the client it tells.
type introducing struct{ net.Listener }

// told is a connection of a client that a header told.
type told struct {
	net.Conn

	in     *bufio.Reader
	client net.Addr
}

func (c *told) Read(p []byte) (int, error) { return c.in.Read(p) }
func (c *told) RemoteAddr() net.Addr       { return c.client }

func (l introducing) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &told{Conn: conn, in: bufio.NewReader(conn), client: &net.TCPAddr{}}
	if !c.introduced() {
		_ = conn.Close() // the request fails
	}
	return c, nil
}

// introduced takes in the header, and reports whether there was one.
func (c *told) introduced() bool {
	for n := 1; ; {
		if _, err := c.in.Peek(n); err != nil {
			return false
		}
		begin, _ := c.in.Peek(c.in.Buffered())
		h, size, err := proxyproto.Parse(begin)
		switch {
		case err == nil:
			_, _ = c.in.Discard(size)
			c.client = net.TCPAddrFromAddrPort(h.Source)
			return true
		case !errors.Is(err, proxyproto.ErrShort):
			return false
		}
		n = len(begin) + 1
	}
}

// newIntroduced is a backend that is told its clients by the PROXY protocol, and answers with the client and the body's length.
func newIntroduced(t *testing.T) *backend {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr, _ := ln.Addr().(*net.TCPAddr)
	b := &backend{name: "w", addr: addr, server: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprint(w, host, " ", n)
	})}}
	go func() { _ = b.server.Serve(introducing{ln}) }()
	t.Cleanup(func() { b.server.Close() })
	return b
}

func TestAppIsToldTheClientByPROXYProtocol(t *testing.T) {
	t.Parallel()
	for _, version := range []vortex.ProxyVersion{vortex.ProxyVersionV1, vortex.ProxyVersionV2} {
		t.Run(string(version), func(t *testing.T) {
			t.Parallel()
			route := vortex.Route{Rules: []vortex.RouteRule{{RoutePolicy: vortex.RoutePolicy{ProxyProtocol: version}}}}
			h := ruled(t, route, func(c *edge.Config) {
				c.Trusted, c.AcceptProxy = []netip.Prefix{thisMachine}, vortex.ProxyAcceptanceOptional
			}, newIntroduced(t))
			c := client(t)
			for range 3 { // on one connection of the client's
				if status, body := h.get(t, c, "a", "/"); status != http.StatusOK || body != "127.0.0.1 0" {
					t.Errorf("answered %d %s", status, body)
				}
			}
			resp := h.do(t, c, http.MethodPost, "a", "/", strings.NewReader(strings.Repeat("x", 1<<20)))
			body, err := io.ReadAll(resp.Body)
			if resp.Body.Close(); err != nil || string(body) != fmt.Sprintf("127.0.0.1 %d", 1<<20) {
				t.Errorf("a large body: %s, %v", body, err)
			}
			for sent, want := range map[string]string{
				header(1, "192.0.2.7") + "GET / HTTP/1.1\r\nHost: a\r\n\r\n":       "192.0.2.7 0",
				header(2, "2001:db8::7") + "GET / HTTP/1.1\r\nHost: a\r\n\r\n":     "2001:db8::7 0",
				"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.99\r\n\r\n": "192.0.2.99 0",
			} {
				if status, _, got := h.raw(t, sent); status != http.StatusOK || got != want {
					t.Errorf("a proxy's client: answered %d %q; want %q", status, got, want)
				}
			}
		})
	}
}
