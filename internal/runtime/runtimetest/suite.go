// Package runtimetest is the precise form of the runtime.Driver contract: a suite that every driver runs
// against the real thing. A driver's test package calls Run with a Harness:
//
//	runtimetest.Run(t, runtimetest.Harness{
//		Open:  func(t *testing.T, dir string) runtime.Driver { ... },
//		Image: "probe", Probe: "/probe",
//	})
//
// The program inside the instances is ./probe, built static by BuildProbe. Features a driver cannot have are named in Lacks with
// the reason, and their tests are skipped with it.
package runtimetest

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vortex"
	"vortex/internal/runtime"
)

// Feature is a part of the contract that some driver cannot have.
type Feature string

// The features a Harness may lack.
const (
	Processes Feature = "processes" // instances are real: exit codes, output, arguments, environment
	Exec      Feature = "exec"      // Exec without a terminal
	TTY       Feature = "tty"       // Exec with a terminal
	Users     Feature = "users"     // InstanceSpec.User
	Hostnames Feature = "hostnames" // InstanceSpec.Hostname
	Memory    Feature = "memory"    // InstanceSpec.MemoryBytes, OOMKilled
	Pids      Feature = "pids"      // InstanceSpec.PidsLimit
	Mounts    Feature = "mounts"    // InstanceSpec.Mounts
	Restart   Feature = "restart"   // a driver opened again finds its instances
	Serving   Feature = "serving"   // the instance is reached at Status.Address and Port
	Isolation Feature = "isolation" // own pid namespace: everything dies with the first process
)

// Harness tells the suite how to reach one driver.
type Harness struct {
	// Open opens a driver that keeps its notes below dir. Opened again over the same dir, it is the driver
	// after a restart of the agent. The suite closes it when it implements io.Closer.
	Open func(t *testing.T, dir string) runtime.Driver
	// Image is the reference of an image that holds the probe; "" for drivers without images.
	Image string
	// Probe is the probe's absolute path inside an instance.
	Probe string
	// Lacks names what this driver cannot have, and why.
	Lacks map[Feature]string
	// Kill makes the instance's first process die of SIGKILL behind the driver's back. Nil is kill(2) on Status.PID.
	Kill func(t *testing.T, d runtime.Driver, id string)
	// Leaks, which may be nil, lists what the driver left in the kernel (mounts, cgroups, processes) although every instance
	// was removed.
	Leaks func(t *testing.T) []string
	// Concurrent is how many instances are started at once; 0 is 20.
	Concurrent int
}

// patience is how long the suite waits for what must happen. Nothing depends on it being short.
const patience = 60 * time.Second

// Run runs the whole suite.
func Run(t *testing.T, h Harness) {
	t.Helper()
	tests := []struct {
		name  string
		needs []Feature
		run   func(b *bench)
	}{
		{"StartAndStatus", nil, testStartAndStatus},
		{"DuplicateID", nil, testDuplicateID},
		{"UnknownID", nil, testUnknownID},
		{"InvalidID", nil, testInvalidID},
		{"StopAndRemove", nil, testStopAndRemove},
		{"RemoveRunning", nil, testRemoveRunning},
		{"KillIsNoticed", nil, testKillIsNoticed},
		{"ExitBeforeWatch", nil, testExitBeforeWatch},
		{"WatchEndsWithContext", nil, testWatchEnds},
		{"Concurrent", nil, testConcurrent},
		{"RestartKeepsInstances", []Feature{Restart}, testRestart},
		{"ExitWhileAgentAway", []Feature{Restart, Processes}, testExitWhileAway},
		{"ExitCodes", []Feature{Processes}, testExitCodes},
		{"FailedStartLeavesNothing", []Feature{Processes}, testFailedStart},
		{"StopGrace", []Feature{Processes}, testStopGrace},
		{"StopKillsStubborn", []Feature{Processes}, testStopStubborn},
		{"Environment", []Feature{Processes}, testEnvironment},
		{"OwnAddress", []Feature{Processes}, testOwnAddress},
		{"User", []Feature{Processes, Users}, testUser},
		{"Hostname", []Feature{Processes, Hostnames}, testHostname},
		{"LogsBothStreams", []Feature{Processes}, testLogsBothStreams},
		{"LogsTailSince", []Feature{Processes}, testLogsTailSince},
		{"LogsFollow", []Feature{Processes}, testLogsFollow},
		{"LogsFollowEndsWithContext", []Feature{Processes}, testLogsFollowContext},
		{"LogsLongLine", []Feature{Processes}, testLogsLongLine},
		{"LogsFlood", []Feature{Processes}, testLogsFlood},
		{"OrphanDoesNotHang", []Feature{Processes}, testOrphan},
		{"Exec", []Feature{Processes, Exec}, testExec},
		{"ExecTTY", []Feature{Processes, Exec, TTY}, testExecTTY},
		{"ExecContext", []Feature{Processes, Exec}, testExecContext},
		{"MemoryLimit", []Feature{Processes, Memory}, testMemoryLimit},
		{"PidsLimit", []Feature{Processes, Pids}, testPidsLimit},
		{"Mounts", []Feature{Processes, Mounts}, testMounts},
		{"Serving", []Feature{Processes, Serving}, testServing},
		{"Stats", []Feature{Processes}, testStats},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, f := range tt.needs {
				if why := h.Lacks[f]; why != "" {
					t.Skipf("no %s: %s", f, why)
				}
			}
			tt.run(newBench(t, h))
		})
	}
}

// BuildProbe builds the probe program static into dir and returns its path.
func BuildProbe(dir string) (string, error) {
	out := filepath.Join(dir, "probe")
	c := exec.CommandContext(context.Background(), "go", "build", "-ldflags", "-s -w", "-o", out, "vortex/internal/runtime/runtimetest/probe")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build probe: %w: %s", err, b)
	}
	return out, nil
}

// bench is one test's driver and what it started.
type bench struct {
	Harness

	T   *testing.T
	dir string
	d   runtime.Driver
	mu  sync.Mutex
	ids []string
}

func newBench(t *testing.T, h Harness) *bench {
	t.Helper()
	b := &bench{Harness: h, T: t, dir: t.TempDir()}
	b.d = h.Open(t, b.dir)
	t.Cleanup(func() { b.cleanup(t) })
	return b
}

// cleanup removes what the test started and checks that nothing of it is left.
func (b *bench) cleanup(t *testing.T) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context()) // cleanups run after the test's context ended
	for _, id := range b.ids {
		if err := b.d.Remove(ctx, id); err != nil {
			t.Errorf("Remove(%s) at the end: %v", id, err)
		}
	}
	left, err := b.d.List(ctx)
	if err != nil {
		t.Errorf("List at the end: %v", err)
	}
	for _, s := range left {
		t.Errorf("instance %s is left", s.ID)
	}
	b.close(t)
	if b.Leaks == nil {
		return
	}
	var leaks []string
	poll(func() bool { leaks = b.Leaks(t); return len(leaks) == 0 })
	for _, l := range leaks {
		t.Errorf("leaked: %s", l)
	}
}

func (b *bench) close(t *testing.T) {
	t.Helper()
	if c, ok := b.d.(io.Closer); ok {
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
}

// reopen closes the driver and opens another over the same notes.
func (b *bench) reopen(t *testing.T) {
	t.Helper()
	b.close(t)
	b.d = b.Open(t, b.dir)
}

// spec is an instance that runs the probe in a mode.
func (b *bench) spec(t *testing.T, suffix string, args ...string) runtime.InstanceSpec {
	t.Helper()
	id := strings.ToLower(strings.NewReplacer("/", "-", "_", "-", "#", "-").Replace(t.Name()))
	if len(id) > 40 {
		id = id[len(id)-40:]
	}
	id = strings.Trim(id, "-") + fmt.Sprintf("-%d", os.Getpid()%10000)
	if suffix != "" {
		id += "-" + suffix
	}
	return runtime.InstanceSpec{
		ID: id, App: "suite", Image: b.Image, Command: []string{b.Probe}, Args: args,
		Labels: map[string]string{"vortex.client_id": "suite", "vortex.instance_id": id},
	}
}

// start starts an instance that is removed at the end of the test.
func (b *bench) start(t *testing.T, spec runtime.InstanceSpec) runtime.Status {
	t.Helper()
	b.mu.Lock()
	b.ids = append(b.ids, spec.ID)
	b.mu.Unlock()
	s, err := b.d.Start(t.Context(), spec)
	if err != nil {
		t.Fatalf("Start(%s): %v", spec.ID, err)
	}
	return s
}

// run starts the probe in a mode, waits until it exited and returns its status and what it wrote to stdout.
func (b *bench) run(t *testing.T, spec runtime.InstanceSpec) (runtime.Status, []string) {
	t.Helper()
	b.start(t, spec)
	s := b.exited(t, spec.ID)
	return s, b.stdout(t, spec.ID)
}

func (b *bench) stdout(t *testing.T, id string) []string {
	t.Helper()
	var out []string
	for _, e := range b.logs(t, id, runtime.LogOptions{}) {
		if e.Stream == runtime.Stdout {
			out = append(out, e.Line)
		}
	}
	return out
}

func (b *bench) logs(t *testing.T, id string, opts runtime.LogOptions) []runtime.LogEntry {
	t.Helper()
	seq, err := b.d.Logs(t.Context(), id, opts)
	if err != nil {
		t.Fatalf("Logs(%s): %v", id, err)
	}
	var all []runtime.LogEntry
	for e, err := range seq {
		if err != nil {
			t.Fatalf("Logs(%s): %v", id, err)
		}
		all = append(all, e)
	}
	return all
}

// status is the instance's status in List.
func (b *bench) status(t *testing.T, id string) (runtime.Status, bool) {
	t.Helper()
	all, err := b.d.List(t.Context())
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	for _, s := range all {
		if s.ID == id {
			return s, true
		}
	}
	return runtime.Status{}, false
}

// exited waits until the instance has exited.
func (b *bench) exited(t *testing.T, id string) runtime.Status {
	t.Helper()
	var s runtime.Status
	eventually(t, id+" to exit", func() bool {
		s, _ = b.status(t, id)
		return s.State == runtime.Exited
	})
	return s
}

// printed waits until the instance wrote a line that starts with prefix, and returns it.
func (b *bench) printed(t *testing.T, id, prefix string) string {
	t.Helper()
	found := ""
	eventually(t, id+" to print "+prefix, func() bool {
		for _, e := range b.logs(t, id, runtime.LogOptions{}) {
			if strings.HasPrefix(e.Line, prefix) {
				found = e.Line
				return true
			}
		}
		return false
	})
	return found
}

// ready waits until the probe handles SIGTERM: the first process of a pid namespace ignores it before.
func (b *bench) ready(t *testing.T, id string) {
	t.Helper()
	if b.Lacks[Processes] == "" {
		b.printed(t, id, "ready")
	}
}

func (b *bench) kill(t *testing.T, id string) {
	t.Helper()
	if b.Kill != nil {
		b.Kill(t, b.d, id)
		return
	}
	s, ok := b.status(t, id)
	if !ok || s.PID <= 0 {
		t.Fatalf("instance %s has no process to kill: %+v", id, s)
	}
	if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil {
		t.Fatalf("kill %d: %v", s.PID, err)
	}
}

// eventually fails the test when ok does not become true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	if !poll(ok) {
		t.Fatalf("waited %v for %s", patience, what)
	}
}

func poll(ok func() bool) bool {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-tick.C {
		if ok() {
			return true
		}
	}
	return false
}

func wantKind(t *testing.T, what string, err error, kind vortex.ErrorKind) {
	t.Helper()
	if !vortex.IsKind(err, kind) {
		t.Errorf("%s: got %v, want an error of kind %v", what, err, kind)
	}
}
