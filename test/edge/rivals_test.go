package edge_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// rival is another proxy that is given the same requests.
type rival struct {
	name      string
	configure func(dir string, backends []net.Addr) (config string, args []string)
}

var rivals = []rival{{"nginx", nginx}, {"haproxy", haproxy}}

func socket(dir string, n int) string { return filepath.Join(dir, fmt.Sprintf("%d.sock", n)) }

// nginx is Debian's, with its defaults but for the patience.
func nginx(dir string, backends []net.Addr) (config string, args []string) {
	var b strings.Builder
	fmt.Fprintf(&b, "daemon off; master_process off; pid %[1]s/pid; error_log %[1]s/error.log crit;\nevents { worker_connections 4096; }\nhttp {\n"+
		"access_log off; client_header_timeout 1s; client_body_timeout 1s; proxy_http_version 1.1; proxy_set_header Connection \"\";\n"+
		"proxy_set_header Host $host; client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;\n", dir)
	for i, addr := range backends {
		fmt.Fprintf(&b, "server { listen unix:%s; location / { proxy_pass http://%s; } }\n", socket(dir, i), addr)
	}
	b.WriteString("}\n")
	path := filepath.Join(dir, "nginx.conf")
	return b.String(), []string{"-p", dir, "-c", path}
}

// haproxy is Debian's, with its defaults but for the patience.
func haproxy(dir string, backends []net.Addr) (config string, args []string) {
	var b strings.Builder
	b.WriteString("global\n maxconn 2000\ndefaults\n mode http\n timeout http-request 1s\n timeout client 1s\n timeout server 2s\n timeout connect 1s\n")
	for i, addr := range backends {
		fmt.Fprintf(&b, "frontend f%[1]d\n bind unix@%[2]s\n default_backend b%[1]d\nbackend b%[1]d\n server s %[3]s\n", i, socket(dir, i), addr)
	}
	return b.String(), []string{"-db", "-f", filepath.Join(dir, "haproxy.conf")}
}

// start runs the rival before the backends until the test ends. A socket each leads to them.
func (r rival) start(t *testing.T, backends []net.Addr) (dir string) {
	t.Helper()
	path, err := exec.LookPath(r.name)
	if err != nil {
		t.Skipf("%s is not installed", r.name)
	}
	if dir, err = os.MkdirTemp("", r.name); err != nil { //nolint:usetesting // short, as paths of sockets must be
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	config, args := r.configure(dir, backends)
	if err := os.WriteFile(filepath.Join(dir, r.name+".conf"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, path, args...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() { cancel(); <-ended })
	for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) { // waits for a condition
		conn, err := net.Dial("unix", socket(dir, len(backends)-1))
		if err == nil {
			_ = conn.Close()
			return dir
		}
		select {
		case <-ended:
			t.Fatalf("%s ended: %s", r.name, said.String())
		default:
		}
		if time.Since(begun) > patience {
			t.Fatalf("%s does not listen: %s", r.name, said.String())
		}
	}
}

// TestBesideOthers sends the requests of the corpus through nginx and HAProxy as well, and prints what became of each with -v. It holds them to nothing.
func TestBesideOthers(t *testing.T) { //nolint:tparallel // the table is printed when both have played
	t.Parallel()
	if !testing.Verbose() {
		t.Skip("prints a table with -v")
	}
	cases := corpus(t, "requests")
	columns := map[string][]string{}
	var mu sync.Mutex
	t.Run("play", func(t *testing.T) {
		for _, r := range rivals {
			t.Run(r.name, func(t *testing.T) {
				t.Parallel()
				outcomes := playAll(t, r, cases)
				mu.Lock()
				defer mu.Unlock()
				columns[r.name] = outcomes
			})
		}
	})
	var table strings.Builder
	for i, c := range cases {
		fmt.Fprintf(&table, "%-34s  edge: %-28s", c.name, strings.Join(append([]string{c.expect}, c.sees...), "; "))
		for _, r := range rivals {
			if outcomes := columns[r.name]; outcomes != nil {
				fmt.Fprintf(&table, "  %s: %s", r.name, outcomes[i])
			}
		}
		table.WriteByte('\n')
	}
	t.Log("\n" + table.String())
}

// playAll returns what a rival makes of every case.
func playAll(t *testing.T, r rival, cases []testCase) []string {
	t.Helper()
	backends, addrs := make([]*recorder, len(cases)), make([]net.Addr, len(cases))
	for i := range cases {
		backends[i] = record(t, echo)
		addrs[i] = backends[i].Addr()
	}
	dir := r.start(t, addrs)
	outcomes := make([]string, len(cases))
	var playing sync.WaitGroup
	slots := make(chan struct{}, 16)
	for i, c := range cases {
		playing.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			outcomes[i] = play(socket(dir, i), backends[i], c)
		})
	}
	playing.Wait()
	return outcomes
}

// play sends a case and tells in short what came of it: the answers, and what the backend got.
func play(path string, backend *recorder, c testCase) string {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(1500 * time.Millisecond))
	_, _ = conn.Write(c.wire)
	answer, _ := io.ReadAll(conn)
	answers, _ := commonResponses(answer)
	var told []string
	for _, m := range answers {
		told = append(told, m.start)
	}
	seen, err := backend.requests()
	for _, m := range seen {
		if len(m.body) > 20 {
			m.body = m.body[:20]
		}
		told = append(told, "→ "+m.String())
	}
	if err != nil && !errors.Is(err, errPart) {
		told = append(told, "AMBIGUOUS")
	}
	return fmt.Sprintf("%.80s", strings.Join(told, " "))
}
