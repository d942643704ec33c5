package bundle

import (
	"context"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vortex"
	"vortex/internal/runtime"
	"vortex/internal/runtime/logread"
	"vortex/internal/runtime/shim/layout"
)

// Stop stops an instance as runtime.Driver says.
func (s *Set) Stop(ctx context.Context, id string, grace time.Duration) error {
	e, err := s.lookup(ctx, id)
	if err != nil {
		return err
	}
	if e.exited() {
		return nil
	}
	if err := e.inst.Signal(unix.SIGTERM); err != nil {
		return err
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-e.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop instance: %w", context.Cause(ctx))
	case <-timer.C:
		return e.kill(ctx)
	}
}

// kill ends the instance at once and waits for that.
func (e *entry) kill(ctx context.Context) error {
	if err := e.inst.Signal(unix.SIGKILL); err != nil {
		return err
	}
	select {
	case <-e.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("kill instance: %w", context.Cause(ctx))
	}
}

// Remove removes an instance as runtime.Driver says.
func (s *Set) Remove(ctx context.Context, id string) error {
	e, err := s.lookup(ctx, id)
	if vortex.IsKind(err, vortex.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := e.kill(ctx); err != nil {
		return err
	}
	select {
	case <-e.cleaned:
	case <-ctx.Done():
		return fmt.Errorf("remove instance: %w", context.Cause(ctx))
	}
	if err := s.cfg.Host.Release(ctx, e.dir); err != nil {
		return fmt.Errorf("release instance: %w", err)
	}
	if err := os.RemoveAll(e.dir); err != nil {
		return fmt.Errorf("remove instance directory: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries[id] == e {
		delete(s.entries, id)
		s.exits.Forget(id)
	}
	return nil
}

// List returns every instance, ordered by id. One that is still being started is not there yet.
func (s *Set) List() []runtime.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]runtime.Status, 0, len(s.entries))
	for _, e := range s.entries {
		select {
		case <-e.started:
			all = append(all, e.status())
		default:
		}
	}
	slices.SortFunc(all, func(a, b runtime.Status) int { return strings.Compare(a.ID, b.ID) })
	return all
}

// Watch yields exits as runtime.Driver says.
func (s *Set) Watch(ctx context.Context) iter.Seq[runtime.Status] { return s.exits.Watch(ctx) }

// Logs returns an instance's output as runtime.Driver says.
func (s *Set) Logs(ctx context.Context, id string, opts runtime.LogOptions) (iter.Seq2[runtime.LogEntry, error], error) {
	e, err := s.lookup(ctx, id)
	if err != nil {
		return nil, err
	}
	exit := filepath.Join(e.dir, layout.Exit)
	done := func() bool { // asked of the file, whose appearance wakes the reader
		_, err := os.Stat(exit)
		return err == nil || e.exited()
	}
	return logread.Read(ctx, logread.Source{Path: filepath.Join(e.dir, layout.Log), Done: done}, opts), nil
}

// Running is an instance that a command can be run in.
type Running struct {
	Dir  string
	PID  int
	Port uint16 // as in its Status
	Spec runtime.InstanceSpec
	// Ended is closed when the instance exits.
	Ended <-chan struct{}
}

// Running returns an instance that runs now: NotFound when it is unknown, Precondition when it has exited.
func (s *Set) Running(ctx context.Context, id string) (Running, error) {
	e, err := s.lookup(ctx, id)
	if err != nil {
		return Running{}, err
	}
	if e.exited() {
		return Running{}, vortex.Errorf(vortex.Precondition, "instance %s does not run: it %s", id, reason(e.exit))
	}
	return Running{Dir: e.dir, PID: e.inst.PID, Port: e.rec.Port, Spec: e.rec.Spec, Ended: e.ended}, nil
}
