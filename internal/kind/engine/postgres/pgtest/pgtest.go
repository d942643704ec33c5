// Package pgtest runs real PostgreSQL servers for tests: made in a directory of their own, on a free loopback port, and
// gone when the test ends. They can be stopped, killed as by a crash, paused, started again, and followed by a replica.
// A test is skipped where PostgreSQL is not installed.
//
//	server := pgtest.Start(t)
//	db, err := pgx.Connect(ctx, server.URL())
//	server.Kill()
//	server.Restart()
package pgtest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"vortex/internal/kind/kindtest"
)

// Server is one PostgreSQL. Its methods fail the test that it was started for.
type Server struct {
	tb      testing.TB
	account account
	dir     string // holds data/ and the unix socket
	port    int
	cmd     *exec.Cmd
	exited  chan struct{}
}

// Start makes an empty database cluster and runs a server on it. Its superuser is postgres, without a password.
func Start(tb testing.TB) *Server {
	tb.Helper()
	s := prepare(tb)
	s.tool("initdb", "--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "-D", s.data())
	s.Restart()
	return s
}

// prepare finds PostgreSQL and a place for a server; the server's end is the test's.
func prepare(tb testing.TB) *Server {
	tb.Helper()
	if _, err := program("postgres"); err != nil {
		tb.Skip("no PostgreSQL server: install postgresql to test this engine")
	}
	who, err := unprivileged()
	if err != nil {
		tb.Skipf("PostgreSQL does not run as root, and there is no other account: %v", err)
	}
	dir, err := os.MkdirTemp("", "pgtest-") //nolint:usetesting // the parents of tb.TempDir are closed to other accounts
	if err != nil {
		tb.Fatal(err)
	}
	if err := who.own(dir); err != nil {
		tb.Fatal(err)
	}
	s := &Server{tb: tb, account: who, dir: dir, port: freePort(tb)}
	tb.Cleanup(func() {
		s.Kill()
		if tb.Failed() {
			tb.Logf("PostgreSQL on port %d says:\n%s", s.port, s.tail())
		}
		_ = os.RemoveAll(dir)
	})
	return s
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// URL is where the server is reached, with parameters such as "kind_schema=test" appended.
func (s *Server) URL(parameters ...string) string { return URL([]*Server{s}, parameters...) }

// URL names several servers, of which the one that takes writes is used.
func URL(servers []*Server, parameters ...string) string {
	hosts := make([]string, len(servers))
	for i, s := range servers {
		hosts[i] = s.Addr()
	}
	all := append([]string{"sslmode=disable"}, parameters...)
	if len(servers) > 1 {
		all = append(all, "target_session_attrs=read-write")
	}
	return "postgres://postgres@" + strings.Join(hosts, ",") + "/postgres?" + strings.Join(all, "&")
}

// Addr is the server's host:port.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// Pid is the process of the server that starts the others.
func (s *Server) Pid() int { return s.cmd.Process.Pid }

// Restart starts a server that is down, on the same port, and returns when it takes connections.
func (s *Server) Restart() {
	s.tb.Helper()
	for range 3 { // somebody else may have taken the port between two runs
		if s.launch() {
			return
		}
	}
	s.tb.Fatalf("PostgreSQL does not start:\n%s", s.tail())
}

// launch starts the server and reports whether it came up.
func (s *Server) launch() bool {
	s.tb.Helper()
	s.cmd = s.command("postgres", "-D", s.data(), "-k", s.dir, "-p", strconv.Itoa(s.port), "-h", "127.0.0.1",
		"-c", "max_connections=100", "-c", "wal_sender_timeout=5s", "-c", "wal_receiver_status_interval=1s")
	if err := s.cmd.Start(); err != nil {
		s.tb.Fatal(err)
	}
	cmd, exited := s.cmd, make(chan struct{})
	s.exited = exited
	go func() { defer close(exited); _ = cmd.Wait() }()
	up := false
	kindtest.Eventually(s.tb, "PostgreSQL takes connections", func() bool {
		up = s.tryExec("SELECT 1") == nil
		select {
		case <-exited:
			return true
		default:
			return up
		}
	})
	return up
}

// Stop ends the server in order: connections are cut, nothing is left to recover.
func (s *Server) Stop() {
	s.tb.Helper()
	s.signal(syscall.SIGINT)
	s.wait()
}

// Kill ends every process of the server at once, as a crash of its machine would.
func (s *Server) Kill() {
	if s.cmd == nil || s.cmd.Process == nil {
		return
	}
	s.signal(syscall.SIGSTOP) // it must not start another while its children are counted
	children := children(s.Pid())
	s.signal(syscall.SIGKILL)
	for _, pid := range children {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	s.wait()
	deadline := time.Now().Add(10 * time.Second)
	for slices.ContainsFunc(children, alive) && time.Now().Before(deadline) {
		<-time.After(time.Millisecond)
	}
}

// Pause stops every process of the server without ending it: connections stay open and silent.
func (s *Server) Pause() {
	s.signal(syscall.SIGSTOP)
	for _, pid := range children(s.Pid()) {
		_ = syscall.Kill(pid, syscall.SIGSTOP)
	}
}

// Resume lets a paused server go on.
func (s *Server) Resume() {
	for _, pid := range children(s.Pid()) {
		_ = syscall.Kill(pid, syscall.SIGCONT)
	}
	s.signal(syscall.SIGCONT)
}

func (s *Server) signal(sig syscall.Signal) { _ = s.cmd.Process.Signal(sig) }

// wait returns when the server has exited.
func (s *Server) wait() {
	select {
	case <-s.exited:
	case <-time.After(30 * time.Second):
		s.tb.Error("PostgreSQL does not exit")
	}
}

// Exec runs statements as the superuser.
func (s *Server) Exec(sql string) {
	s.tb.Helper()
	if err := s.tryExec(sql); err != nil {
		s.tb.Fatalf("%s: %v", sql, err)
	}
}

func (s *Server) tryExec(sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	db, err := pgx.Connect(ctx, s.URL())
	if err != nil {
		return err
	}
	defer func() { _ = db.Close(ctx) }()
	_, err = db.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
	return err
}

// command prepares one of PostgreSQL's programs, run as an account that it accepts.
func (s *Server) command(name string, args ...string) *exec.Cmd {
	s.tb.Helper()
	path, err := program(name)
	if err != nil {
		s.tb.Fatal(err)
	}
	cmd := exec.CommandContext(context.Background(), path, args...)
	cmd.Dir, cmd.SysProcAttr = s.dir, s.account.attr()
	cmd.Env = append(os.Environ(), "LC_ALL=C", "HOME="+s.dir)
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.tb.Fatal(err)
	}
	s.tb.Cleanup(func() { _ = log.Close() })
	cmd.Stdout, cmd.Stderr = log, log
	return cmd
}

// tool runs one of PostgreSQL's programs to its end.
func (s *Server) tool(name string, args ...string) {
	s.tb.Helper()
	if err := s.command(name, args...).Run(); err != nil {
		s.tb.Fatalf("%s: %v\n%s", name, err, s.tail())
	}
}

// program finds one of the server's programs, which Debian keeps off PATH.
func program(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if len(found) == 0 {
		return "", fmt.Errorf("%s is not installed", name)
	}
	return slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) }), nil
}

// version is the release that a program in Debian's place belongs to.
func version(path string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
	return n
}

func freePort(tb testing.TB) int {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		tb.Fatalf("not a TCP address: %v", l.Addr())
	}
	return addr.Port
}

func (s *Server) logFile() string { return filepath.Join(s.dir, "log") }

// tail is the end of what the server's programs said.
func (s *Server) tail() string {
	log, _ := os.ReadFile(s.logFile())
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	return strings.Join(lines[max(0, len(lines)-30):], "\n")
}
