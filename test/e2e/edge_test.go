package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"vortex/client"
	"vortex/test/harness"
)

// edgeAlone is `vortex edge --config`.
type edgeAlone struct {
	bin, file, admin string
	addr             string // of its first listener
	cmd              *exec.Cmd
	log              *harness.Output
}

// startEdge runs an edge until the test ends. %ADMIN% in its file becomes a socket.
func startEdge(t *testing.T, content string) *edgeAlone {
	t.Helper()
	bin, err := harness.Binary()
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	e := &edgeAlone{bin: bin, file: filepath.Join(dir, "edge.yaml"), admin: "unix:" + filepath.Join(dir, "admin.sock"), log: &harness.Output{}}
	e.write(t, content)
	e.cmd = exec.Command(bin, "edge", "--config", e.file) // it is ended below
	e.cmd.Stdout, e.cmd.Stderr = e.log, e.log
	if err := e.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- e.cmd.Wait() }()
	t.Cleanup(func() {
		_ = e.cmd.Process.Signal(os.Interrupt)
		if err := <-ended; err != nil {
			t.Errorf("the edge ended with %v", err)
		}
		if t.Failed() {
			t.Logf("the end of the edge's log:\n%s", lastLines(e.log.String(), 10))
		}
	})
	eventually(t, "the edge is up\n", func() bool { return strings.Contains(e.log.String(), "The edge is up") })
	e.addr = e.status(t).Listeners[0].Address
	return e
}

// lastLines keeps what a test says of its failure from drowning in a log.
func lastLines(text string, n int) string {
	lines := strings.SplitAfter(text, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "")
}

// write replaces the file at once.
func (e *edgeAlone) write(t *testing.T, content string) {
	t.Helper()
	content = strings.ReplaceAll(content, "%ADMIN%", e.admin)
	if err := os.WriteFile(e.file+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(e.file+".new", e.file); err != nil {
		t.Fatal(err)
	}
}

// run runs a command of the binary.
func (e *edgeAlone) run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return harness.Command(t.Context(), e.bin, []string{"VORTEX_EDGE=" + e.admin}, args...)
}

func (e *edgeAlone) status(t *testing.T) client.Edge {
	t.Helper()
	out, errs, code := e.run(t, "edge", "status", "-o", "json")
	var list client.EdgeList
	if err := json.Unmarshal([]byte(out), &list); code != 0 || err != nil || len(list.Edges) != 1 {
		t.Fatalf("edge status: exit %d\n%s%s%v", code, out, errs, err)
	}
	return list.Edges[0]
}

// get asks the edge.
func (e *edgeAlone) get(host, path string) (int, string) {
	req, err := http.NewRequest(http.MethodGet, "http://"+e.addr+path, http.NoBody) // it answers or the test ends
	if err != nil {
		return 0, err.Error()
	}
	req.Host = host
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(body)
}

// answering serves its name, until the test ends.
func answering(t *testing.T, name string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0") // at once
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) })}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close() })
	return ln.Addr().String()
}

const siteFile = `
listeners: [{name: web, address: "127.0.0.1:0"}]
admin: "%%ADMIN%%"
routes:
  - {name: %s, hosts: [site.example], pool: %s}
pools:
  - {name: %s, backends: [{address: "%s"}, {address: "%s"}]}
`

// TestEdgeAloneReloadsWithoutLoss changes the file a hundred times in ten seconds, under load: names of routes and pools, backends,
// further listeners. No request is lost. Changes that come while the edge has no time are taken in together.
func TestEdgeAloneReloadsWithoutLoss(t *testing.T) {
	a, b, c := answering(t, "a"), answering(t, "b"), answering(t, "c")
	files := []string{
		fmt.Sprintf(siteFile, "site", "one", "one", a, b),
		fmt.Sprintf(siteFile, "site", "one", "one", b, c),
		fmt.Sprintf(siteFile, "site", "two", "two", a, c),
		fmt.Sprintf(siteFile, "renamed", "one", "one", a, c),
		strings.Replace(fmt.Sprintf(siteFile, "site", "one", "one", a, b), "}]\nadmin", `}, {name: more, address: "127.0.0.2:0"}]`+"\nadmin", 1),
	}
	e := startEdge(t, files[0])
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	results := make(chan harness.Result, 1)
	go func() {
		results <- harness.Load{URL: "http://" + e.addr + "/", Host: "site.example", Rate: 500}.Run(ctx)
	}()
	const changes = 100
	begun := time.Now()
	for i := range changes {
		e.write(t, files[(i+1)%len(files)])
		select {
		case <-time.After(time.Until(begun.Add(time.Duration(i+1) * 10 * time.Second / changes))):
		case <-ctx.Done():
		}
	}
	e.write(t, fmt.Sprintf(siteFile, "last", "one", "one", a, b))
	eventually(t, "the last file is in force", func() bool {
		return slices.ContainsFunc(e.status(t).Routes, func(r client.EdgeRoute) bool { return r.Name == "last" })
	})
	cancel()
	lostNothing(t, <-results)
	st := e.status(t)
	t.Logf("%d files in force, %d refused, of %d changes", st.Config.Reloads, st.Config.Refused, changes)
	if st.Config.Reloads < changes/10 {
		t.Errorf("only %d files were taken in", st.Config.Reloads)
	}
	if st.Config.Refused > 0 || st.Config.Error != "" {
		t.Errorf("files were refused: %s", st.Config.Error)
	}
}

func TestEdgeAloneOutlivesABadFile(t *testing.T) {
	a, b := answering(t, "a"), answering(t, "b")
	good := fmt.Sprintf(siteFile, "site", "one", "one", a, a)
	good = strings.Replace(good, fmt.Sprintf(`, {address: "%s"}]`, a), "]", 1)
	e := startEdge(t, good)
	if status, body := e.get("site.example", "/"); status != 200 || body != "a" {
		t.Fatalf("answered %d %s", status, body)
	}
	e.write(t, strings.Replace(good, "hosts:", "host:", 1))
	eventually(t, "the file is refused", func() bool { return e.status(t).Config.Error != "" })
	want := `edge.yaml:5:18: unknown field "host" in routes[0]; did you mean "hosts"?`
	if err := e.status(t).Config.Error; !strings.Contains(err, want) {
		t.Errorf("refused with %s\nwant %s", err, want)
	}
	if log := e.log.String(); !strings.Contains(log, "Configuration refused, the last good one stays in force") || !strings.Contains(log, "did you mean") {
		t.Errorf("the log does not tell:\n%s", log)
	}
	if out, _, _ := e.run(t, "edge", "status"); !strings.Contains(out, "Warning") || !strings.Contains(out, "the file was refused") {
		t.Errorf("the status does not tell:\n%s", out)
	}
	if _, errs, code := e.run(t, "edge", "check", "--config", e.file); code != 2 || !strings.Contains(errs, want) {
		t.Errorf("check: exit %d\n%s", code, errs)
	}
	if status, body := e.get("site.example", "/"); status != 200 || body != "a" {
		t.Errorf("with a bad file answered %d %s", status, body)
	}
	e.write(t, strings.Replace(good, a, b, 1))
	eventually(t, "the mended file is in force", func() bool { return e.status(t).Config.Error == "" })
	if status, body := e.get("site.example", "/"); status != 200 || body != "b" {
		t.Errorf("mended it answered %d %s", status, body)
	}
	before := e.status(t).Config.Reloads
	if err := e.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "SIGHUP reads it again", func() bool { return e.status(t).Config.Reloads > before })
}

var ports = regexp.MustCompile(`127\.0\.0\.1:\d+`)

func TestEdgeAloneShowsWhatItDoes(t *testing.T) {
	a := answering(t, "a")
	e := startEdge(t, fmt.Sprintf(`
listeners: [{name: web, address: "127.0.0.1:0"}]
admin: "%%ADMIN%%"
routes:
  - {name: api, hosts: [site.example], paths: [/api], pool: site, listeners: [web]}
  - {name: rest, backends: [{address: "localhost:1", weight: 3}]}
pools:
  - {name: site, balance: least-request, backends: [{address: "%s", zone: eu}]}
`, a))
	for range 3 {
		if status, body := e.get("site.example", "/api/x"); status != 200 || body != "a" {
			t.Errorf("answered %d %s", status, body)
		}
	}
	for command, want := range map[string][]string{
		"routes":                   {"ROUTE HOSTS PATHS POOL BACKENDS RPS P95 ERRORS/S DETAIL", "api site.example /api site 1/1", "rest * / rest 1/1"},
		"routes -o wide":           {"api", "web", "least-request"},
		"routes -o name":           {"api", "rest"},
		"routes -o yaml":           {"- name: api", "listeners:", "- web"},
		"backends":                 {"POOL BACKEND STATE WEIGHT IN FLIGHT SERVED ERRORS FAILED DETAIL", "rest localhost:1@", "site ADDR Ready 1 0 3 0 0"},
		"backends -o wide":         {"site", "eu"},
		"backends -o name":         {"localhost:1@127.0.0.1", "ADDR"},
		"backends -o json":         {`"pool": "site"`, `"served": 3`, `"weight": 3`},
		"status":                   {"Running", "ADDR"},
		"status -o wide":           {e.file},
		"check --config " + e.file: {"is good: 1 listener, 2 routes, 1 pool, 2 backends"},
	} {
		out, errs, code := e.run(t, append([]string{"edge"}, strings.Fields(command)...)...)
		text := strings.Join(strings.Fields(ports.ReplaceAllString(out, "ADDR")), " ")
		for _, w := range want {
			if code != 0 || !strings.Contains(text, w) && !strings.Contains(out, w) {
				t.Errorf("edge %s: exit %d, no %q in\n%s%s", command, code, w, out, errs)
			}
		}
	}
	if n := e.metric(t, `vortex_requests_total{status="200"}`); n != "3" {
		t.Errorf("vortex_requests_total is %q", n)
	}
	for metric, want := range map[string]string{
		`vortex_edge_route_request_duration_seconds_count{code="2xx",route="api"}`:                                  "3",
		`vortex_edge_backend_request_duration_seconds_count{backend="` + a + `",code="2xx",pool="site"}`:            "3",
		`vortex_edge_backend_request_duration_seconds_bucket{backend="` + a + `",code="2xx",pool="site",le="+Inf"}`: "3",
		`vortex_edge_backend_usable{backend="` + a + `",pool="site"}`:                                               "1",
		`vortex_edge_config_last_reload_successful`:                                                                 "1",
	} {
		if n := e.metric(t, metric); n != want {
			t.Errorf("%s is %q, want %s", metric, n, want)
		}
	}
}

// metrics is a metric's value, from the admin socket.
func (e *edgeAlone) metric(t *testing.T, name string) string {
	t.Helper()
	path := strings.TrimPrefix(e.admin, "unix:")
	hc := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	resp, err := hc.Get("http://localhost/metrics") // it answers or the test ends
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for s := bufio.NewScanner(resp.Body); s.Scan(); {
		if value, ok := strings.CutPrefix(s.Text(), name+" "); ok {
			return value
		}
	}
	return ""
}
