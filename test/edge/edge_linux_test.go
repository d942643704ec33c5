// Package edge proves that the load balancer loses nothing: requests come at a steady rate while backends are replaced, scaled and
// killed and the configuration changes, bodies of a gigabyte go through it, and sockets end at every stage. Each request is checked,
// and so are the memory, descriptors and goroutines that are left.
//
// The edge and its backends are processes; the edge is internal/edge/piped, which takes its routers from a pipe and says exactly what
// is applied and drained. Run it with make prove-edge. EDGE_LONG=1 loads for a minute where it is ten seconds otherwise, EDGE_PROGRAM=path
// takes a piped that was built before, such as one with the race detector.
package edge

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"vortex"
	"vortex/bench/process"
	"vortex/test/harness"
)

// program is the built edge.
var program string

// TestMain makes this binary a backend when it is asked to be one, and runs the tests else.
func TestMain(m *testing.M) {
	if name := os.Getenv(backendEnv); name != "" {
		if err := serveBackend(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	dir, err := os.MkdirTemp("", "vortex-prove-edge-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := 1
	if err := build(filepath.Join(dir, "piped")); err != nil {
		fmt.Fprintln(os.Stderr, "build the edge:", err)
	} else {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// build makes the edge, unless there is one.
func build(path string) error {
	if program = os.Getenv("EDGE_PROGRAM"); program != "" {
		return nil
	}
	program = path
	cmd := exec.Command("go", "build", "-o", program, "./internal/edge/piped")
	cmd.Dir = harness.Root()
	cmd.Stderr = os.Stderr
	return cmd.Run()
}

const patience = 60 * time.Second

// loaded is for how long a proof loads the edge.
func loaded() time.Duration {
	if os.Getenv("EDGE_LONG") != "" {
		return time.Minute
	}
	return 10 * time.Second
}

// edge is a running edge.
type edge struct {
	cmd   *exec.Cmd
	addr  string
	stdin io.WriteCloser
	log   strings.Builder // read it only when the process has ended

	mu       sync.Mutex
	revision uint64
	drained  vortex.EdgeRecord
	status   *status
	changed  chan struct{}
}

// status is what the edge says of itself.
type status struct {
	goroutines int
	apps       []appStatus
}

type appStatus struct {
	App      string
	Backends []struct {
		Instance string
		InFlight int64
		Idle     int
	}
}

// said is a line of the edge.
type said struct {
	Listening  []string
	Edge       *vortex.EdgeRecord
	Status     *struct{ Apps []appStatus }
	Goroutines int
}

// startEdge runs an edge until the test ends.
func startEdge(t *testing.T) *edge {
	t.Helper()
	e := &edge{cmd: exec.Command(program), changed: make(chan struct{})}
	e.cmd.Stderr = &e.log
	stdin, err := e.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := e.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := e.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	e.stdin = stdin
	lines := json.NewDecoder(stdout)
	var first said
	if err := lines.Decode(&first); err != nil {
		t.Fatalf("the edge says nothing: %v", err)
	}
	e.addr = first.Listening[0]
	read := make(chan struct{})
	go func() {
		defer close(read)
		e.read(lines)
	}()
	t.Cleanup(func() {
		stdin.Close()
		<-read
		if err := e.cmd.Wait(); err != nil {
			t.Errorf("the edge ended with %v:\n%s", err, e.log.String())
		}
	})
	e.tell(t, update{Reset: true})
	return e
}

// read takes in what the edge says until it ends.
func (e *edge) read(lines *json.Decoder) {
	for {
		var s said
		if lines.Decode(&s) != nil {
			return
		}
		e.mu.Lock()
		if s.Edge != nil {
			e.drained = *s.Edge
		}
		if s.Status != nil {
			e.status = &status{s.Goroutines, s.Status.Apps}
		}
		close(e.changed)
		e.changed = make(chan struct{})
		e.mu.Unlock()
	}
}

// await returns when what the edge said last satisfies ok.
func (e *edge) await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for {
		e.mu.Lock()
		done, changed := ok(), e.changed
		e.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("not within %s: %s; the edge says %+v", patience, what, e.drained)
		}
	}
}

type update struct {
	Revision uint64
	Reset    bool
	Changes  []change
	Ask      string `json:",omitempty"`
}

type change struct {
	App    string
	Router *vortex.RouterRecord
}

// tell writes an update at a revision of its own, which it returns.
func (e *edge) tell(t *testing.T, u update) uint64 {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	if u.Ask == "" {
		e.revision++
		u.Revision = e.revision
	}
	if err := json.NewEncoder(e.stdin).Encode(u); err != nil {
		t.Fatalf("tell the edge: %v", err)
	}
	return e.revision
}

// put gives apps routers, in one update.
func (e *edge) put(t *testing.T, routers ...vortex.RouterRecord) uint64 {
	t.Helper()
	var u update
	for _, r := range routers {
		u.Changes = append(u.Changes, change{r.ClientID, &r})
	}
	return e.tell(t, u)
}

// remove takes an app's router away.
func (e *edge) remove(t *testing.T, app string) uint64 {
	t.Helper()
	return e.tell(t, update{Changes: []change{{App: app}}})
}

// awaitDrained waits until the edge has published a revision and that none of the instances has a request.
func (e *edge) awaitDrained(t *testing.T, revision uint64, instances ...string) {
	t.Helper()
	e.await(t, fmt.Sprintf("revision %d without %v", revision, instances), func() bool {
		return e.drained.Revision >= revision && !slices.ContainsFunc(instances, func(i string) bool { return slices.Contains(e.drained.Busy, i) })
	})
}

// ask returns what the edge says of itself now, with nothing left that only waits for a garbage collection.
func (e *edge) ask(t *testing.T) status {
	t.Helper()
	e.mu.Lock()
	e.status = nil
	e.mu.Unlock()
	e.tell(t, update{Ask: "collected"})
	var s status
	e.await(t, "its status", func() bool {
		if e.status == nil {
			return false
		}
		s = *e.status
		return true
	})
	return s
}

// usage is what a process holds.
type usage struct{ files, goroutines int }

func (e *edge) usage(t *testing.T) usage {
	t.Helper()
	s := e.ask(t)
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", e.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return usage{len(files), s.goroutines}
}

// live is the edge's own memory in bytes once garbage is collected.
func (e *edge) live(t *testing.T) float64 {
	t.Helper()
	e.ask(t)
	return e.memory(t)
}

// settled is what the edge holds once that has stayed the same for a while: it closes what went in its own time.
func (e *edge) settled(t *testing.T) usage {
	t.Helper()
	const enough = 10
	last, same := usage{}, 0
	eventually(t, "the edge to hold the same for a while", func() bool {
		now := e.usage(t)
		if now != last {
			last, same = now, 0
		}
		same++
		time.Sleep(20 * time.Millisecond)
		return same == enough
	})
	return last
}

// memory is the edge's own memory in bytes.
func (e *edge) memory(t *testing.T) float64 {
	t.Helper()
	m, err := process.ReadMemory(e.cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return m.Anonymous * 1e6
}

// returnsTo waits until the edge, which has no routers and no clients any more, holds no more than it held before.
func (e *edge) returnsTo(t *testing.T, before usage) {
	t.Helper()
	var now usage
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		if now = e.usage(t); now.files <= before.files && now.goroutines <= before.goroutines {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("the edge holds %+v, before it was %+v", now, before)
}

// router is the record of an app on every host.
func router(app string, backends ...*backend) vortex.RouterRecord {
	r := vortex.RouterRecord{ClientID: app, Type: vortex.AppTypeHTTP, Hosts: []string{app + ".example"}, Backends: []vortex.Backend{}}
	for _, b := range backends {
		r.Backends = append(r.Backends, b.record())
	}
	return r
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}
