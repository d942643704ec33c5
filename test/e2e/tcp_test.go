package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// getPort returns the answer to a GET at a port of this machine, or the error.
func getPort(t *testing.T, port uint16) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/", port), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// freePort is a port of this machine that nobody listens on.
func freePort(t *testing.T) uint16 {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	_, text, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(port)
}

// TestTCPAppIsReachedThroughItsPort holds that an app of type tcp has a port on the edge which stays its own, that it may choose one,
// and that a port that is taken is told.
func TestTCPAppIsReachedThroughItsPort(t *testing.T) {
	v := start(t)
	first := freePort(t)
	run(t, v, "config", "set", fmt.Sprintf("cluster.starting_port=%d", first))
	buildHello(t, v)
	spec := func(name, port string) string {
		return file(t, name+".yaml", strings.NewReplacer("type: http", "type: tcp", "{containerPort: 8080}", "{containerPort: 8080"+port+"}").Replace(helloSpec(name)))
	}
	run(t, v, "apply", "-f", spec("db", ""))
	app, err := v.API.App(t.Context(), "db")
	if err != nil || len(app.Ports) != 1 || app.Ports[0].Port < first {
		t.Fatalf("ports of db: %+v, %v", app.Ports, err)
	}
	port := app.Ports[0].Port
	eventually(t, "an answer at the port", func() bool { return strings.Contains(getPort(t, port), "Hello") })
	shown := fmt.Sprintf("%d/tcp", port)
	if out := run(t, v, "status", "db"); !strings.Contains(out, shown) {
		t.Errorf("status does not show %s:\n%s", shown, out)
	}
	if out := run(t, v, "apps", "-o", "wide"); !strings.Contains(out, shown) {
		t.Errorf("apps does not show %s:\n%s", shown, out)
	}

	run(t, v, "config", "set", "cluster.starting_port=4000")
	run(t, v, "restart", "db")
	eventually(t, "an answer at the same port after a restart", func() bool { return strings.Contains(getPort(t, port), "Hello") })

	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, number, _ := net.SplitHostPort(taken.Addr().String())
	run(t, v, "apply", "-f", spec("late", `, edgePort: "`+number+`"`))
	eventually(t, "an event of the taken port", func() bool { return strings.Contains(run(t, v, "events", "late"), "PortNotOpened") })
	if got := getPort(t, port); !strings.Contains(got, "Hello") {
		t.Errorf("the other app answers %q", got)
	}
	_ = taken.Close()
	late, _ := strconv.ParseUint(number, 10, 16)
	eventually(t, "the port that became free", func() bool { return strings.Contains(getPort(t, uint16(late)), "Hello") })

	run(t, v, "delete", "db")
	eventually(t, "the port of a deleted app to be closed", func() bool { return strings.Contains(getPort(t, port), "refused") })
}
