package health_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"vortex"
	"vortex/internal/health"
)

// httpCheck is a check with every default filled in, as an app's Probe returns it.
func httpCheck(t *testing.T, server *httptest.Server, change func(*vortex.HealthCheck)) (check vortex.HealthCheck, address string) {
	t.Helper()
	target := netip.MustParseAddrPort(server.Listener.Addr().String())
	app := vortex.App{HealthCheck: &vortex.HealthCheck{}}
	port := target.Port()
	app.HealthCheck.Port = &port
	if change != nil {
		change(app.HealthCheck)
	}
	check, ok := app.Probe()
	if !ok {
		t.Fatal("no check")
	}
	return check, target.Addr().String()
}

func probe(t *testing.T, check vortex.HealthCheck, address string) health.Result {
	t.Helper()
	p, err := health.NewProbe(check, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p.Run(t.Context())
}

func TestHTTPProbeJudgesTheStatusCode(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/down":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/moved":
			http.Redirect(w, r, "/down", http.StatusFound)
		case "/teapot":
			w.WriteHeader(http.StatusTeapot)
		}
	}))
	defer server.Close()
	tests := []struct {
		path    string
		codes   []uint16
		healthy bool
		detail  string
	}{
		{"/", nil, true, "200 OK"},
		{"/down", nil, false, "503 Service Unavailable"},
		{"/moved", nil, true, "302 Found"}, // an answer like any other: it is not followed
		{"/teapot", []uint16{418}, true, "418 I'm a teapot"},
		{"/", []uint16{204}, false, "200 OK"},
	}
	for _, tt := range tests {
		check, address := httpCheck(t, server, func(c *vortex.HealthCheck) { c.Path, c.ExpectedStatusCodes = tt.path, tt.codes })
		got := probe(t, check, address)
		want := "GET " + server.URL + tt.path + ": " + tt.detail
		if got.Healthy != tt.healthy || got.Detail != want {
			t.Errorf("%s %v: %v %q; want %v %q", tt.path, tt.codes, got.Healthy, got.Detail, tt.healthy, want)
		}
	}
}

func TestHTTPProbeSendsWhatTheCheckSays(t *testing.T) {
	var seen *http.Request
	var body string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		seen, body = r, string(b)
	}))
	defer server.Close()
	check, address := httpCheck(t, server, func(c *vortex.HealthCheck) {
		c.Method, c.Path, c.Body = http.MethodPost, "/check?deep=1", "ping"
		c.Headers = []vortex.Header{{Name: "X-Probe", Value: "vortex"}, {Name: "Host", Value: "app.example.com"}}
	})
	if got := probe(t, check, address); !got.Healthy {
		t.Fatal(got.Detail)
	}
	if seen.Method != http.MethodPost || seen.URL.RequestURI() != "/check?deep=1" || body != "ping" ||
		seen.Header.Get("X-Probe") != "vortex" || seen.Host != "app.example.com" || !seen.Close {
		t.Errorf("sent %s %s %q %v host %s", seen.Method, seen.URL, body, seen.Header, seen.Host)
	}
}

func TestHTTPProbeDoesNotReadEndlessAnswers(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write([]byte(strings.Repeat("x", 1<<16))); err != nil {
				return
			}
		}
	}))
	defer server.Close()
	check, address := httpCheck(t, server, nil)
	if got := probe(t, check, address); !got.Healthy {
		t.Errorf("endless answer: %+v", got)
	}
}

func TestProbeSaysWhyThereIsNoAnswer(t *testing.T) {
	silent := listen(t, func(net.Conn) {})
	rude := listen(t, func(c net.Conn) { _ = c.Close() })
	garbage := listen(t, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 4096))
		_, _ = c.Write([]byte("\x00\xff nonsense\r\n\r\n"))
		_ = c.Close()
	})
	closed := listen(t, func(net.Conn) {})
	_ = closed.Close()
	timeout := 0.2
	tests := []struct {
		name     string
		at       net.Listener
		protocol vortex.ProbeProtocol
		healthy  bool
		detail   string
	}{
		{"http refused", closed, vortex.ProbeProtocolHTTP, false, ": connect: connection refused"},
		{"tcp refused", closed, vortex.ProbeProtocolTCP, false, ": connect: connection refused"},
		{"http silent", silent, vortex.ProbeProtocolHTTP, false, ": no answer within 200ms"},
		{"tcp silent", silent, vortex.ProbeProtocolTCP, true, ": accepted"},
		{"http closed", rude, vortex.ProbeProtocolHTTP, false, ": "},
		{"http garbage", garbage, vortex.ProbeProtocolHTTP, false, "malformed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			target := netip.MustParseAddrPort(tt.at.Addr().String())
			port := target.Port()
			app := vortex.App{HealthCheck: &vortex.HealthCheck{Protocol: tt.protocol, Port: &port, TimeoutSeconds: &timeout}}
			check, _ := app.Probe()
			got := probe(t, check, target.Addr().String())
			if got.Healthy != tt.healthy || !strings.Contains(got.Detail, tt.detail) || !strings.Contains(got.Detail, target.String()) {
				t.Errorf("%+v; want %v and %q", got, tt.healthy, tt.detail)
			}
		})
	}
}

func TestExecProbe(t *testing.T) {
	check, _ := (&vortex.App{HealthCheck: &vortex.HealthCheck{Protocol: vortex.ProbeProtocolEXEC, Command: []string{"check", "-x"}}}).Probe()
	tests := []struct {
		code    int
		output  string
		err     error
		healthy bool
		detail  string
	}{
		{0, "fine\n", nil, true, "check -x: exit code 0"},
		{3, "first\n\x1b[31mno database\n", nil, false, "check -x: exit code 3: [31mno database"},
		{0, "", context.DeadlineExceeded, false, "check -x: no answer within 2s"},
		{0, "", vortex.Errorf(vortex.Precondition, "it does not run"), false, "check -x: it does not run"},
		{0, "", errors.New("boom"), false, "check -x: boom"},
	}
	for _, tt := range tests {
		p, err := health.NewProbe(check, "", func(context.Context, []string) (int, string, error) { return tt.code, tt.output, tt.err })
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Run(t.Context()); got.Healthy != tt.healthy || got.Detail != tt.detail {
			t.Errorf("%+v; want %v %q", got, tt.healthy, tt.detail)
		}
	}
}

func TestChecksThatCannotBeMade(t *testing.T) {
	port := uint16(80)
	for _, check := range []vortex.HealthCheck{
		{Protocol: vortex.ProbeProtocolPUSH, Port: &port},
		{Protocol: vortex.ProbeProtocolHTTP},
		{Protocol: vortex.ProbeProtocolEXEC},
	} {
		if _, err := health.NewProbe(check, "127.0.0.1", nil); !vortex.IsKind(err, vortex.Invalid) {
			t.Errorf("%s: %v; want Invalid", check.Protocol, err)
		}
	}
}

// listen serves each connection with handle and closes what is open when the test ends.
func listen(t *testing.T, handle func(net.Conn)) net.Listener {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var open []net.Conn
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			_ = c.SetDeadline(time.Now().Add(time.Minute))
			open = append(open, c)
			handle(c)
		}
		for _, c := range open {
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l
}
