package edge_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/bcrypt"

	"vortex"
	"vortex/internal/edge"
	"vortex/internal/edge/accesslog"
)

// handedOver returns how many connections have left a lane.
func (h *harness) handedOver(t *testing.T) int {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(h.edge.Collector())
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "vortex_edge_handed_over_total" {
			return int(f.GetMetric()[0].GetCounter().GetValue())
		}
	}
	t.Fatal("no vortex_edge_handed_over_total")
	return 0
}

// laned reports whether the edge has lanes: a request of an old client leaves them.
func (h *harness) laned(t *testing.T) bool {
	t.Helper()
	before := h.handedOver(t)
	h.raw(t, "GET / HTTP/1.0\r\nHost: web.localhost\r\n\r\n")
	return h.handedOver(t) > before
}

// askOn sends a request on a connection and returns its answer.
func askOn(t *testing.T, conn net.Conn, in *bufio.Reader, method, target string, fields ...string) response {
	t.Helper()
	text := method + " " + target + " HTTP/1.1\r\nHost: web.localhost\r\n" + strings.Join(append(fields, "\r\n"), "\r\n")
	if len(fields) == 0 {
		text = method + " " + target + " HTTP/1.1\r\nHost: web.localhost\r\n\r\n"
	}
	if _, err := io.WriteString(conn, strings.TrimSuffix(text, "\r\n\r\n")+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	return read(t, in, method)
}

// everything is a route with each of the rules that a lane holds to.
func everything(t *testing.T) (vortex.Route, []vortex.RateLimit) {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte("pw"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	on := func(path string, p vortex.RoutePolicy) vortex.RouteRule {
		return vortex.RouteRule{Paths: []string{path}, RoutePolicy: p}
	}
	return vortex.Route{Rules: []vortex.RouteRule{
		on("/old", vortex.RoutePolicy{Redirect: &vortex.Redirect{To: "/new"}}),
		on("/closed", vortex.RoutePolicy{Maintenance: &vortex.Maintenance{Body: "back soon"}}),
		on("/cors", vortex.RoutePolicy{Cors: &vortex.Cors{Origins: []string{"https://a.example"}}}),
		on("/private", vortex.RoutePolicy{BasicAuth: &vortex.BasicAuth{Users: map[string]string{"ann": string(hash)}}}),
		on("/small", vortex.RoutePolicy{Limits: &vortex.RequestLimits{Body: "10", Headers: "200"}}),
		on("/timed", vortex.RoutePolicy{
			Timeouts: &vortex.Timeouts{
				Connect: vortex.Duration(time.Minute), PerTry: vortex.Duration(time.Minute), Idle: vortex.Duration(time.Minute), Total: vortex.Duration(time.Minute),
			},
			Retry: &vortex.Retry{Attempts: new(uint32(2)), Statuses: []uint16{503}, OnTimeout: new(true)},
		}),
		on("/id", vortex.RoutePolicy{RequestID: new(true)}),
		on("/packed", vortex.RoutePolicy{Compress: &vortex.Compress{MinSize: "1"}}),
	}}, []vortex.RateLimit{{Limit: 3, Window: vortex.Duration(time.Hour), Paths: []string{"/seldom"}}}
}

// TestRulesOnOneConnection asks for what each rule does on one connection, which stays with its lane.
func TestRulesOnOneConnection(t *testing.T) {
	t.Parallel()
	route, rates := everything(t)
	h := start(t, nil)
	rec := router("web", newBackend(t, "web-1", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.Copy(w, r.Body)
		fmt.Fprint(w, "app")
	}))
	rec.Rules, rec.Rate = route.EffectiveRules(), rates
	h.apply(t, rec)
	laned := h.laned(t)
	conn := h.dial(t)
	in := bufio.NewReader(conn)
	const right = "Authorization: Basic YW5uOnB3" // ann:pw
	if got := askOn(t, conn, in, "GET", "/private", right); got.status != 200 {
		t.Fatalf("a password that is checked: %d %s", got.status, got.body)
	}
	eventually(t, "the connection to be back in its lane", func() bool {
		before := h.handedOver(t)
		askOn(t, conn, in, "GET", "/")
		return h.handedOver(t) == before && askOn(t, conn, in, "GET", "/").status == 200 && h.handedOver(t) == before
	})
	before := h.handedOver(t)
	for round := range 2 {
		for _, test := range []struct {
			request string // method, target, fields
			status  int
			want    string // in the answer's header or body
		}{
			{"GET /", 200, "app"},
			{"GET /old?x=1", 308, "/new?x=1"},
			{"HEAD /old", 308, "/new"},
			{"GET /closed", 503, "back soon"},
			{"HEAD /closed", 503, "text/html"},
			{"OPTIONS /cors|Origin: https://a.example|Access-Control-Request-Method: GET", 204, "https://a.example"},
			{"OPTIONS /cors|Origin: https://b.example|Access-Control-Request-Method: GET", 403, "ORIGIN_NOT_ALLOWED"},
			{"GET /cors|Origin: https://a.example", 200, "https://a.example"},
			{"GET /private", 401, "UNAUTHENTICATED"},
			{"GET /private|" + right, 200, "app"},
			{"GET /small", 200, "app"},
			{"GET /small|X-Long: " + strings.Repeat("x", 300), 431, "HEADERS_TOO_LARGE"},
			{"GET /timed", 200, "app"},
			{"GET /id", 200, "X-Request-Id"},
			{"GET /packed", 200, "Vary:[Accept-Encoding]"},
			{"GET /seldom", []int{200, 200}[round], "RateLimit-Remaining:[" + strconv.Itoa(2-round)},
			{"GET /", 200, "app"},
		} {
			fields := strings.Split(test.request, "|")
			method, target, _ := strings.Cut(fields[0], " ")
			got := askOn(t, conn, in, method, target, fields[1:]...)
			header := strings.ReplaceAll(fmt.Sprint(got.header), "Ratelimit", "RateLimit")
			if got.status != test.status || !strings.Contains(header+got.body, test.want) || got.header.Get("Connection") != "" {
				t.Errorf("%s: %d %s %q, want %d with %q", test.request, got.status, header, got.body, test.status, test.want)
			}
		}
		if got := askOn(t, conn, in, "GET", "/x/../nobody"); got.status != 200 {
			t.Errorf("a path to be resolved: %d", got.status)
		}
	}
	for _, want := range []int{200, 429, 429} {
		if got := askOn(t, conn, in, "GET", "/seldom"); got.status != want || got.header.Get("RateLimit-Limit") != "3" || (want == 429) != (got.header.Get("Retry-After") != "") {
			t.Errorf("/seldom: %d %v, want %d", got.status, got.header, want)
		}
	}
	fmt.Fprint(conn, "POST /small HTTP/1.1\r\nHost: web.localhost\r\nContent-Length: 11\r\n\r\n12345678901GET / HTTP/1.1\r\nHost: web.localhost\r\n\r\n")
	if got := read(t, in, "POST"); got.status != 413 {
		t.Errorf("a body of 11 bytes: %d %s", got.status, got.body)
	}
	if !laned {
		return
	}
	if got := read(t, in, "GET"); got.status != 200 { // the body was read, so the connection goes on
		t.Errorf("behind a body of 11 bytes: %d %s", got.status, got.body)
	}
	if n := h.handedOver(t); n != before {
		t.Errorf("%d requests left the lane", n-before)
	}
	if got := askOn(t, conn, in, "GET", "/packed", "Accept-Encoding: gzip"); got.header.Get("Content-Encoding") != "gzip" {
		t.Errorf("what is to be compressed: %d %v", got.status, got.header)
	}
	if n := h.handedOver(t); n != before+1 {
		t.Errorf("%d requests left the lane for a body that is compressed, want 1", n-before)
	}
}

// TestClientOverItsLimitIsTurnedAway has the limit of each address refuse a request, behind which others were sent already.
func TestClientOverItsLimitIsTurnedAway(t *testing.T) {
	t.Parallel()
	h := start(t, func(c *edge.Config) { c.Limit.Limit, c.Limit.Window = 2, time.Hour })
	h.apply(t, router("web", newBackend(t, "web-1", named("app"))))
	conn := h.dial(t)
	in := bufio.NewReader(conn)
	fmt.Fprint(conn, strings.Repeat("GET / HTTP/1.1\r\nHost: web.localhost\r\n\r\n", 5))
	for _, want := range []int{200, 200, 429} {
		if got := read(t, in, "GET"); got.status != want {
			t.Errorf("%d %s, want %d", got.status, got.body, want)
		}
	}
	if _, err := in.ReadByte(); err != io.EOF {
		t.Errorf("after the refusal: %v, want the end", err)
	}
	if n := h.handedOver(t); n != 0 {
		t.Errorf("%d connections left their lane", n)
	}
}

// logged reads an access log by path.
func logged(t *testing.T, path string) map[string]map[string]any {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string]map[string]any{}
	for line := range strings.Lines(string(text)) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		at := fmt.Sprint(fields["path"])
		if lines[at] != nil {
			t.Errorf("there is more than one line for %s:\n%s", at, text)
		}
		lines[at] = fields
	}
	return lines
}

// TestAccessLogTellsEveryEnd has requests end in every way that a line tells.
func TestAccessLogTellsEveryEnd(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "access.log")
	access, err := accesslog.Open(accesslog.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	arrived := make(chan struct{}, 1)
	answer := func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/wait":
			arrived <- struct{}{}
			<-r.Context().Done()
		case "/lost":
			panic(http.ErrAbortHandler)
		case "/chunks":
			fmt.Fprint(w, "12345")
			_ = http.NewResponseController(w).Flush()
			fmt.Fprint(w, "67890")
		default:
			fmt.Fprint(w, "hello")
		}
	}
	sick := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/better" {
			answer(w, r)
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	h := start(t, func(c *edge.Config) { c.Access = access })
	rec := router("web", newBackend(t, "web-1", sick))
	route := vortex.Route{Rules: []vortex.RouteRule{
		{Paths: []string{"/old"}, RoutePolicy: vortex.RoutePolicy{Redirect: &vortex.Redirect{To: "/new"}}},
		{Paths: []string{"/quiet"}, RoutePolicy: vortex.RoutePolicy{AccessLog: &vortex.AccessLog{Enabled: new(false)}}},
		{Paths: []string{"/better"}, RoutePolicy: vortex.RoutePolicy{Retry: &vortex.Retry{Statuses: []uint16{503}}}},
		{Paths: []string{"/id"}, RoutePolicy: vortex.RoutePolicy{RequestID: new(true)}},
		{Paths: []string{"/packed"}, RoutePolicy: vortex.RoutePolicy{Compress: &vortex.Compress{MinSize: "1"}}},
	}}
	rec.Rules = route.EffectiveRules()
	rec.Rate = []vortex.RateLimit{{Limit: 1, Window: vortex.Duration(time.Hour), Paths: []string{"/seldom"}}}
	h.apply(t, rec)
	conn := h.dial(t)
	in := bufio.NewReader(conn)
	for _, target := range []string{"/plain?secret=1", "/chunks", "/old", "/quiet", "/seldom"} {
		if target == "/seldom" {
			askOn(t, conn, in, "GET", target+"/x") // another path, which counts as well
		}
		askOn(t, conn, in, "GET", target, "User-Agent: test")
	}
	id := askOn(t, conn, in, "GET", "/id").header.Get("X-Request-Id")
	askOn(t, conn, in, "POST", "/lost", "Content-Length: 0")
	askOn(t, conn, in, "GET", "/packed", "Accept-Encoding: gzip")
	rec.Backends = append(rec.Backends, router("web", newBackend(t, "web-2", answer)).Backends...)
	h.apply(t, rec)
	for range 20 { // until the sick one was asked first
		if got := askOn(t, conn, in, "GET", "/better"); got.status != 200 {
			t.Errorf("/better: %d", got.status)
		}
	}
	gone := h.dial(t)
	fmt.Fprint(gone, "GET /wait HTTP/1.1\r\nHost: web.localhost\r\n\r\n")
	<-arrived
	gone.Close()
	eventually(t, "the request of the client that left to end", func() bool { return h.edge.Status().Apps[0].Traffic.InFlight == 0 })
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var rest []string
	better := map[string]int{}
	for line := range strings.Lines(string(text)) {
		if !strings.Contains(line, `"/better"`) {
			rest = append(rest, line)
			continue
		}
		for _, tries := range []string{"1", "2"} {
			if strings.Contains(line, `"status":200,"bytes":5,`) && strings.Contains(line, `"tries":`+tries) {
				better[tries]++
			}
		}
	}
	if better["1"]+better["2"] != 20 || better["2"] == 0 {
		t.Errorf("of 20 requests some of which were sent twice the log has %v:\n%s", better, text)
	}
	if err := os.WriteFile(path, []byte(strings.Join(rest, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	lines := logged(t, path)
	for at, want := range map[string]string{
		"/plain":    "200 5 web 1 <nil>",
		"/chunks":   "200 10 web 1 <nil>",
		"/old":      "308 9 web <nil> <nil>",
		"/seldom/x": "200 5 web 1 <nil>",
		"/id":       "200 5 web 1 " + id,
		"/wait":     "499 0 web 1 <nil>",
	} {
		l := lines[at]
		if got := fmt.Sprint(l["status"], " ", l["bytes"], " ", l["app"], " ", l["tries"], " ", l["id"]); got != want || l["client"] != "127.0.0.1" {
			t.Errorf("%s: %s of %v, want %s", at, got, l, want)
		}
	}
	for at, status := range map[string]float64{"/seldom": 429, "/lost": 502, "/packed": 200} {
		if lines[at]["status"] != status {
			t.Errorf("%s: %v, want %v", at, lines[at], status)
		}
	}
	if len(lines) != 9 || lines["/plain"]["agent"] != "test" || strings.Contains(string(text), "secret") {
		t.Errorf("the log has %d lines, or tells a secret:\n%s", len(lines), text)
	}
}

// TestIdleConnectionsAreCounted also has the ones of lanes.
func TestIdleConnectionsAreCounted(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	var together sync.WaitGroup
	together.Add(3)
	h.apply(t, router("web", newBackend(t, "web-1", func(http.ResponseWriter, *http.Request) {
		together.Done()
		together.Wait()
	})))
	var answered sync.WaitGroup
	for range 3 {
		conn := h.dial(t)
		answered.Go(func() { askOn(t, conn, bufio.NewReader(conn), "GET", "/") })
	}
	answered.Wait()
	eventually(t, "three idle connections", func() bool { return h.edge.Status().Apps[0].Backends[0].Idle == 3 })
	h.apply(t, router("web"))
	eventually(t, "the backend to be gone", func() bool { return len(h.edge.Status().Apps[0].Backends) == 0 })
}

// TestEndsUnderRules has clients and backends end at every stage of a request that is limited, timed, logged and may be sent again. Nothing may be left.
func TestEndsUnderRules(t *testing.T) {
	t.Parallel()
	access, err := accesslog.Open(accesslog.Config{Path: filepath.Join(t.TempDir(), "access.log")})
	if err != nil {
		t.Fatal(err)
	}
	var active atomic.Int64
	backend := func(w http.ResponseWriter, r *http.Request) {
		active.Add(1)
		defer active.Add(-1)
		_, _ = io.Copy(io.Discard, r.Body)
		switch r.URL.Path {
		case "/status":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/body":
			fmt.Fprint(w, "begun")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		case "/slow":
			<-r.Context().Done()
		case "/reset", "/reset/body":
			conn, out, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			if r.URL.Path == "/reset/body" {
				_, _ = io.WriteString(out, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
				_ = out.Flush()
			}
			_ = conn.(*net.TCPConn).SetLinger(0) //nolint:forcetypeassert // it is
			_ = conn.Close()
		}
	}
	h := start(t, func(c *edge.Config) { c.Access = access })
	rec := router("web", newBackend(t, "web-1", backend), newBackend(t, "web-2", backend))
	route := vortex.Route{
		RoutePolicy: vortex.RoutePolicy{
			RequestID: new(true),
			Timeouts:  &vortex.Timeouts{PerTry: vortex.Duration(300 * time.Millisecond), Idle: vortex.Duration(300 * time.Millisecond), Total: vortex.Duration(2 * time.Second)},
			Retry:     &vortex.Retry{Statuses: []uint16{503}, OnTimeout: new(true)},
		},
		Rules: []vortex.RouteRule{{Paths: []string{"/closed"}, RoutePolicy: vortex.RoutePolicy{Maintenance: &vortex.Maintenance{Body: strings.Repeat("closed ", 1000)}}}},
	}
	rec.Rules = route.EffectiveRules()
	rec.Rate = []vortex.RateLimit{{Limit: 1_000_000, Window: vortex.Duration(time.Hour)}}
	h.apply(t, rec)
	stages := map[string]func(conn *net.TCPConn){
		"within the head": func(conn *net.TCPConn) { fmt.Fprint(conn, "GET /closed HTTP/1.1\r\nHo") },
		"behind answers unread": func(conn *net.TCPConn) {
			fmt.Fprint(conn, strings.Repeat("GET /closed HTTP/1.1\r\nHost: web.localhost\r\n\r\n", 50))
		},
		"waiting": func(conn *net.TCPConn) { fmt.Fprint(conn, "GET /slow HTTP/1.1\r\nHost: web.localhost\r\n\r\n") },
		"within the body": func(conn *net.TCPConn) {
			askOn(t, conn, bufio.NewReader(conn), "HEAD", "/")
			fmt.Fprint(conn, "GET /body HTTP/1.1\r\nHost: web.localhost\r\n\r\n")
		},
		"while it is sent again": func(conn *net.TCPConn) { fmt.Fprint(conn, "GET /status HTTP/1.1\r\nHost: web.localhost\r\n\r\n") },
		"while a backend resets": func(conn *net.TCPConn) {
			fmt.Fprint(conn, "PUT /reset HTTP/1.1\r\nHost: web.localhost\r\nContent-Length: 2\r\n\r\nxy")
		},
		"while it resets the body": func(conn *net.TCPConn) { fmt.Fprint(conn, "GET /reset/body HTTP/1.1\r\nHost: web.localhost\r\n\r\n") },
	}
	var all sync.WaitGroup
	for _, reach := range stages {
		for i := range 40 {
			all.Go(func() {
				conn := h.dial(t)
				reach(conn)
				switch i % 4 {
				case 0:
					_ = conn.SetLinger(0)
				case 1:
					_ = conn.CloseWrite()
				case 2:
					_, _ = io.Copy(io.Discard, io.LimitReader(conn, 100))
				case 3:
					time.Sleep(time.Duration(i) * time.Millisecond) // somewhere within
				}
				conn.Close()
			})
		}
	}
	all.Wait()
	eventually(t, "everything to have ended", func() bool {
		app := h.edge.Status().Apps[0]
		left := slices.ContainsFunc(app.Backends, func(b edge.BackendStatus) bool { return b.InFlight != 0 })
		return !left && app.Traffic.InFlight == 0 && app.Traffic.Connections == 0 && active.Load() == 0
	})
	conn := h.dial(t)
	if got := askOn(t, conn, bufio.NewReader(conn), "GET", "/"); got.status != 200 {
		t.Errorf("afterwards: %d", got.status)
	}
}

// TestMoreAtOnceThanTheRingHolds sends more requests at the same moment than a lane's ring has room for.
func TestMoreAtOnceThanTheRingHolds(t *testing.T) {
	t.Parallel()
	const clients, each = 300, 8
	h := start(t, func(c *edge.Config) {
		if c.HTTP.Lanes == 0 {
			c.HTTP.Lanes = 1
		}
	})
	h.apply(t, router("web", newBackend(t, "web-1", named("app"))))
	requests := strings.Repeat("GET / HTTP/1.1\r\nHost: web.localhost\r\n\r\n", 2*each)
	var conns []*net.TCPConn
	for range clients {
		conns = append(conns, h.dial(t))
	}
	var all sync.WaitGroup
	for _, conn := range conns {
		all.Go(func() {
			if _, err := io.WriteString(conn, requests); err != nil {
				t.Error(err)
				return
			}
			in := bufio.NewReader(conn)
			for n := range 2 * each {
				resp, err := http.ReadResponse(in, nil)
				if err != nil {
					t.Errorf("answer %d: %v", n, err)
					return
				}
				_, err = io.Copy(io.Discard, resp.Body)
				if err != nil || resp.StatusCode != http.StatusOK {
					t.Errorf("answer %d: %d, %v", n, resp.StatusCode, err)
				}
			}
		})
	}
	all.Wait()
}

// TestTrustedProxysRequestsStayInTheirLane has a trusted proxy say who asks: that is who is limited, logged and told to the app.
func TestTrustedProxysRequestsStayInTheirLane(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "access.log")
	access, err := accesslog.Open(accesslog.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	h := start(t, func(c *edge.Config) { c.Access, c.Trusted = access, []netip.Prefix{loopback} })
	rec := router("web", newBackend(t, "web-1", echo("X-Forwarded-For", "X-Forwarded-Proto")))
	rec.Rate = []vortex.RateLimit{{Limit: 2, Window: vortex.Duration(time.Hour)}}
	route := vortex.Route{Rules: []vortex.RouteRule{{Paths: []string{"/tls"}, RoutePolicy: vortex.RoutePolicy{Redirect: &vortex.Redirect{HTTPS: new(true)}}}}}
	rec.Rules = route.EffectiveRules()
	h.apply(t, rec)
	conn := h.dial(t)
	in := bufio.NewReader(conn)
	for _, test := range []struct {
		target, client, proto string
		status                int
		want                  string
	}{
		{"/a", "192.0.2.1", "https", 200, "X-Forwarded-For=192.0.2.1, 127.0.0.1 X-Forwarded-Proto=https"},
		{"/b", "192.0.2.2", "http", 200, "X-Forwarded-For=192.0.2.2, 127.0.0.1 X-Forwarded-Proto=http"},
		{"/tls", "192.0.2.1", "https", 200, "GET /tls"},
		{"/tls/not", "192.0.2.2", "http", 308, "see https://"},
		{"/over", "192.0.2.1", "https", 429, "RATE_LIMIT_EXCEEDED"},
		{"/chain", "192.0.2.9, 192.0.2.3, 127.0.0.2", "http", 200, "X-Forwarded-For=192.0.2.9, 192.0.2.3, 127.0.0.2, 127.0.0.1"},
	} {
		got := askOn(t, conn, in, "GET", test.target, "X-Forwarded-For: "+test.client, "X-Forwarded-Proto: "+test.proto)
		if got.status != test.status || !strings.Contains(got.body, test.want) {
			t.Errorf("%s: %d %s, want %d %s", test.target, got.status, got.body, test.status, test.want)
		}
	}
	if n := h.handedOver(t); n != 0 {
		t.Errorf("%d requests left their lane", n)
	}
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	lines := logged(t, path)
	for at, client := range map[string]string{"/a": "192.0.2.1", "/b": "192.0.2.2", "/over": "192.0.2.1", "/tls/not": "192.0.2.2", "/chain": "192.0.2.3"} {
		if lines[at]["client"] != client {
			t.Errorf("%s: %v, want the client %s", at, lines[at], client)
		}
	}
}
