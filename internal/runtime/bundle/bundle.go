// Package bundle keeps the instances of a driver whose instances run below a shim: one directory each, from which everything
// is found again after the agent was killed. The drivers oci and process are a Host below a Set.
//
// The life of a directory: Start makes it, the Host prepares what it needs, instance.json is written, the shim is launched and reports the
// start; the exit leaves exit.json; Remove deletes it. A directory whose start was never reported, because the agent was
// killed in the middle, is cleaned up by Open.
package bundle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"vortex"
	"vortex/internal/runtime"
	"vortex/internal/runtime/shim"
)

// Host is what differs between drivers.
type Host interface {
	// Prepare makes what the instance needs besides its directory and returns what the shim is to start.
	Prepare(ctx context.Context, dir string, spec runtime.InstanceSpec) (Launch, error)
	// Kill ends every process of the instance in dir, whatever state it is in; pid is or was its first process, 0 when there is
	// none of this boot of the node.
	Kill(dir string, pid int)
	// Exited lets go of what only a running instance needs.
	Exited(dir string)
	// Release lets go of everything Prepare made. It is called for half-prepared instances too, and may be called again.
	Release(ctx context.Context, dir string) error
}

// Launch is what a Host prepared. Dir of Shim is set by the Set.
type Launch struct {
	Shim    shim.Config
	Address string
	Port    uint16
}

// Config is a Set's configuration.
type Config struct {
	Dir  string // the instances' directories are made here
	Host Host
	Log  *slog.Logger
}

// Set is the instances below one directory. It is safe for concurrent use.
type Set struct {
	cfg   Config
	exits runtime.Exits

	mu      sync.Mutex
	entries map[string]*entry
	waits   sync.WaitGroup // one for each running instance
	closed  bool
}

// record is instance.json.
type record struct {
	Spec    runtime.InstanceSpec `json:"spec"`
	Address string               `json:"address,omitempty"`
	Port    uint16               `json:"port,omitempty"`
	Boot    string               `json:"boot"`
}

// entry is one instance. Its fields but exit are fixed once started is closed.
type entry struct {
	id, dir string
	rec     record
	started chan struct{} // closed when Start is over
	failed  bool          // that Start failed
	inst    *shim.Instance
	ended   chan struct{} // closed when the instance has exited; exit is valid then
	cleaned chan struct{} // closed when Host.Exited returned
	exit    shim.Exit
}

var validID = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)

// Start starts an instance as runtime.Driver says.
func (s *Set) Start(ctx context.Context, spec runtime.InstanceSpec) (runtime.Status, error) {
	e, err := s.reserve(spec)
	if err != nil {
		return runtime.Status{}, err
	}
	if err := s.start(ctx, e, spec); err != nil {
		s.discard(context.WithoutCancel(ctx), e)
		return runtime.Status{}, err
	}
	return e.status(), nil
}

// reserve takes the id.
func (s *Set) reserve(spec runtime.InstanceSpec) (*entry, error) {
	if !validID.MatchString(spec.ID) {
		return nil, vortex.Errorf(vortex.Invalid, "instance id %q: want 1 to 63 characters of a-z, 0-9 and -", spec.ID)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, vortex.Errorf(vortex.Unavailable, "the driver is closed")
	}
	if s.entries[spec.ID] != nil {
		return nil, vortex.Errorf(vortex.Exists, "instance %s exists already", spec.ID)
	}
	e := newEntry(spec.ID, filepath.Join(s.cfg.Dir, spec.ID))
	s.entries[spec.ID] = e
	return e, nil
}

func newEntry(id, dir string) *entry {
	return &entry{id: id, dir: dir, started: make(chan struct{}), ended: make(chan struct{}), cleaned: make(chan struct{})}
}

// start makes the directory and what belongs to it, and launches the shim.
func (s *Set) start(ctx context.Context, e *entry, spec runtime.InstanceSpec) error {
	if err := os.Mkdir(e.dir, 0o700); err != nil {
		return fmt.Errorf("make instance directory: %w", err)
	}
	launch, err := s.cfg.Host.Prepare(ctx, e.dir, spec)
	if err != nil {
		return err
	}
	e.rec = record{Spec: spec, Address: launch.Address, Port: launch.Port, Boot: bootID()}
	if err := e.writeRecord(); err != nil {
		return err
	}
	launch.Shim.Dir = e.dir
	inst, err := shim.Start(ctx, launch.Shim)
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("start instance: %w", context.Cause(ctx))
		}
		return vortex.Errorf(startKind(err), "instance %s does not start: %w", e.id, err)
	}
	e.inst = inst
	s.mu.Lock()
	defer s.mu.Unlock()
	close(e.started)
	if s.closed {
		inst.Close()
		return nil
	}
	s.waits.Go(func() { s.await(e) })
	return nil
}

// startKind tells a command that can never run from a node that cannot run it now, by the words of the runner, which
// come from another process.
func startKind(err error) vortex.ErrorKind {
	for _, words := range []string{"exec: ", "exec format error", "chdir to cwd", "no such file or directory", "permission denied", "not a directory"} {
		if strings.Contains(err.Error(), words) {
			return vortex.Invalid
		}
	}
	return vortex.Unavailable
}

func (e *entry) writeRecord() error {
	b, err := json.Marshal(e.rec)
	if err != nil {
		return fmt.Errorf("encode instance: %w", err)
	}
	if err := os.WriteFile(e.recordPath(), b, 0o600); err != nil {
		return fmt.Errorf("write instance: %w", err)
	}
	return nil
}

func (e *entry) recordPath() string { return filepath.Join(e.dir, "instance.json") }

// discard undoes a start that failed.
func (s *Set) discard(ctx context.Context, e *entry) {
	s.cfg.Host.Kill(e.dir, 0)
	if err := s.cfg.Host.Release(ctx, e.dir); err != nil {
		s.cfg.Log.ErrorContext(ctx, "Failed start left something behind", "instance", e.id, "err", err)
	} else if err := os.RemoveAll(e.dir); err != nil {
		s.cfg.Log.ErrorContext(ctx, "Failed start left something behind", "instance", e.id, "err", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries[e.id] == e {
		delete(s.entries, e.id)
	}
	e.failed = true
	close(e.started)
}

// await waits for the instance's exit and makes it known.
func (s *Set) await(e *entry) {
	if e.inst.Wait() == nil { // else closed: the instance goes on
		s.ended(e)
	}
}

// ended makes an exit known and lets go of what only a running instance needs.
func (s *Set) ended(e *entry) {
	exit, ok := shim.ReadExit(e.dir)
	if !ok {
		exit = s.orphaned(e)
	}
	e.exit = exit
	close(e.ended)
	s.exits.Publish(e.status())
	e.inst.Reap()
	s.cfg.Host.Exited(e.dir)
	close(e.cleaned)
}

// orphaned ends an instance whose shim was killed: nobody reads its output or would know its exit code.
func (s *Set) orphaned(e *entry) shim.Exit {
	exit := shim.Exit{Code: -1, FinishedAt: time.Now().UnixNano(), Reason: reasonRestarted}
	pid := 0
	if e.rec.Boot == bootID() {
		s.cfg.Log.Warn("Instance lost its shim and is killed", "instance", e.id)
		exit.Reason, pid = reasonOrphaned, e.inst.PID
	}
	s.cfg.Host.Kill(e.dir, pid)
	if err := shim.WriteExit(e.dir, exit); err != nil {
		s.cfg.Log.Error("Exit not written", "instance", e.id, "err", err)
	}
	return exit
}

// Why an exit code cannot be known.
const (
	reasonRestarted = "ended with a restart of the node"
	reasonOrphaned  = "killed: the process that watched it was killed"
)

// bootID identifies the node's life since it started: pids of another one mean nothing.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (e *entry) exited() bool {
	select {
	case <-e.ended:
		return true
	default:
		return false
	}
}

func (e *entry) status() runtime.Status {
	st := runtime.Status{
		ID: e.id, State: runtime.Running, Address: e.rec.Address, Port: e.rec.Port, Labels: e.rec.Spec.Labels,
		PID: e.inst.PID, StartedAt: e.inst.StartedAt,
	}
	if !e.exited() {
		return st
	}
	st.State, st.PID, st.ExitCode = runtime.Exited, 0, e.exit.Code
	st.FinishedAt = time.Unix(0, e.exit.FinishedAt)
	st.OOMKilled = e.exit.OOMKills > 0
	st.Reason = reason(e.exit)
	return st
}

// reason tells people why an instance ended.
func reason(x shim.Exit) string {
	const signal = 128
	switch {
	case x.Reason != "":
		return x.Reason
	case x.OOMKills > 0:
		return "killed: it used more memory than its limit"
	case x.Code > signal:
		return fmt.Sprintf("ended by signal %d", x.Code-signal)
	default:
		return fmt.Sprintf("exited with code %d", x.Code)
	}
}

// lookup returns a started instance.
func (s *Set) lookup(ctx context.Context, id string) (*entry, error) {
	s.mu.Lock()
	e := s.entries[id]
	s.mu.Unlock()
	if e == nil {
		return nil, errUnknown(id)
	}
	select {
	case <-e.started:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if e.failed {
		return nil, errUnknown(id)
	}
	return e, nil
}

func errUnknown(id string) error {
	return vortex.Errorf(vortex.NotFound, "instance %s does not exist on this node", id)
}

// Close lets go of every instance. They go on.
func (s *Set) Close() error {
	s.mu.Lock()
	s.closed = true
	for _, e := range s.entries {
		select {
		case <-e.started:
			if e.inst != nil {
				e.inst.Close()
			}
		default: // its Start is still under way and closes it
		}
	}
	s.mu.Unlock()
	s.waits.Wait()
	return nil
}

var errHalf = errors.New("its start was never finished")
