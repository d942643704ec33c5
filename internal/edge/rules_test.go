package edge_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"vortex"
	"vortex/internal/edge"
	"vortex/internal/edge/accesslog"
)

var loopback = netip.MustParsePrefix("127.0.0.0/8")

// ruled runs an edge with one app that has a route, and the backends that answer.
func ruled(t *testing.T, r vortex.Route, configure func(*edge.Config), backends ...*backend) *harness {
	t.Helper()
	if problems := r.Problems("route"); len(problems) > 0 {
		t.Fatalf("the route is not valid: %v", problems)
	}
	h := start(t, configure)
	rec := router("web", backends...)
	rec.Hosts, rec.Paths, rec.Methods, rec.Headers, rec.Rules = r.Hosts, r.Paths, r.Methods, r.Headers, r.EffectiveRules()
	h.apply(t, rec)
	return h
}

// echo answers with what it was asked: method, target, host and the named headers.
func echo(headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%s %s %s", r.Method, r.RequestURI, r.Host)
		for _, name := range headers {
			fmt.Fprintf(w, " %s=%s", name, strings.Join(r.Header.Values(name), "|"))
		}
	}
}

// exchange sends a request and returns the answer with its body.
func (h *harness) exchange(t *testing.T, method, target string, header http.Header, body io.Reader) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+h.addr+target, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "web.localhost"
	maps.Copy(req.Header, header)
	if host := header.Get("Host"); host != "" {
		req.Host = host
		req.Header.Del("Host")
	}
	resp, err := client(t).Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: read body: %v", method, target, err)
	}
	return resp, string(text)
}

// head makes a header of names and values.
func head(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

func TestRulesMatchByPathMethodAndHeader(t *testing.T) {
	t.Parallel()
	mark := func(value string) vortex.RoutePolicy {
		return vortex.RoutePolicy{ResponseHeaders: &vortex.HeaderEdits{Set: map[string]string{"X-Rule": value}}}
	}
	with := func(p vortex.RoutePolicy, change func(*vortex.RoutePolicy)) vortex.RoutePolicy {
		change(&p)
		return p
	}
	h := ruled(t, vortex.Route{
		RoutePolicy: mark("rest"),
		Rules: []vortex.RouteRule{
			{Paths: []string{"=/exact"}, RoutePolicy: mark("exact")},
			{Paths: []string{"~^/v[0-9]+/"}, RoutePolicy: mark("regex")},
			{Paths: []string{"/posts"}, RoutePolicy: with(mark("post"), func(p *vortex.RoutePolicy) { p.Methods = []string{"POST"} })},
			{RoutePolicy: with(mark("header"), func(p *vortex.RoutePolicy) {
				p.Headers = []vortex.HeaderMatch{{Name: "X-Version", Regex: "^2"}, {Name: "X-Old", Absent: new(true)}}
			})},
			{Paths: []string{"/admin"}, RoutePolicy: mark("admin")},
		},
	}, nil, newBackend(t, "web-1", echo()))
	for _, test := range []struct {
		method, target string
		header         http.Header
		want           string
		status         int
	}{
		{"GET", "/exact", nil, "exact", 200},
		{"GET", "/exact/more", nil, "rest", 200},
		{"GET", "/v12/x", nil, "regex", 200},
		{"POST", "/posts/1", nil, "post", 200},
		{"GET", "/posts/1", nil, "rest", 200},
		{"GET", "/", head("X-Version", "2.1"), "header", 200},
		{"GET", "/", head("X-Version", "1", "X-Version", "2"), "header", 200},
		{"GET", "/", head("X-Version", "2.1", "X-Old", "1"), "rest", 200},
		{"GET", "/admin/x?y=z", nil, "admin", 200},
		{"GET", "/%61dmin", nil, "admin", 200},
		{"GET", "/administrator", nil, "rest", 200},
		{"GET", "//admin", nil, "", 400},
		{"GET", "/admin;x=1", nil, "", 400},
		{"GET", "/a%2fb", nil, "rest", 200},
		{"GET", "/caf%C3%A9/a//b", nil, "rest", 200},
	} {
		resp, _ := h.exchange(t, test.method, test.target, test.header, nil)
		if got := resp.Header.Get("X-Rule"); got != test.want || resp.StatusCode != test.status {
			t.Errorf("%s %s %v: %d by rule %q, want %d by %q", test.method, test.target, test.header, resp.StatusCode, got, test.status, test.want)
		}
	}
}

func TestAppsShareAHostByMethodAndHeader(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	for app, change := range map[string]func(*vortex.RouterRecord){
		"all":    func(*vortex.RouterRecord) {},
		"beta":   func(r *vortex.RouterRecord) { r.Headers = []vortex.HeaderMatch{{Name: "X-Beta"}} },
		"health": func(r *vortex.RouterRecord) { r.Paths = []string{"=/health"} },
		"pages":  func(r *vortex.RouterRecord) { r.Paths = []string{`~\.html$`} },
		"writer": func(r *vortex.RouterRecord) { r.Methods = []string{"POST", "PUT"}; r.Paths = []string{"/items"} },
	} {
		rec := router(app, newBackend(t, app+"-1", named(app)))
		rec.Hosts = []string{"shop.example"}
		change(&rec)
		h.apply(t, rec)
	}
	for _, test := range []struct {
		method, target string
		header         http.Header
		want           string
	}{
		{"GET", "/items/1", nil, "all"},
		{"POST", "/items/1", nil, "writer"},
		{"POST", "/items", head("X-Beta", "1"), "writer"},
		{"GET", "/", head("X-Beta", "1"), "beta"},
		{"GET", "/health", head("X-Beta", "1"), "health"},
		{"GET", "/health/x", nil, "all"},
		{"GET", "/a/b.html", nil, "pages"},
	} {
		header := test.header.Clone()
		if header == nil {
			header = http.Header{}
		}
		header.Set("Host", "shop.example")
		if _, body := h.exchange(t, test.method, test.target, header, nil); body != test.want {
			t.Errorf("%s %s %v: %q answers, want %q", test.method, test.target, test.header, body, test.want)
		}
	}
}

func TestRewrite(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		rewrite      vortex.Rewrite
		target, want string
	}{
		{vortex.Rewrite{StripPrefix: "/api"}, "/api/users?x=1", "GET /users?x=1 web.localhost X-Forwarded-Prefix=/api"},
		{vortex.Rewrite{StripPrefix: "/api/"}, "/api", "GET / web.localhost X-Forwarded-Prefix=/api"},
		{vortex.Rewrite{StripPrefix: "/api"}, "/apis", "GET /apis web.localhost X-Forwarded-Prefix="},
		{vortex.Rewrite{AddPrefix: "/v1"}, "/x?", "GET /v1/x? web.localhost X-Forwarded-Prefix="},
		{vortex.Rewrite{StripPrefix: "/a", AddPrefix: "/b"}, "/a/c", "GET /b/c web.localhost X-Forwarded-Prefix=/a"},
		{vortex.Rewrite{Regex: "^/old/([^/]+)/(.*)$", Replacement: "/new/$2/$1"}, "/old/1/2?q", "GET /new/2/1?q web.localhost X-Forwarded-Prefix="},
		{vortex.Rewrite{Regex: "a", Replacement: "$$b"}, "/xaya", "GET /x$by$b web.localhost X-Forwarded-Prefix="},
		{vortex.Rewrite{Regex: "^/", Replacement: ""}, "/x", "GET /x web.localhost X-Forwarded-Prefix="},
		{vortex.Rewrite{Host: "inner.example:81"}, "/x", "GET /x inner.example:81 X-Forwarded-Prefix="},
	} {
		h := ruled(t, vortex.Route{RoutePolicy: vortex.RoutePolicy{Rewrite: &test.rewrite}}, nil,
			newBackend(t, "web-1", echo("X-Forwarded-Prefix")))
		if _, body := h.exchange(t, "GET", test.target, nil, nil); body != test.want {
			t.Errorf("%+v of %s: %q, want %q", test.rewrite, test.target, body, test.want)
		}
	}
}

func TestRedirect(t *testing.T) {
	t.Parallel()
	b := newBackend(t, "web-1", named("app"))
	trusting := func(c *edge.Config) { c.Trusted = []netip.Prefix{loopback} }
	for _, test := range []struct {
		redirect vortex.Redirect
		target   string
		header   http.Header
		status   int
		location string
	}{
		{vortex.Redirect{To: "/new"}, "/old?a=b", nil, 308, "/new?a=b"},
		{vortex.Redirect{To: "/new?x=1", Status: new(uint16(302))}, "/old?a=b", nil, 302, "/new?x=1&a=b"},
		{vortex.Redirect{To: "/new", KeepQuery: new(false)}, "/old?a=b", nil, 308, "/new"},
		{vortex.Redirect{To: "https://www.example.com{path}", Status: new(uint16(301))}, "/old/x", nil, 301, "https://www.example.com/old/x"},
		{vortex.Redirect{Regex: "^/u/([0-9]+)$", To: "/users/$1"}, "/u/7", nil, 308, "/users/7"},
		{vortex.Redirect{Regex: "^/u/([0-9]+)$", To: "/users/$1"}, "/u/x", nil, 200, ""},
		{vortex.Redirect{To: "{path}"}, "//evil.example/x", nil, 308, "/evil.example/x"},
		{vortex.Redirect{HTTPS: new(true)}, "/x?y", nil, 308, "https://web.localhost/x?y"},
		{vortex.Redirect{HTTPS: new(true), Port: new(uint16(8443))}, "/x", nil, 308, "https://web.localhost:8443/x"},
		{vortex.Redirect{HTTPS: new(true)}, "/x", head("X-Forwarded-Proto", "https"), 200, ""},
	} {
		h := ruled(t, vortex.Route{RoutePolicy: vortex.RoutePolicy{Redirect: &test.redirect}}, trusting, b)
		resp, _ := h.exchange(t, "GET", test.target, test.header, nil)
		if got := resp.Header.Get("Location"); resp.StatusCode != test.status || got != test.location {
			t.Errorf("%+v of %s: %d to %q, want %d to %q", test.redirect, test.target, resp.StatusCode, got, test.status, test.location)
		}
	}
}

func TestHeaderEdits(t *testing.T) {
	t.Parallel()
	b := newBackend(t, "web-1", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", "secretware/1.2")
		w.Header().Set("X-Kept", "yes")
		w.Header().Set("X-Set", "backend's")
		echo("X-Set", "X-Add", "X-Gone", "X-Client", "X-Where")(w, r)
	})
	h := ruled(t, vortex.Route{RoutePolicy: vortex.RoutePolicy{
		RequestHeaders: &vortex.HeaderEdits{
			Set:    map[string]string{"X-Set": "edge's", "X-Client": "{client}", "X-Where": "{scheme}://{host}{path}?{query} {method} {app} {\"a\"}"},
			Add:    map[string]string{"X-Add": "more"},
			Remove: []string{"x-gone"},
		},
		ResponseHeaders: &vortex.HeaderEdits{
			Set: map[string]string{"X-Set": "edge's", "X-App": "{app} {host}"}, Add: map[string]string{"X-Kept": "too"}, Remove: []string{"Server"},
		},
	}}, nil, b)
	resp, body := h.exchange(t, "GET", "/p?q", head("X-Set", "client's", "X-Add", "some", "X-Gone", "1", "X-Client", "9.9.9.9"), nil)
	want := `GET /p?q web.localhost X-Set=edge's X-Add=some|more X-Gone= X-Client=127.0.0.1 X-Where=http://web.localhost/p?q GET web {"a"}`
	if body != want {
		t.Errorf("the app got\n%s\nwant\n%s", body, want)
	}
	for name, want := range map[string][]string{"Server": nil, "X-Kept": {"yes", "too"}, "X-Set": {"edge's"}, "X-App": {"web web.localhost"}} {
		if got := resp.Header.Values(name); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestRequestIDs(t *testing.T) {
	t.Parallel()
	r := vortex.Route{RoutePolicy: vortex.RoutePolicy{RequestID: new(true)}}
	b := newBackend(t, "web-1", echo("X-Request-Id"))
	for name, test := range map[string]struct {
		configure func(*edge.Config)
		kept      bool
	}{
		"stranger": {nil, false},
		"trusted":  {func(c *edge.Config) { c.Trusted = []netip.Prefix{loopback} }, true},
	} {
		h := ruled(t, r, test.configure, b)
		resp, body := h.exchange(t, "GET", "/", head("X-Request-Id", "given-1"), nil)
		id := resp.Header.Get("X-Request-Id")
		if !strings.HasSuffix(body, "X-Request-Id="+id) || len(resp.Header.Values("X-Request-Id")) != 1 {
			t.Errorf("%s: the client got %q, the app %q", name, id, body)
		}
		if (id == "given-1") != test.kept || !test.kept && len(id) != 32 {
			t.Errorf("%s: id %q", name, id)
		}
	}
	gone := newBackend(t, "web-2", named("x"))
	gone.server.Close()
	h := ruled(t, r, func(c *edge.Config) { c.HoldTimeout = -1 }, gone)
	if resp, _ := h.exchange(t, "GET", "/", nil, nil); resp.StatusCode != http.StatusServiceUnavailable || len(resp.Header.Get("X-Request-Id")) != 32 {
		t.Errorf("without a backend: %d with id %q", resp.StatusCode, resp.Header.Get("X-Request-Id"))
	}
}

func TestForwarded(t *testing.T) {
	t.Parallel()
	b := newBackend(t, "web-1", echo("Forwarded", "X-Forwarded-For"))
	r := vortex.Route{RoutePolicy: vortex.RoutePolicy{Forwarded: new(true), RequestHeaders: &vortex.HeaderEdits{Set: map[string]string{"X-A": "{client}"}}}}
	h := ruled(t, r, nil, b)
	if _, body := h.exchange(t, "GET", "/", head("Forwarded", "for=6.6.6.6"), nil); body !=
		`GET / web.localhost Forwarded=for=127.0.0.1;host="web.localhost";proto=http X-Forwarded-For=127.0.0.1` {
		t.Errorf("of a stranger: %s", body)
	}
	b = newBackend(t, "web-1", echo("Forwarded", "X-A"))
	h = ruled(t, r, func(c *edge.Config) { c.Trusted = []netip.Prefix{loopback} }, b)
	if _, body := h.exchange(t, "GET", "/", head("Forwarded", `for="[2001:db8::7]:80";proto=https`), nil); body !=
		`GET / web.localhost Forwarded=for="[2001:db8::7]:80";proto=https, for=127.0.0.1;host="web.localhost";proto=http X-A=2001:db8::7` {
		t.Errorf("of a trusted proxy: %s", body)
	}
}

func TestCORS(t *testing.T) {
	t.Parallel()
	asked := atomic.Int64{}
	b := newBackend(t, "web-1", func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.Header().Set("Access-Control-Allow-Origin", "https://backend.example")
		fmt.Fprint(w, "app")
	})
	h := ruled(t, vortex.Route{RoutePolicy: vortex.RoutePolicy{Cors: &vortex.Cors{
		Origins: []string{"https://app.example", "https://*.apps.example"}, Methods: []string{"GET", "PUT"}, Headers: []string{"X-Token"},
		Expose: []string{"X-Total"}, Credentials: new(true), MaxAge: vortex.Duration(10 * time.Minute),
	}}}, nil, b)
	preflight := func(origin string) *http.Response {
		resp, _ := h.exchange(t, "OPTIONS", "/x", head("Origin", origin, "Access-Control-Request-Method", "PUT"), nil)
		return resp
	}
	resp := preflight("https://app.example")
	for name, want := range map[string]string{
		"Access-Control-Allow-Origin": "https://app.example", "Access-Control-Allow-Methods": "GET, PUT", "Access-Control-Allow-Headers": "X-Token",
		"Access-Control-Allow-Credentials": "true", "Access-Control-Max-Age": "600", "Vary": "Origin", "Content-Length": "",
	} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("preflight's %s: %q, want %q", name, got, want)
		}
	}
	if resp.StatusCode != http.StatusNoContent || asked.Load() != 0 {
		t.Errorf("preflight: %d, and the app was asked %d times", resp.StatusCode, asked.Load())
	}
	for origin, want := range map[string]bool{
		"https://a.apps.example": true, "https://evil.example": false, "https://apps.example": false, "https://evilapps.example": false, "null": false,
	} {
		resp, body := h.exchange(t, "GET", "/x", head("Origin", origin), nil)
		got := resp.Header.Values("Access-Control-Allow-Origin")
		if body != "app" || want != slices.Equal(got, []string{origin}) || !want && len(got) > 0 {
			t.Errorf("%s: %q with %q", origin, body, got)
		}
		if status := preflight(origin).StatusCode; (status == 204) != want {
			t.Errorf("preflight of %s: %d", origin, status)
		}
	}
	if _, body := h.exchange(t, "OPTIONS", "/x", nil, nil); body != "app" {
		t.Errorf("OPTIONS that is no preflight: %q", body)
	}
}

func TestBasicAuth(t *testing.T) {
	t.Parallel()
	hash, err := bcrypt.GenerateFromPassword([]byte("open sesame"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	h := ruled(t, vortex.Route{
		RoutePolicy: vortex.RoutePolicy{BasicAuth: &vortex.BasicAuth{Users: map[string]string{"ann": string(hash)}, Realm: "the shop"}},
		Rules:       []vortex.RouteRule{{Paths: []string{"/public"}, Without: []string{"basicAuth"}}},
	}, nil, newBackend(t, "web-1", named("app")))
	basic := func(user, password string) http.Header {
		req := &http.Request{Header: http.Header{}}
		req.SetBasicAuth(user, password)
		return req.Header
	}
	twice := basic("ann", "open sesame")
	twice.Add("Authorization", "Basic eDp5")
	for name, test := range map[string]struct {
		target string
		header http.Header
		want   int
	}{
		"right":            {"/", basic("ann", "open sesame"), 200},
		"again":            {"/", basic("ann", "open sesame"), 200},
		"wrong":            {"/", basic("ann", "open"), 401},
		"unknown":          {"/", basic("bob", "open sesame"), 401},
		"none":             {"/", nil, 401},
		"no base64":        {"/", head("Authorization", "Basic %%%"), 401},
		"no colon":         {"/", head("Authorization", "Basic YW5u"), 401},
		"another scheme":   {"/", head("Authorization", "Bearer x"), 401},
		"endless":          {"/", head("Authorization", "Basic "+strings.Repeat("QQ", 4000)), 401},
		"two":              {"/", twice, 401},
		"public":           {"/public/x", nil, 200},
		"public, escaping": {"/public/../x", nil, 401},
		"public, hiding":   {"/public/..;/x", nil, 400},
	} {
		resp, body := h.exchange(t, "GET", test.target, test.header, nil)
		if resp.StatusCode != test.want || (test.want == 200) != (body == "app") {
			t.Errorf("%s: %d %q, want %d", name, resp.StatusCode, body, test.want)
		}
		if got := resp.Header.Get("WWW-Authenticate"); test.want == 401 && got != `Basic realm="the shop", charset="UTF-8"` {
			t.Errorf("%s: asks with %q", name, got)
		}
	}
}

func TestMaintenance(t *testing.T) {
	t.Parallel()
	b := newBackend(t, "web-1", named("app"))
	r := vortex.Route{RoutePolicy: vortex.RoutePolicy{Maintenance: &vortex.Maintenance{
		Allow: []string{"10.1.0.0/16"}, Body: "<h1>Back soon</h1>", RetryAfter: vortex.Duration(time.Minute),
	}}}
	h := ruled(t, r, func(c *edge.Config) { c.Trusted = []netip.Prefix{loopback} }, b)
	resp, body := h.exchange(t, "GET", "/", nil, nil)
	if resp.StatusCode != http.StatusServiceUnavailable || body != "<h1>Back soon</h1>" || resp.Header.Get("Retry-After") != "60" || resp.Header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Errorf("%d %q %v", resp.StatusCode, body, resp.Header)
	}
	if _, body := h.exchange(t, "GET", "/", head("X-Forwarded-For", "10.1.2.3"), nil); body != "app" {
		t.Errorf("an allowed client got %q", body)
	}
	r.Maintenance.Enabled = new(false)
	h = ruled(t, r, nil, b)
	if _, body := h.exchange(t, "GET", "/", nil, nil); body != "app" {
		t.Errorf("switched off: %q", body)
	}
}

func TestRequestLimits(t *testing.T) {
	t.Parallel()
	h := ruled(t, vortex.Route{RoutePolicy: vortex.RoutePolicy{Limits: &vortex.RequestLimits{Body: "64Ki", Headers: "1Ki"}}}, nil,
		newBackend(t, "web-1", echo()))
	chunked := func(n int) io.Reader { return io.MultiReader(bytes.NewReader(make([]byte, n))) } // of no known length
	for name, test := range map[string]struct {
		header http.Header
		body   io.Reader
		want   int
	}{
		"fits":           {nil, bytes.NewReader(make([]byte, 64<<10)), 200},
		"large":          {nil, bytes.NewReader(make([]byte, 64<<10+1)), 413},
		"chunked fits":   {nil, chunked(64 << 10), 200},
		"chunked large":  {nil, chunked(160 << 10), 413}, // no more than is read of what nobody wants
		"header":         {head("X-Big", strings.Repeat("a", 1100)), nil, 431},
		"header is fine": {head("X-Big", strings.Repeat("a", 500)), nil, 200},
	} {
		resp, body := h.exchange(t, "POST", "/", test.header, test.body)
		if resp.StatusCode != test.want {
			t.Errorf("%s: %d %s, want %d", name, resp.StatusCode, body, test.want)
		}
	}
}

func TestTimeouts(t *testing.T) {
	t.Parallel()
	ended := make(chan struct{})
	t.Cleanup(func() { close(ended) })
	b := newBackend(t, "web-1", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			fmt.Fprint(w, "begun")
			_ = http.NewResponseController(w).Flush()
		}
		select {
		case <-ended:
		case <-r.Context().Done():
		}
	})
	short := vortex.Duration(100 * time.Millisecond)
	for name, test := range map[string]struct {
		timeouts vortex.Timeouts
		body     bool
	}{
		"per try":   {vortex.Timeouts{PerTry: short}, false},
		"total":     {vortex.Timeouts{Total: short}, false},
		"idle":      {vortex.Timeouts{Idle: short}, true},
		"all of it": {vortex.Timeouts{Total: short}, true},
	} {
		h := ruled(t, vortex.Route{RoutePolicy: vortex.RoutePolicy{Timeouts: &test.timeouts}}, nil, b)
		if !test.body {
			if resp, body := h.exchange(t, "GET", "/", nil, nil); resp.StatusCode != http.StatusGatewayTimeout || !strings.Contains(body, "within 100ms") {
				t.Errorf("%s: %d %s", name, resp.StatusCode, body)
			}
			continue
		}
		resp := h.do(t, client(t), http.MethodGet, "web.localhost", "/body", nil)
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(body) != "begun" || err == nil {
			t.Errorf("%s: %q, and no sign that it was cut: %v", name, body, err)
		}
	}
	h := ruled(t, vortex.Route{RoutePolicy: vortex.RoutePolicy{Timeouts: &vortex.Timeouts{Connect: short}}}, nil, newBackend(t, "web-1", named("app")))
	if _, body := h.exchange(t, "GET", "/", nil, nil); body != "app" {
		t.Errorf("a backend that is there: %q", body)
	}
}

func TestRetriesByStatusAndTime(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	sick := newBackend(t, "web-1", func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.Path == "/slow" {
			<-r.Context().Done()
			return
		}
		w.Header().Set("X-From", "sick")
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprint(w, "sick")
	})
	well := newBackend(t, "web-2", func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body); fmt.Fprint(w, "well") })
	r := vortex.Route{RoutePolicy: vortex.RoutePolicy{
		Retry: &vortex.Retry{Statuses: []uint16{503}, OnTimeout: new(true)}, Timeouts: &vortex.Timeouts{PerTry: vortex.Duration(200 * time.Millisecond)},
	}}
	h := ruled(t, r, nil, sick, well)
	for range 20 {
		if resp, body := h.exchange(t, "GET", "/", nil, nil); resp.StatusCode != http.StatusOK || body != "well" || resp.Header.Get("X-From") != "" {
			t.Fatalf("GET: %d %q %v", resp.StatusCode, body, resp.Header)
		}
	}
	if asked.Load() == 0 {
		t.Error("the sick backend was never asked: nothing was tried again")
	}
	if _, body := h.exchange(t, "PUT", "/", nil, strings.NewReader("I am ")); body != "I am well" {
		t.Errorf("PUT with a small body: %q", body)
	}
	for range 4 {
		if _, body := h.exchange(t, "GET", "/slow", nil, nil); body != "well" {
			t.Errorf("after a timeout: %q", body)
		}
	}
	posted := map[string]int{}
	for range 10 {
		_, body := h.exchange(t, "POST", "/", nil, nil)
		posted[body]++
	}
	if posted["sick"] == 0 {
		t.Errorf("POSTs were sent twice: %v", posted)
	}
	alone := ruled(t, r, nil, sick)
	if resp, body := alone.exchange(t, "GET", "/", nil, nil); resp.StatusCode != http.StatusServiceUnavailable || body != "sick" {
		t.Errorf("with no other backend: %d %q, want the answer that came", resp.StatusCode, body)
	}
}

// TestRetryBudget sends requests that every backend answers badly: without a budget each would be sent three times.
func TestRetryBudget(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	bad := func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusBadGateway)
	}
	h := ruled(t, vortex.Route{RoutePolicy: vortex.RoutePolicy{
		Retry: &vortex.Retry{Statuses: []uint16{502}, BudgetPercent: new(0.0), MinPerSecond: new(uint32(5))},
	}}, nil, newBackend(t, "web-1", bad), newBackend(t, "web-2", bad), newBackend(t, "web-3", bad))
	begun := time.Now()
	const requests = 200
	for range requests {
		if status, _ := h.get(t, client(t), "web.localhost", "/"); status != 502 {
			t.Fatalf("status %d", status)
		}
	}
	most := int64(5 * (2 + time.Since(begun).Seconds()))
	if retries := asked.Load() - requests; retries < 1 || retries > most {
		t.Errorf("%d retries, want 1 to %d", retries, most)
	}
}

func TestRouteThatCannotBeReadLetsNothingThrough(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	rec := router("web", newBackend(t, "web-1", named("app")))
	rec.Rules = []vortex.RouteRule{{RoutePolicy: vortex.RoutePolicy{BasicAuth: &vortex.BasicAuth{Users: map[string]string{"ann": "plain"}}}}}
	h.apply(t, rec)
	if resp, body := h.exchange(t, "GET", "/", nil, nil); resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, "ROUTE_INVALID") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

// TestRulesLeaveTheConnectionOpen asks for an answer of the edge's own, and one of the app, on one connection.
func TestRulesLeaveTheConnectionOpen(t *testing.T) {
	t.Parallel()
	h := ruled(t, vortex.Route{Rules: []vortex.RouteRule{
		{Paths: []string{"/old"}, RoutePolicy: vortex.RoutePolicy{Redirect: &vortex.Redirect{To: "/new"}}},
		{Paths: []string{"/z"}, RoutePolicy: vortex.RoutePolicy{Compress: &vortex.Compress{MinSize: "1"}}},
	}}, nil, newBackend(t, "web-1", named("app")))
	conn, err := net.Dial("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	for range 3 {
		for _, path := range []string{"/old", "/new", "/z"} {
			fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: web.localhost\r\nAccept-Encoding: gzip\r\n\r\n", path)
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.Close {
				t.Errorf("%s: %v, close %v", path, err, resp.Close)
			}
		}
	}
}

func TestAccessLog(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "access.log")
	access, err := accesslog.Open(accesslog.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	b := newBackend(t, "web-1", named("hello"))
	h := ruled(t, vortex.Route{Rules: []vortex.RouteRule{
		{Paths: []string{"/quiet"}, RoutePolicy: vortex.RoutePolicy{AccessLog: &vortex.AccessLog{Enabled: new(false)}}},
		{Paths: []string{"/id"}, RoutePolicy: vortex.RoutePolicy{RequestID: new(true)}},
	}}, func(c *edge.Config) { c.Access, c.Trusted = access, []netip.Prefix{loopback} }, b)
	resp, _ := h.exchange(t, "GET", "/id/x?secret=1", head("X-Forwarded-For", "192.0.2.7", "User-Agent", "test"), nil)
	h.exchange(t, "GET", "/quiet", nil, nil)
	h.exchange(t, "GET", "/plain", nil, nil)
	h.exchange(t, "GET", "/", head("Host", "nobody.example", "X-Forwarded-Host", "x"), nil)
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	byPath := map[string]map[string]any{}
	for _, line := range lines {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		byPath[fmt.Sprint(fields["path"])] = fields
	}
	id := byPath["/id/x"]
	if len(lines) != 3 || id["client"] != "192.0.2.7" || id["id"] != resp.Header.Get("X-Request-Id") || id["bytes"] != 5.0 || id["status"] != 200.0 ||
		id["app"] != "web" || id["backend"] != b.addr.String() || id["agent"] != "test" || id["tries"] != 1.0 {
		t.Errorf("%s", text)
	}
	if strings.Contains(string(text), "secret") {
		t.Errorf("the query stands in the log: %s", text)
	}
}
