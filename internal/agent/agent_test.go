package agent_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"vortex"
	"vortex/internal/agent"
	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
	"vortex/internal/runtime"
	"vortex/internal/runtime/process"
	"vortex/internal/runtime/runtimetest"
	"vortex/internal/runtime/sim"
)

const node = "n1"

var shimPath, probePath string

func TestMain(m *testing.M) {
	code := testMain(m)
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Println(err)
		code = 1
	}
	os.Exit(code)
}

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "vortex-agent-")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(dir)
	shimPath = filepath.Join(dir, "shim")
	build := exec.Command("go", "build", "-o", shimPath, "-ldflags", "-s -w", "vortex/internal/runtime/shim/cmd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Println(err, string(out))
		return 1
	}
	if probePath, err = runtimetest.BuildProbe(dir); err != nil {
		fmt.Println(err)
		return 1
	}
	return m.Run()
}

// bed is an agent under test, and the store it shares with the test.
type bed struct {
	t      testing.TB
	store  *kind.Store
	cfg    agent.Config
	agent  *agent.Agent
	events *recorder
	stop   func()
}

// recorder keeps events.
type recorder struct {
	mu   sync.Mutex
	seen []vortex.EventRecord
}

func (r *recorder) Record(ev vortex.EventRecord) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, ev)
}

// has reports whether an event of this type was recorded about the instance.
func (r *recorder) has(typ, instance string) bool { return r.countOf(typ, instance) > 0 }

// countOf returns how many events of this type were recorded about the instance.
func (r *recorder) countOf(typ, instance string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	count := 0
	for _, ev := range r.seen {
		if ev.Type == typ && ev.Instance == instance {
			count++
		}
	}
	return count
}

// spying is a driver that keeps what it was last told to start.
type spying struct {
	runtime.Driver

	mu   sync.Mutex
	spec runtime.InstanceSpec
}

func (s *spying) Start(ctx context.Context, spec runtime.InstanceSpec) (runtime.Status, error) {
	s.mu.Lock()
	s.spec = spec
	s.mu.Unlock()
	return s.Driver.Start(ctx, spec)
}

func (s *spying) last() runtime.InstanceSpec {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.spec
}

// newBed starts an agent with the given drivers; the first is the default.
func newBed(tb testing.TB, drivers ...runtime.Driver) *bed {
	tb.Helper()
	b := prepared(tb)
	b.use(drivers...)
	b.start()
	return b
}

// prepared is a bed whose agent has no drivers yet and does not run.
func prepared(tb testing.TB) *bed {
	tb.Helper()
	b := &bed{t: tb, store: kindtest.Open(tb), events: &recorder{}}
	b.cfg = agent.Config{
		Node:       vortex.NodeRecord{ID: node, Name: node, Address: "127.0.0.1", CPUMillis: 4000, MemoryBytes: 1 << 32},
		Store:      b.store,
		VolumesDir: tb.TempDir(),
		Events:     b.events,
	}
	return b
}

func (b *bed) use(drivers ...runtime.Driver) {
	b.cfg.Drivers = map[string]runtime.Driver{}
	for _, d := range drivers {
		b.cfg.Drivers[d.Name()] = d
	}
	b.cfg.Default = drivers[0].Name()
}

// start runs an agent until stop is called or the test ends.
func (b *bed) start() {
	b.t.Helper()
	a, err := agent.New(b.cfg)
	if err != nil {
		b.t.Fatalf("new agent: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := a.Run(ctx); err != nil {
			b.t.Errorf("run agent: %v", err)
		}
	})
	b.agent = a
	b.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	b.t.Cleanup(b.stop)
}

// worker is an app that listens nowhere.
func worker(name string) vortex.App {
	app := vortex.App{Metadata: vortex.Metadata{Name: name}, Spec: vortex.AppSpec{Type: vortex.AppTypeWorker, Image: "img"}}
	app.SetDefaults()
	return app
}

// program is an app that runs a mode of the probe program.
func program(name string, typ vortex.AppType, mode ...string) vortex.App {
	app := worker(name)
	app.Spec.Type, app.Spec.Command, app.Spec.Args = typ, []string{probePath}, mode
	if typ != vortex.AppTypeWorker {
		app.Spec.Ports = []vortex.Port{{ContainerPort: 8080, Protocol: vortex.PortProtocolHTTP}}
	}
	return app
}

func must[T any](tb testing.TB) func(T, error) T {
	tb.Helper()
	return func(v T, err error) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}

// place wants count instances of app on the node; their ids are <app>-<k>.
func (b *bed) place(app vortex.App, count int, change ...func(*vortex.PlacementRecord)) {
	b.t.Helper()
	name := app.Metadata.Name
	op := must[kind.Op](b.t)
	ops := []kind.Op{op(kind.PutOp(vortex.Releases, &vortex.ReleaseRecord{ClientID: name, Number: 1, Hash: "h", Spec: app}, name, "1"))}
	for k := range count {
		id := name + "-" + strconv.Itoa(k)
		placement := vortex.PlacementRecord{Instance: id, ClientID: name, Node: node, Release: 1, Epoch: 1}
		for _, c := range change {
			c(&placement)
		}
		ops = append(ops,
			op(kind.PutOp(vortex.Instances, &vortex.InstanceRecord{ID: id, ClientID: name, Release: 1, Wanted: vortex.WantedStateRunning}, id)),
			op(kind.PutOp(vortex.Placements, &placement, id)))
	}
	b.commit(ops...)
}

func (b *bed) commit(ops ...kind.Op) {
	b.t.Helper()
	if _, err := b.store.Commit(b.t.Context(), kind.Txn{Ops: ops}); err != nil {
		b.t.Fatal(err)
	}
}

// want changes what is wanted of an instance.
func (b *bed) want(id string, state vortex.WantedState, reason string) {
	b.t.Helper()
	rec, err := kind.Get(b.store, vortex.Instances, id)
	if err != nil {
		b.t.Fatal(err)
	}
	wanted := *rec.Value
	wanted.Wanted, wanted.Reason = state, reason
	b.commit(must[kind.Op](b.t)(kind.PutOp(vortex.Instances, &wanted, id)))
}

// unplace deletes an instance's placement.
func (b *bed) unplace(id string) {
	b.t.Helper()
	b.commit(kind.DeleteOp(vortex.Placements, id))
}

// record returns an instance's container record; its ID is empty when there is none.
func (b *bed) record(id string) vortex.ContainerRecord {
	rec, err := kind.Get(b.store, vortex.Containers, id)
	if err != nil {
		return vortex.ContainerRecord{}
	}
	return *rec.Value
}

// until waits until the instance's record is as ok says, and returns it.
func (b *bed) until(id, what string, ok func(vortex.ContainerRecord) bool) vortex.ContainerRecord {
	b.t.Helper()
	var last vortex.ContainerRecord
	defer func() {
		if b.t.Failed() {
			b.t.Logf("last record: %+v", last)
		}
	}()
	kindtest.Eventually(b.t, id+" "+what, func() bool { last = b.record(id); return ok(last) })
	return last
}

func isRunning(c vortex.ContainerRecord) bool { return c.Status == vortex.ContainerStatusRunning }
func isDead(c vortex.ContainerRecord) bool    { return c.Status == vortex.ContainerStatusDead }
func isGone(c vortex.ContainerRecord) bool    { return c.ID == "" }
func isHealthy(c vortex.ContainerRecord) bool {
	return isRunning(c) && c.Health == vortex.HealthHealthy
}

func newSim(tb testing.TB) *sim.Driver {
	tb.Helper()
	d, err := sim.Open(sim.Config{})
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// newProcess opens a process driver over dir. Instances left at the test's end are killed.
func newProcess(tb testing.TB, dir string) *process.Driver {
	tb.Helper()
	d, err := process.Open(context.Background(), process.Config{Root: dir, Shim: shimPath, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatalf("open process driver: %v", err)
	}
	tb.Cleanup(func() {
		_ = d.Close()
		again, err := process.Open(context.Background(), process.Config{Root: dir, Shim: shimPath, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			tb.Fatalf("open process driver: %v", err)
		}
		defer again.Close()
		all, _ := again.List(context.Background())
		for _, st := range all {
			if err := again.Remove(context.Background(), st.ID); err != nil {
				tb.Errorf("remove %s: %v", st.ID, err)
			}
		}
	})
	return d
}
