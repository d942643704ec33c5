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
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"vortex/internal/edge"
	"vortex/internal/edge/http1"
	"vortex/internal/edge/limit"
)

// dial opens a raw connection to the edge.
func (h *harness) dial(t *testing.T) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	tcp, _ := conn.(*net.TCPConn)
	return tcp
}

// raw sends bytes and returns the first response; the header Closed tells that it was the connection's last.
func (h *harness) raw(t *testing.T, text string) (int, http.Header, string) {
	t.Helper()
	conn := h.dial(t)
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%q: read body: %v", text, err)
	}
	if resp.Close {
		resp.Header.Set("Closed", "yes")
	}
	return resp.StatusCode, resp.Header, string(body)
}

// response is what came back on a raw connection.
type response struct {
	status int
	header http.Header
	body   string
}

// read takes the next response from a raw connection; method is what was asked with.
func read(t *testing.T, r *bufio.Reader, method string) response {
	t.Helper()
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response{resp.StatusCode, resp.Header, string(body)}
}

func TestRefusesWhatCouldBeUnderstoodDifferently(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.apply(t, router("web", newBackend(t, "w", func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.URL.Path != "/fine" {
			t.Errorf("the backend saw %s %s", r.Method, r.URL)
		}
	})))
	const chunked = "Transfer-Encoding: chunked\r\n"
	for name, text := range map[string]string{
		"length and chunked":        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n" + chunked + "\r\n0\r\n\r\n",
		"chunked and length":        "POST / HTTP/1.1\r\nHost: a\r\n" + chunked + "Content-Length: 4\r\n\r\n0\r\n\r\n",
		"two lengths":               "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n",
		"length list":               "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 4\r\n\r\n",
		"signed length":             "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n\r\n",
		"negative length":           "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -4\r\n\r\n",
		"hexadecimal length":        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x4\r\n\r\n",
		"empty length":              "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n",
		"huge length":               "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
		"chunked twice":             "POST / HTTP/1.1\r\nHost: a\r\n" + chunked + chunked + "\r\n0\r\n\r\n",
		"chunked list":              "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"identity":                  "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
		"odd chunked":               "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		"chunked in 1.0":            "POST / HTTP/1.0\r\nHost: a\r\n" + chunked + "\r\n0\r\n\r\n",
		"space before colon":        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
		"folded header":             "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n",
		"folded first header":       "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
		"bare line feed":            "GET / HTTP/1.1\nHost: a\n\n",
		"bare line feed in headers": "GET / HTTP/1.1\r\nHost: a\r\nX: b\nY: c\r\n\r\n",
		"bare carriage return":      "GET / HTTP/1.1\r\nHost: a\r\nX: b\rY: c\r\n\r\n",
		"NUL in value":              "GET / HTTP/1.1\r\nHost: a\r\nX: b\x00c\r\n\r\n",
		"no colon":                  "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
		"no name":                   "GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n",
		"no host":                   "GET / HTTP/1.1\r\n\r\n",
		"two hosts":                 "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
		"host with slash":           "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
		"host with at":              "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
		"host with odd port":        "GET / HTTP/1.1\r\nHost: a:8x\r\n\r\n",
		"asterisk":                  "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
		"no slash":                  "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
		"fragment":                  "GET /#a HTTP/1.1\r\nHost: a\r\n\r\n",
		"space in target":           "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
		"tab in request line":       "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
		"connect":                   "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
		"version 2":                 "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
		"version 1.2":               "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
		"no version":                "GET /\r\n\r\n",
		"odd method":                "GE(T / HTTP/1.1\r\nHost: a\r\n\r\n",
		"unknown expectation":       "GET / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n",
		"TLS":                       "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
	} {
		status, header, body := h.raw(t, text)
		if status != 400 || header.Get("Closed") == "" || !strings.Contains(body, "BAD_REQUEST") {
			t.Errorf("%s: %d %v %s", name, status, header, body)
		}
	}
	for name, text := range map[string]string{
		"empty line before":  "\r\nGET /fine HTTP/1.1\r\nHost: a\r\n\r\n",
		"absolute form":      "GET http://b/fine HTTP/1.1\r\nHost: a\r\n\r\n",
		"chunk extension":    "POST /fine HTTP/1.1\r\nHost: a\r\n" + chunked + "\r\n3;x=y\r\nabc\r\n0\r\nT: v\r\n\r\n",
		"HTTP/1.0":           "GET /fine HTTP/1.0\r\n\r\n",
		"value with padding": "GET /fine HTTP/1.1\r\nHost:\t a \t\r\nX:\r\n\r\n",
	} {
		if status, _, body := h.raw(t, text); status != 200 {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
}

func TestRefusesMalformedChunks(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.apply(t, router("web", newBackend(t, "w", func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
	})))
	for name, body := range map[string]string{
		"no size":                "\r\nabc\r\n0\r\n\r\n",
		"not hexadecimal":        "g\r\nabc\r\n0\r\n\r\n",
		"prefixed":               "0x3\r\nabc\r\n0\r\n\r\n",
		"signed":                 "+3\r\nabc\r\n0\r\n\r\n",
		"space":                  "3 \r\nabc\r\n0\r\n\r\n",
		"bare line feed":         "3\nabc\r\n0\r\n\r\n",
		"longer than size":       "3\r\nabcd\r\n0\r\n\r\n",
		"huge":                   "fffffffffffffffff\r\nabc",
		"end with bare newline":  "3\r\nabc\n0\r\n\r\n",
		"folded trailer":         "0\r\nA: b\r\n c\r\n\r\n",
		"trailer with bare feed": "0\r\nA: b\n\r\n",
	} {
		status, _, answer := h.raw(t, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"+body)
		if status != 400 {
			t.Errorf("%s: %d %s", name, status, answer)
		}
	}
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.apply(t, router("web", newBackend(t, "w", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s", r.URL.Path, body)
	})))
	conn := h.dial(t)
	var text strings.Builder
	for i := range 20 {
		fmt.Fprintf(&text, "POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n%02d", i, i)
	}
	if _, err := io.WriteString(conn, text.String()); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	for i := range 20 {
		if got, want := read(t, r, "POST").body, fmt.Sprintf("/%d %02d", i, i); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
}

func TestBodylessResponsesKeepTheirConnection(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.apply(t, router("web", newBackend(t, "w", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(http.StatusNoContent)
		case "/304":
			w.Header().Set("ETag", `"x"`)
			w.WriteHeader(http.StatusNotModified)
		case "/early":
			w.Header().Set("Link", "</a>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			fmt.Fprint(w, "late")
		default:
			w.Header().Set("Content-Length", "11")
			fmt.Fprint(w, "hello world")
		}
	})))
	conn := h.dial(t)
	r := bufio.NewReader(conn)
	for _, test := range []struct {
		request      string
		status       int
		length, body string
	}{
		{"HEAD /", 200, "11", ""}, {"GET /204", 204, "", ""}, {"GET /304", 304, "", ""}, {"GET /", 200, "11", "hello world"},
	} {
		fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: a\r\n\r\n", test.request)
		got := read(t, r, strings.Fields(test.request)[0])
		if got.status != test.status || got.header.Get("Content-Length") != test.length || got.body != test.body {
			t.Errorf("%s: %+v", test.request, got)
		}
	}
	fmt.Fprint(conn, "GET /early HTTP/1.1\r\nHost: a\r\n\r\n")
	for _, want := range []int{103, 200} {
		got := read(t, r, "GET")
		if got.status != want {
			t.Fatalf("got %+v, want %d", got, want)
		}
		if want == http.StatusEarlyHints && got.header.Get("Link") == "" {
			t.Error("103 without its Link")
		}
	}
}

func TestExpectContinue(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.apply(t, router("web", newBackend(t, "w", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
	})))
	conn := h.dial(t)
	r := bufio.NewReader(conn)
	fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	if got := read(t, r, "POST"); got.status != http.StatusContinue {
		t.Fatalf("got %+v, want 100", got)
	}
	fmt.Fprint(conn, "hello")
	if got := read(t, r, "POST"); got.status != http.StatusOK || got.body != "hello" {
		t.Errorf("got %+v", got)
	}
	fmt.Fprint(conn, "POST /no HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	if got := read(t, r, "POST"); got.status != http.StatusRequestEntityTooLarge {
		t.Fatalf("got %+v, want 413", got)
	}
	if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("the connection whose body never came goes on: %v", err)
	}
}

func TestHeadersOfHopsAndStrangersAreNotPassedOn(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	seen := make(chan http.Header, 1)
	h.apply(t, router("web", newBackend(t, "w", func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header
		w.Header().Set("Connection", "X-Own")
		w.Header().Set("X-Own", "1")
		w.Header().Set("Keep-Alive", "timeout=5")
		w.Header().Set("Content-Encoding", "gzip")
		fmt.Fprint(w, "not really gzip")
	})))
	_, header, body := h.raw(t, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\n"+
		"Proxy-Connection: x\r\nUpgrade: h2c\r\nX-Forwarded-For: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n"+
		"X-Forwarded-Host: evil\r\nX-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Forwarded-Prefix: /evil\r\nX-Kept: yes\r\n\r\n")
	got := <-seen
	want := http.Header{
		"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Proto": {"http"}, "X-Forwarded-Host": {"a"}, "X-Kept": {"yes"},
	}
	for name := range got {
		if got.Get(name) != want.Get(name) || len(got[name]) != 1 {
			t.Errorf("the backend saw %s: %q", name, got[name])
		}
	}
	for name := range want {
		if got.Get(name) == "" {
			t.Errorf("the backend did not see %s", name)
		}
	}
	if header.Get("X-Own") != "" || header.Get("Keep-Alive") != "" || body != "not really gzip" {
		t.Errorf("the client saw %v %q", header, body)
	}
}

func TestSlowAndLargeHeadsAreRefused(t *testing.T) {
	t.Parallel()
	h := start(t, func(c *edge.Config) {
		c.HTTP = http1.Config{HeaderTimeout: 300 * time.Millisecond, BodyTimeout: 300 * time.Millisecond, MaxHeaderBytes: 16 << 10}
	})
	h.apply(t, router("web", newBackend(t, "w", func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
	})))
	for name, test := range map[string]struct {
		text   string
		status int
	}{
		"slow head":  {"GET / HTTP/1.1\r\nHost: a\r\nX-", 408},
		"slow body":  {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc", 408},
		"large head": {"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 20<<10) + "\r\n\r\n", 431},
		"many heads": {"GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: y\r\n", 300) + "\r\n", 431},
		"large fits": {"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 15<<10) + "\r\n\r\n", 200},
	} {
		if status, _, body := h.raw(t, test.text); status != test.status {
			t.Errorf("%s: %d %s, want %d", name, status, body, test.status)
		}
	}
}

func TestOldClientsGetWholeAnswers(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.apply(t, router("web", newBackend(t, "w", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "one ")
		if r.URL.Path == "/chunked" {
			w.(http.Flusher).Flush()
		}
		fmt.Fprint(w, "two")
	})))
	for _, request := range []string{"GET /chunked HTTP/1.0\r\n\r\n", "GET / HTTP/1.0\r\n\r\n"} {
		conn := h.dial(t)
		fmt.Fprint(conn, request)
		answer, err := io.ReadAll(conn)
		if err != nil || !strings.HasSuffix(string(answer), "\r\n\r\none two") || strings.Contains(string(answer), "chunked") {
			t.Errorf("%q: %q, %v", request, answer, err)
		}
	}
	conn := h.dial(t)
	r := bufio.NewReader(conn)
	for range 2 {
		fmt.Fprint(conn, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
		if got := read(t, r, "GET"); got.header.Get("Connection") != "keep-alive" {
			t.Fatalf("got %+v", got)
		}
	}
}

// script is a backend that reads a request's head and answers with the next of its scripts, literally. The channel is
// closed when it has given all.
func script(t *testing.T, name string, answers ...string) (*backend, <-chan struct{}) {
	t.Helper()
	ln, addr := listen(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, answer := range answers {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				_, _ = io.WriteString(conn, answer)
			}
			conn.Close()
		}
		ln.Close()
	}()
	return &backend{name: name, addr: addr}, done
}

func TestOddBackends(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer string
		status int
		body   string
	}{
		"until close":            {"HTTP/1.1 200 OK\r\n\r\nabc", 200, "abc"},
		"bare line feeds":        {"HTTP/1.1 200 OK\nContent-Length: 3\n\nabc", 200, "abc"},
		"no reason":              {"HTTP/1.1 200\r\nContent-Length: 3\r\n\r\nabc", 200, "abc"},
		"HTTP/1.0":               {"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", 200, "abc"},
		"length and chunked":     {"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 200, "abc"},
		"garbage":                {"hello\r\n\r\n", 502, ""},
		"folded":                 {"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", 502, ""},
		"switches unasked":       {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", 502, ""},
		"half a head":            {"HTTP/1.1 200 OK\r\nContent-", 502, ""},
		"two different lengths":  {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 502, ""},
		"unknown transfer codes": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", 502, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := start(t, nil)
			b, _ := script(t, "odd", test.answer)
			h.apply(t, router("web", b))
			status, _, body := h.raw(t, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			if status != test.status || test.body != "" && body != test.body {
				t.Errorf("%d %q, want %d %q", status, body, test.status, test.body)
			}
		})
	}
}

func TestCutResponseIsNotPassedOnAsWhole(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
	} {
		h := start(t, nil)
		b, _ := script(t, "cut", answer)
		h.apply(t, router("web", b))
		resp := h.do(t, client(t), http.MethodGet, "a", "/", nil)
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil {
			t.Errorf("%q: the client took %q for the whole", answer, body)
		}
	}
}

func TestOnlyRequestsThatMayBeRepeatedAre(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	good := newBackend(t, "good", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "good %s", body)
	})
	for _, test := range []struct {
		method, body string
		status       int
	}{{"GET", "", 200}, {"PUT", "x", 200}, {"DELETE", "", 200}, {"POST", "x", 502}, {"PATCH", "x", 502}} {
		b, died := script(t, "dies-"+test.method, "")
		h.apply(t, router("web", b))
		answer := make(chan int)
		go func() {
			status, _, _ := h.raw(t, fmt.Sprintf("%s / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", test.method, len(test.body), test.body))
			answer <- status
		}()
		<-died
		h.apply(t, router("web", good))
		if status := <-answer; status != test.status {
			t.Errorf("%s: %d, want %d", test.method, status, test.status)
		}
	}
}

func TestPrometheusNames(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewPedanticRegistry()
	h := start(t, func(c *edge.Config) { c.Metrics = promhttp.HandlerFor(registry, promhttp.HandlerOpts{}) })
	registry.MustRegister(h.edge.Collector())
	h.apply(t, router("web", newBackend(t, "w", named("w"))))
	c := client(t)
	for range 3 {
		h.get(t, c, "localhost", "/")
	}
	status, body := h.get(t, c, "localhost:8000", "/metrics")
	for _, want := range []string{
		`vortex_requests_total{status="200"} 3`, `vortex_edge_request_duration_seconds_count{app="web"} 3`,
		`vortex_edge_requests_in_flight{app="web"} 0`, `vortex_edge_connections 1`,
	} {
		if status != 200 || !strings.Contains(body, want) {
			t.Errorf("%d without %s:\n%s", status, want, body)
		}
	}
	if _, body := h.get(t, c, "web.localhost", "/metrics"); body != "w" {
		t.Errorf("the app's own /metrics answered %q", body)
	}
}

func TestTrustedProxiesAreBelieved(t *testing.T) {
	t.Parallel()
	h := start(t, func(c *edge.Config) {
		c.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}
		c.Limit = limit.Config{Limit: 1, Window: time.Hour}
	})
	h.apply(t, router("web", newBackend(t, "w", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header["X-Forwarded-For"], r.Header["X-Forwarded-Proto"], r.Header["X-Forwarded-Host"])
	})))
	for _, test := range []struct {
		forwarded string
		status    int
		body      string
	}{
		{"6.6.6.6, 1.2.3.4, 10.1.1.1", 200, "[6.6.6.6, 1.2.3.4, 10.1.1.1, 127.0.0.1] [https] [a]"},
		{"7.7.7.7, 1.2.3.4", 429, ""}, // the same client, whatever it says itself
		{"1.2.3.5", 200, "[1.2.3.5, 127.0.0.1] [https] [a]"},
	} {
		status, _, body := h.raw(t, "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\nX-Forwarded-For: "+test.forwarded+"\r\n\r\n")
		if status != test.status || test.body != "" && body != test.body {
			t.Errorf("%s: %d %s", test.forwarded, status, body)
		}
	}
}

func TestHTTP2IsNotTunnelled(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	h.apply(t, router("web", newBackend(t, "w", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%q", r.Header.Get("Upgrade")+r.Header.Get("Connection")+r.Header.Get("HTTP2-Settings"))
	})))
	_, _, body := h.raw(t, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n")
	if body != `""` {
		t.Errorf("the backend saw %s", body)
	}
}

func TestBackendThatAlwaysRefusesEndsIn503(t *testing.T) {
	t.Parallel()
	h := start(t, func(c *edge.Config) {
		c.HoldTimeout, c.HTTP.SkipDead = 500*time.Millisecond, 100*time.Millisecond
	})
	b, _ := script(t, "refuses")
	h.apply(t, router("web", b))
	if status, header, body := h.raw(t, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); status != 503 || header.Get("Retry-After") == "" {
		t.Errorf("%d %v %s", status, header, body)
	}
}

func TestAddressInUseSaysSo(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	err := edge.New(edge.Config{ID: "other", Listen: []string{h.addr}}, h.store, h.store).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "another program") {
		t.Errorf("got %v", err)
	}
}
