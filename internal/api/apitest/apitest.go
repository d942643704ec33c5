// Package apitest starts the API over a real store for tests, with a cluster behind it that obeys at once: it writes the
// records that the loops and agents would write, so that what is derived from them can be tested without containers.
package apitest

import (
	"context"
	"fmt"
	"io"
	"iter"
	"net/http/httptest"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"vortex"
	"vortex/client"
	"vortex/internal/api"
	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
	"vortex/internal/runtime"
	"vortex/internal/settings"
)

// Token is the one the API accepts.
const Token = "test-token-0123456789"

// Fixture is a running API.
type Fixture struct {
	Store  *kind.Store
	API    *api.Server
	URL    string
	Client *client.Client
	Host   *Host
}

// Start starts an API that ends with the test. The options change the server before it serves.
func Start(tb testing.TB, options ...func(*api.Server)) *Fixture {
	tb.Helper()
	host := &Host{logs: map[string][]runtime.LogEntry{}, changed: make(chan struct{})}
	srv := &api.Server{
		Store: kindtest.Open(tb), Token: Token, Defaults: settings.Default(), Version: "test",
		Instances: host, ReservedPorts: map[uint16]string{7070: "the API of Vortex"},
	}
	for _, option := range options {
		option(srv)
	}
	ts := httptest.NewServer(srv.Handler())
	tb.Cleanup(func() {
		ts.CloseClientConnections()
		ts.Close()
	})
	c, err := client.New(client.Options{Server: ts.URL, Token: Token})
	if err != nil {
		tb.Fatal(err)
	}
	return &Fixture{Store: srv.Store, API: srv, URL: ts.URL, Client: c, Host: host}
}

// App is a small valid spec.
func App(name string) vortex.App {
	app := vortex.App{
		Metadata: vortex.Metadata{Name: name},
		Spec:     vortex.AppSpec{Image: "registry.test/" + name + ":v1", Ports: []vortex.Port{{ContainerPort: 8080}}},
	}
	app.SetDefaults()
	return app
}

// Node puts a ready node into the store.
func (f *Fixture) Node(tb testing.TB, name string, cpuMillis, memoryBytes uint64) {
	tb.Helper()
	node := vortex.NodeRecord{ID: name, Name: name, Address: "10.0.0.1", CPUMillis: cpuMillis, MemoryBytes: memoryBytes, Drivers: []string{"oci"}, OS: "linux", Arch: "amd64"}
	Put(tb, f.Store, vortex.Nodes, &node, name)
	live := vortex.LivenessRecord{Node: name, State: vortex.LivenessStateReady, Since: time.Now()}
	Put(tb, f.Store, vortex.Liveness, &live, name)
}

// Put writes a record.
func Put[T any](tb testing.TB, store *kind.Store, table vortex.Table[T], value *T, id ...string) {
	tb.Helper()
	if _, err := kind.Put(tb.Context(), store, table, value, id...); err != nil {
		tb.Fatalf("put %s: %v", table.Key(id...), err)
	}
}

// Obey makes the cluster follow every app until the test ends. An app whose image ends in ":broken" never becomes healthy.
func (f *Fixture) Obey(tb testing.TB) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	watch := f.Store.Watch(kind.WatchOptions{Prefixes: []string{vortex.Apps.Prefix + ":"}})
	o := obedient{store: f.Store, host: f.Host, known: map[string]bool{}}
	wg.Go(func() {
		for {
			if err := o.reconcile(ctx); err != nil && ctx.Err() == nil {
				tb.Errorf("cluster: %v", err)
				return
			}
			if _, err := watch.Next(ctx); err != nil {
				return
			}
		}
	})
	tb.Cleanup(func() { cancel(); wg.Wait(); watch.Close() })
}

// obedient is a control plane without time and without failures.
type obedient struct {
	store *kind.Store
	host  *Host
	known map[string]bool
}

func (o *obedient) reconcile(ctx context.Context) error {
	now := map[string]bool{}
	for _, e := range kind.All(o.store, vortex.Apps) {
		now[e.ID] = true
		if err := o.run(ctx, *e.Value); err != nil {
			return err
		}
	}
	for name := range o.known {
		if !now[name] {
			if err := o.remove(ctx, name); err != nil {
				return err
			}
		}
	}
	o.known = now
	return nil
}

// run makes an app's records what its spec asks for.
func (o *obedient) run(ctx context.Context, app vortex.AppRecord) error {
	release := app.Generation
	broken := strings.HasSuffix(app.Spec.Spec.Image, ":broken")
	want, _ := app.Spec.ReplicaRange(1, 50)
	if app.Replicas != nil {
		want = *app.Replicas
	}
	if app.Stopped != nil && *app.Stopped {
		want = 0
	}
	var txn kind.Txn
	add := func(op kind.Op, err error) {
		if err == nil {
			txn.Ops = append(txn.Ops, op)
		}
	}
	n := strconv.FormatUint(release, 10)
	if _, err := kind.Get(o.store, vortex.Releases, app.Name, n); vortex.IsKind(err, vortex.NotFound) {
		add(kind.PutOp(vortex.Releases, &vortex.ReleaseRecord{
			ClientID: app.Name, Number: release, Generation: app.Generation, Hash: app.Spec.TemplateHash(app.Image, app.RestartedAt),
			Spec: app.Spec, Image: app.Image, Cause: app.Cause, CreatedAt: app.UpdatedAt,
		}, app.Name, n))
	}
	rollout := vortex.RolloutRecord{
		ClientID: app.Name, Release: release, Active: release, Generation: app.Generation,
		State: vortex.RolloutStateComplete, Desired: want, UpdatedAt: time.Now().UTC(),
	}
	keep := map[string]bool{}
	for i := range want {
		id := fmt.Sprintf("%s-%d-%d", app.Name, release, i)
		keep[id] = true
		c := o.container(app, release, id)
		if broken {
			code := int32(3)
			c.Status, c.Health, c.ExitCode, c.Reason = vortex.ContainerStatusDead, vortex.HealthUnhealthy, &code, "exit code 3"
			rollout.State, rollout.Message, rollout.Instance = vortex.RolloutStateFailed, "exit code 3", id
		}
		if _, err := kind.Get(o.store, vortex.Containers, id); err != nil {
			o.host.Write(id, "started "+id)
			o.host.Write(id, "listening on 8080")
		}
		add(kind.PutOp(vortex.Containers, &c, id))
	}
	for _, e := range kind.All(o.store, vortex.Containers) {
		if e.Value.ClientID == app.Name && !keep[e.ID] {
			txn.Ops = append(txn.Ops, kind.DeleteOp(vortex.Containers, e.ID))
		}
	}
	add(kind.PutOp(vortex.Rollouts, &rollout, app.Name))
	_, err := o.store.Commit(ctx, txn)
	return err
}

func (o *obedient) container(app vortex.AppRecord, release uint64, id string) vortex.ContainerRecord {
	port := uint16(8080)
	started := app.UpdatedAt
	return vortex.ContainerRecord{
		ID: id, ClientID: app.Name, Status: vortex.ContainerStatusRunning, Health: vortex.HealthHealthy, IPAddress: "10.99.0.2",
		Port: &port, Node: "n1", Release: &release, RepoLink: app.Spec.Spec.Image, StartedAt: started, Driver: "sim",
	}
}

// remove deletes what is left of an app.
func (o *obedient) remove(ctx context.Context, name string) error {
	txn := kind.Txn{Ops: []kind.Op{kind.DeleteOp(vortex.Rollouts, name)}}
	for _, e := range kind.All(o.store, vortex.Containers) {
		if e.Value.ClientID == name {
			txn.Ops = append(txn.Ops, kind.DeleteOp(vortex.Containers, e.ID))
		}
	}
	for _, e := range kind.All(o.store, vortex.Releases) {
		if e.Value.ClientID == name {
			txn.Ops = append(txn.Ops, kind.Op{Key: vortex.Releases.Key(e.ID), Delete: true})
		}
	}
	_, err := o.store.Commit(ctx, txn)
	return err
}

// Host stands in for a machine's instances: its logs are what the test writes, its commands run on this machine.
type Host struct {
	mu      sync.Mutex
	logs    map[string][]runtime.LogEntry
	changed chan struct{} // closed and replaced at every write
}

// Write adds a line to the logs of an instance.
func (h *Host) Write(id, line string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.logs[id] = append(h.logs[id], runtime.LogEntry{Time: time.Now(), Stream: runtime.Stdout, Line: line})
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *Host) read(id string, from int) ([]runtime.LogEntry, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.logs[id][min(from, len(h.logs[id])):], h.changed
}

// Logs implements api.Instances.
func (h *Host) Logs(ctx context.Context, id string, opts runtime.LogOptions) (iter.Seq2[runtime.LogEntry, error], error) {
	all, _ := h.read(id, 0)
	if len(all) == 0 {
		return nil, vortex.Errorf(vortex.NotFound, "no instance %q", id)
	}
	skip := 0
	if opts.Tail > 0 {
		skip = max(0, len(all)-opts.Tail)
	}
	return func(yield func(runtime.LogEntry, error) bool) {
		for {
			entries, changed := h.read(id, skip)
			for _, e := range entries {
				skip++
				if !e.Time.Before(opts.Since) && !yield(e, nil) {
					return
				}
			}
			if !opts.Follow {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
		}
	}, nil
}

// Exec implements api.Instances: it runs the command on this machine.
func (h *Host) Exec(ctx context.Context, _ string, spec runtime.ExecSpec) (int, error) {
	cmd := exec.CommandContext(ctx, spec.Command[0], spec.Command[1:]...) //nolint:gosec // tests choose the command
	cmd.Stdout, cmd.Stderr = spec.Stdout, spec.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 127, nil //nolint:nilerr // as a shell has it
	}
	go func() {
		_, _ = io.Copy(stdin, spec.Stdin)
		_ = stdin.Close()
	}()
	_ = cmd.Wait()
	return cmd.ProcessState.ExitCode(), nil
}

// Stats implements api.Instances.
func (h *Host) Stats(context.Context, string) (runtime.Stats, error) {
	return runtime.Stats{}, vortex.Errorf(vortex.NotFound, "nothing is measured here")
}
