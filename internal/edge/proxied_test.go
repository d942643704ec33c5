package edge_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"vortex"
	"vortex/internal/edge"
	"vortex/internal/edge/accesslog"
	"vortex/internal/edge/limit"
	"vortex/internal/edge/proxyproto"
)

var thisMachine = netip.MustParsePrefix("127.0.0.0/8")

// header is what a proxy sends first for a client.
func header(version int, client string) string {
	h := proxyproto.Header{
		Transport: proxyproto.TCP, Source: netip.AddrPortFrom(netip.MustParseAddr(client), 4711), Destination: netip.MustParseAddrPort("198.51.100.1:80"),
	}
	if version == 1 {
		return string(proxyproto.AppendV1(nil, h))
	}
	return string(proxyproto.AppendV2(nil, h))
}

// behindProxies starts an edge behind the proxies of this machine, with an app that tells its X-Forwarded-For.
func behindProxies(t *testing.T, accept vortex.ProxyAcceptance, configure func(*edge.Config)) *harness {
	t.Helper()
	h := start(t, func(c *edge.Config) {
		c.Trusted, c.AcceptProxy = []netip.Prefix{thisMachine, netip.MustParsePrefix("10.0.0.0/8")}, accept
		if configure != nil {
			configure(c)
		}
	})
	h.apply(t, router("web", newBackend(t, "w", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header["X-Forwarded-For"])
	})))
	return h
}

func TestProxiesSayWhoTheirClientIs(t *testing.T) {
	t.Parallel()
	const get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	const told = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.99\r\n\r\n"
	local := string(proxyproto.AppendV2(nil, proxyproto.Header{Local: true}))
	for _, test := range []struct {
		name   string
		accept vortex.ProxyAcceptance
		sent   string
		status int
		body   string
	}{
		{"version 1", vortex.ProxyAcceptanceOptional, header(1, "192.0.2.7") + get, 200, "[192.0.2.7]"},
		{"version 2", vortex.ProxyAcceptanceRequired, header(2, "192.0.2.7") + get, 200, "[192.0.2.7]"},
		{"IPv6", vortex.ProxyAcceptanceRequired, header(2, "2001:db8::7") + get, 200, "[2001:db8::7]"},
		{"the client's own word", vortex.ProxyAcceptanceRequired, header(2, "192.0.2.7") + told, 200, "[192.0.2.7]"},
		{"a proxy behind the proxy", vortex.ProxyAcceptanceRequired, header(1, "10.1.1.1") + told, 200, "[192.0.2.99, 10.1.1.1]"},
		{"the proxy's own", vortex.ProxyAcceptanceRequired, local + get, 200, "[127.0.0.1]"},
		{"unknown", vortex.ProxyAcceptanceRequired, "PROXY UNKNOWN\r\n" + get, 200, "[127.0.0.1]"},
		{"none", vortex.ProxyAcceptanceOptional, told, 200, "[192.0.2.99, 127.0.0.1]"},
		{"none, and a method like it", vortex.ProxyAcceptanceOptional, "PROPFIND" + told[3:], 200, "[192.0.2.99, 127.0.0.1]"},
		{"none, after an empty line", vortex.ProxyAcceptanceOptional, "\r\n" + told, 200, "[192.0.2.99, 127.0.0.1]"},
		{"none where it must be", vortex.ProxyAcceptanceRequired, get, 400, "expected a PROXY protocol header"},
		{"malformed", vortex.ProxyAcceptanceOptional, "PROXY TCP4 192.0.2.7 1.2.3 1 2\r\n" + get, 400, "malformed PROXY protocol header"},
		{"twice", vortex.ProxyAcceptanceOptional, header(1, "192.0.2.7") + header(1, "192.0.2.8") + get, 400, "not a valid HTTP request"},
		{"not expected", "", header(1, "192.0.2.7") + get, 400, "not a valid HTTP request"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := behindProxies(t, test.accept, nil)
			status, _, body := h.raw(t, test.sent)
			if status != test.status || status == 200 && body != test.body || !strings.Contains(body, test.body) {
				t.Errorf("answered %d %s", status, body)
			}
		})
	}
}

// TestProxiedConnectionGoesOn sends the header, and then requests, in pieces of every size.
func TestProxiedConnectionGoesOn(t *testing.T) {
	t.Parallel()
	h := behindProxies(t, vortex.ProxyAcceptanceRequired, nil)
	for _, size := range []int{1, 5, 27, 28, 29, 1000} {
		conn := h.dial(t)
		r := bufio.NewReader(conn)
		send := func(text string) {
			for len(text) > 0 {
				n := min(size, len(text))
				if _, err := io.WriteString(conn, text[:n]); err != nil {
					t.Fatal(err)
				}
				text = text[n:]
			}
		}
		send(header(2, "192.0.2.7"))
		for range 3 {
			send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			if got := read(t, r, "GET"); got.body != "[192.0.2.7]" {
				t.Errorf("in pieces of %d: %+v", size, got)
			}
		}
		send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n" + strings.Repeat("x", 20_000))
		if got := read(t, r, "POST"); got.body != "[192.0.2.7]" {
			t.Errorf("in pieces of %d: %+v", size, got)
		}
	}
}

func TestStrangersAreRefusedWhereProxiesMustSpeak(t *testing.T) {
	t.Parallel()
	for accept, want := range map[vortex.ProxyAcceptance]struct {
		plain, proxied int
	}{
		vortex.ProxyAcceptanceRequired: {403, 403},
		vortex.ProxyAcceptanceOptional: {200, 400},
	} {
		h := behindProxies(t, accept, func(c *edge.Config) { c.Trusted = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} })
		if status, _, body := h.raw(t, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); status != want.plain {
			t.Errorf("%s: a stranger was answered %d %s", accept, status, body)
		}
		if status, _, body := h.raw(t, header(1, "192.0.2.7")+"GET / HTTP/1.1\r\nHost: a\r\n\r\n"); status != want.proxied {
			t.Errorf("%s: a stranger with a header was answered %d %s", accept, status, body)
		}
	}
}

func TestLimitsAreThoseOfTheClientBehindTheProxy(t *testing.T) {
	t.Parallel()
	h := behindProxies(t, vortex.ProxyAcceptanceOptional, func(c *edge.Config) {
		c.Limit = limit.Config{Limit: 2, Window: time.Hour}
		c.ClientLimits.MaxClientConns = 1
	})
	const get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	ask := func(client string) int {
		status, _, _ := h.raw(t, header(2, client)+strings.Replace(get, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1))
		return status
	}
	conn := h.dial(t)
	fmt.Fprint(conn, header(2, "192.0.2.1")+get)
	if got := read(t, bufio.NewReader(conn), "GET"); got.status != 200 {
		t.Fatalf("got %+v", got)
	}
	if status, _, body := h.raw(t, header(2, "192.0.2.1")+get); status != 429 || !strings.Contains(body, "too many connections") {
		t.Errorf("its second connection: %d %s", status, body)
	}
	if status := ask("192.0.2.2"); status != 200 {
		t.Errorf("another client: %d", status)
	}
	conn.Close()
	eventually(t, "room for another connection", func() bool { return ask("192.0.2.1") == 200 })
	if status := ask("192.0.2.1"); status != 429 {
		t.Errorf("its third request: %d", status)
	}
}

func TestAccessLogHasWhatWasRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "access.log")
	access, err := accesslog.Open(accesslog.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	h := behindProxies(t, vortex.ProxyAcceptanceRequired, func(c *edge.Config) {
		c.Access, c.HTTP.HeaderTimeout = access, 300*time.Millisecond
	})
	for _, sent := range []string{
		"GET /first HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET /bad?secret HTTP/1.1\r\nHost: a.example\r\nUser-Agent: x\r\nBad Field: y\r\n\r\n",
		"GET /two HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
		"GET /slow HTTP/1.1\r\nHost: a\r\n",
		"GET /large HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 70_000),
		"nonsense\r\n\r\n",
	} {
		h.raw(t, header(1, "192.0.2.7")+sent)
	}
	h.raw(t, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	for _, want := range [][]string{
		{`"path":"/first"`, `"status":200`},
		{`"method":"GET","host":"a.example","path":"/bad","agent":"x","time"`, `"client":"192.0.2.7","status":400`},
		{`"path":"/two"`, `"status":400`},
		{`"method":"GET","host":"","path":"/slow"`, `"status":408`},
		{`"path":"/large"`, `"status":431`},
		{`"method":"","host":"","path":"","time"`, `"status":400`},
		{`"client":"127.0.0.1","status":400`},
	} {
		if !slices.ContainsFunc(lines, func(line string) bool {
			return !slices.ContainsFunc(want, func(part string) bool { return !strings.Contains(line, part) })
		}) {
			t.Errorf("no line has all of %s\n%s", want, log)
		}
	}
	if strings.Contains(string(log), "secret") {
		t.Errorf("the log has a query\n%s", log)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(h.edge.Collector())
	page := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
	if !strings.Contains(page.Body.String(), "\nvortex_edge_access_log_lost_total 0\n") {
		t.Error("the lost lines are no metric")
	}
}
