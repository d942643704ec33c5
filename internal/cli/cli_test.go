package cli_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vortex/client"
	"vortex/internal/api"
	"vortex/internal/api/apitest"
	"vortex/internal/api/kindrpc"
	"vortex/internal/authz"
	"vortex/internal/cli"
	"vortex/internal/config"
	"vortex/internal/kind/engine"
	"vortex/internal/kind/engine/etcd"
)

// world is a server, and a directory and an environment to run commands in.
type world struct {
	*apitest.Fixture

	dir     string
	kind    *kindrpc.Service
	environ []string
	daemon  cli.Daemon
}

func newWorld(t *testing.T) *world {
	t.Helper()
	f := apitest.Start(t, func(s *api.Server) {
		s.Ready = func(context.Context) []client.Check { return []client.Check{{Name: "store"}} }
		s.Edge = edgeOfACluster
	})
	f.Node(t, "n1", 4000, 8<<30)
	f.Obey(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	access := &authz.Authority{Store: f.Store, Token: apitest.Token}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	go func() { _ = access.Run(ctx) }()
	service := &kindrpc.Service{Store: f.Store, Access: access, Version: "test"}
	srv := kindrpc.NewServer(service)
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(srv.Stop)
	dir := t.TempDir()
	return &world{Fixture: f, dir: dir, kind: service, environ: []string{
		"HOME=" + dir, "VORTEX_SERVER=" + f.URL, "VORTEX_TOKEN=" + apitest.Token, "VORTEX_KIND=" + l.Addr().String(),
	}}
}

// edgeOfACluster is an edge with one route that is well and one that is not.
func edgeOfACluster() client.Edge {
	started := time.Now().Add(-3 * time.Minute)
	return client.Edge{
		ID: "n1", Node: "n1", Address: "10.0.0.1:8000", StartedAt: &started, Live: true, Revision: 7, Busy: []string{"web-3"},
		Listeners: []client.EdgeListener{{Address: "10.0.0.1:8000", Protocol: "http"}},
		Routes: []client.EdgeRoute{
			{Name: "api", Hosts: []string{"example.com"}, Paths: []string{"/api"}, Pool: "api", Balance: "random", Backends: 1, Held: 2},
			{Name: "web", Hosts: []string{}, Paths: []string{}, Pool: "web", Backends: 1, Usable: 1, RPS: 12, LatencyP95Ms: 3.25, InFlight: 4},
		},
		Backends: []client.EdgeBackend{
			{Pool: "api", Instance: "api-1", Address: "10.1.0.2:80", Weight: 1, Out: "refused", Detail: "it refused a connection", Failed: 3},
			{Pool: "web", Instance: "web-1", Address: "10.1.0.3:80", Node: "n1", Zone: "eu", Release: 2, Weight: 1, InFlight: 4, Served: 900, Errors: 1, Idle: 2},
		},
	}
}

// run runs one command and returns its exit code, stdout and stderr.
func (w *world) run(ctx context.Context, stdin string, args ...string) (code int, out, errOut string) {
	var stdout, stderr bytes.Buffer
	code = cli.Main(ctx, args, w.env(stdin, &stdout, &stderr))
	return code, stdout.String(), stderr.String()
}

// env is what a command of the world gets from outside.
func (w *world) env(stdin string, stdout, stderr io.Writer) cli.Env {
	return cli.Env{
		Stdin: strings.NewReader(stdin), Stdout: stdout, Stderr: stderr, Environ: w.environ, Daemon: w.daemon, Engine: embedded,
		Build: cli.Build{Version: "v1.2.3", Commit: "abc"}, RuntimeDir: filepath.Join(w.dir, "run"),
	}
}

// embedded opens the store of a server that does not run.
func embedded(ctx context.Context, cfg config.Config) (engine.Engine, error) {
	return etcd.Embedded{Dir: filepath.Join(cfg.Data, "store")}.Open(ctx)
}

func TestServersAreFoundByTheirRunFile(t *testing.T) {
	w := newWorld(t)
	data := t.TempDir()
	remove, err := client.WriteRunFile(client.RunFile{API: w.URL, Token: apitest.Token, PID: os.Getpid(), Data: data, StartedAt: time.Now()}, filepath.Join(w.dir, "run"))
	if err != nil {
		t.Fatal(err)
	}
	w.environ = []string{"HOME=" + w.dir}
	if code, _, errOut := w.run(t.Context(), "", "apps"); code != 0 {
		t.Errorf("a server of this machine is not found: %s", errOut)
	}
	if code, out, _ := w.run(t.Context(), "", "token"); code != 0 || strings.TrimSpace(out) != apitest.Token {
		t.Errorf("token: %d %q", code, out)
	}
	if info, err := os.Stat(filepath.Join(data, "run.json")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("run file: %v, %v", info, err)
	}
	remove()
	if code, _, errOut := w.run(t.Context(), "", "token"); code != 3 {
		t.Errorf("after the server went: %d %s", code, errOut)
	}
}

func TestRunFilesOfDeadServersArePassedOver(t *testing.T) {
	dir := t.TempDir()
	const noProcess = 1 << 30
	if _, err := client.WriteRunFile(client.RunFile{API: "http://127.0.0.1:1", PID: noProcess, Data: t.TempDir()}, dir); err != nil {
		t.Fatal(err)
	}
	if runs, err := client.RunFiles(dir); err != nil || len(runs) != 0 {
		t.Errorf("%+v, %v", runs, err)
	}
	if _, err := client.WriteRunFile(client.RunFile{API: "http://127.0.0.1:2", PID: os.Getpid(), Data: t.TempDir()}, dir); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("what dead servers left is kept: %v, %v", entries, err)
	}
}

func TestLoginKeepsATokenAndContextsSwitch(t *testing.T) {
	w := newWorld(t)
	w.environ = []string{"HOME=" + w.dir}
	ctx := t.Context()
	if code, out, _ := w.run(ctx, "", "context", "ls", "-o", "json"); code != 0 || !strings.Contains(out, `"contexts": []`) {
		t.Errorf("no contexts: %d %s", code, out)
	}
	if code, _, errOut := w.run(ctx, "wrong\n", "login", w.URL, "--name", "lab"); code != 4 || !strings.Contains(errOut, "not valid") {
		t.Errorf("a wrong token was kept: %d %s", code, errOut)
	}
	if code, _, errOut := w.run(ctx, apitest.Token+"\n", "login", w.URL, "--name", "lab"); code != 0 {
		t.Fatalf("login: %s", errOut)
	}
	if code, _, errOut := w.run(ctx, "", "apps"); code != 0 {
		t.Errorf("the context is not used: %s", errOut)
	}
	info, err := os.Stat(filepath.Join(w.dir, ".config", "vortex", "config.yaml"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("contexts: %v, %v", info, err)
	}
	if code, _, errOut := w.run(ctx, "", "apps", "--context", "lob"); code != 3 || !strings.Contains(errOut, "did you mean lab?") {
		t.Errorf("misspelt context: %d %s", code, errOut)
	}
	if code, _, _ := w.run(ctx, "", "context", "rm", "lab"); code != 0 {
		t.Error("context rm")
	}
	if code, _, _ := w.run(ctx, "", "token"); code != 3 {
		t.Errorf("a removed context's token is still known: %d", code)
	}
}

func TestNoServer(t *testing.T) {
	w := newWorld(t)
	w.environ = []string{"HOME=" + w.dir, "VORTEX_SERVER=http://127.0.0.1:1"}
	code, _, errOut := w.run(t.Context(), "", "apps")
	if code != 1 || !strings.Contains(errOut, "no server answers at http://127.0.0.1:1") || !strings.Contains(errOut, "vortex up") {
		t.Errorf("%d %s", code, errOut)
	}
}

func TestTimeoutIsExitCode5(t *testing.T) {
	f := apitest.Start(t) // nobody obeys
	w := &world{Fixture: f, dir: t.TempDir(), environ: []string{"VORTEX_SERVER=" + f.URL, "VORTEX_TOKEN=" + apitest.Token}}
	spec := filepath.Join(w.dir, "web.yaml")
	if err := os.WriteFile(spec, []byte("metadata: {name: web}\nspec: {image: 'x:v1', ports: [{containerPort: 80}]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, errOut := w.run(t.Context(), "", "apply", "-f", spec, "--timeout", "300ms")
	if code != 5 || !strings.Contains(errOut, "waits for the control plane") || !strings.Contains(errOut, "vortex status web") {
		t.Errorf("apply: %d %s", code, errOut)
	}
	code, _, errOut = w.run(t.Context(), "", "scale", "web", "3", "--timeout", "400ms")
	if code != 5 || !strings.Contains(errOut, "0 of") {
		t.Errorf("scale: %d %s", code, errOut)
	}
}

// oneServer is a daemon that is ready at once.
type oneServer struct {
	run client.RunFile
	cfg chan config.Config
}

func (o oneServer) Run(ctx context.Context, cfg config.Config, ready func(client.RunFile)) error {
	o.cfg <- cfg
	o.run.Data = cfg.Data
	ready(o.run)
	<-ctx.Done()
	return nil
}

func TestUpAppliesItsFilesAndStopsCleanly(t *testing.T) {
	w := newWorld(t)
	daemon := oneServer{run: client.RunFile{API: w.URL, Edge: "http://127.0.0.1:8000", Token: apitest.Token}, cfg: make(chan config.Config, 1)}
	w.daemon = daemon
	spec := filepath.Join(w.dir, "web.yaml")
	if err := os.WriteFile(spec, []byte("metadata: {name: web}\nspec: {image: 'x:v1', ports: [{containerPort: 80}]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for app, err := range w.Client.FollowApps(ctx) {
			if err == nil && app.Running == 1 && app.Apps[0].Status == client.StatusRunning {
				cancel()
			}
		}
	}()
	code, out, errOut := w.run(ctx, "", "up", "-f", spec, "--data", w.dir, "--no-edge", "--log-level", "debug")
	if code != 0 || !strings.Contains(out, "http://127.0.0.1:8000") || !strings.Contains(out, "app/web created") {
		t.Errorf("%d\n%s\n%s", code, out, errOut)
	}
	cfg := <-daemon.cfg
	if cfg.Data != w.dir || !cfg.NoEdge || cfg.LogLevel != "debug" || cfg.API != "127.0.0.1:7070" {
		t.Errorf("%+v", cfg)
	}
	if code, _, errOut := w.run(t.Context(), "", "up", "--join", "other"); code != 2 || !strings.Contains(errOut, "needs --advertise") {
		t.Errorf("--join: %d %s", code, errOut)
	}
	if code, _, errOut := w.run(t.Context(), "", "up", "-f", filepath.Join(w.dir, "none.yaml")); code != 3 {
		t.Errorf("a missing file: %d %s", code, errOut)
	}
}

func TestExecPassesTheExitCodeThrough(t *testing.T) {
	w := newWorld(t)
	if _, err := w.Client.Register(t.Context(), apitest.App("web"), "", false); err != nil {
		t.Fatal(err)
	}
	for app, err := range w.Client.FollowApp(t.Context(), "web") {
		if err != nil {
			t.Fatal(err)
		}
		if app.Status == client.StatusRunning {
			break
		}
	}
	code, out, errOut := w.run(t.Context(), "hello", "exec", "-i", "web", "--", "/bin/sh", "-c", "cat; exit 42")
	if code != 42 || out != "hello" {
		t.Errorf("%d %q %q", code, out, errOut)
	}
	if code, _, errOut := w.run(t.Context(), "", "exec", "-it", "web", "--", "sh"); code != 2 || !strings.Contains(errOut, "-t needs a terminal") {
		t.Errorf("-t without a terminal: %d %s", code, errOut)
	}
}

func TestEveryCommandExplainsItself(t *testing.T) {
	root := cli.New(cli.Env{Stdout: &bytes.Buffer{}, Stderr: &bytes.Buffer{}})
	for _, cmd := range root.Commands() {
		if cmd.Short == "" {
			t.Errorf("%s has no description", cmd.CommandPath())
		}
		for _, sub := range cmd.Commands() {
			if sub.Short == "" {
				t.Errorf("%s has no description", sub.CommandPath())
			}
		}
	}
	for want := range strings.FieldsSeq("up server apply diff apps status ps nodes events top metrics info cluster logs exec start stop scale restart rollback history delete kv image context login token completion version doctor config explain") {
		if cmd, _, err := root.Find([]string{want}); err != nil || cmd == root {
			t.Errorf("no command %s", want)
		}
	}
}
