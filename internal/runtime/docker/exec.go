package docker

import (
	"context"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"

	"vortex"
	"vortex/internal/runtime"
)

// Exec runs a command in an instance. A Stdin that blocks is abandoned, with the goroutine that reads it, when the
// command has ended. When ctx ends first the command is killed if the engine is on this machine; else it
// loses its streams.
func (d *Driver) Exec(ctx context.Context, id string, spec runtime.ExecSpec) (int, error) {
	c, err := d.find(ctx, id)
	if err != nil {
		return -1, err
	}
	if len(spec.Command) == 0 {
		return -1, vortex.Errorf(vortex.Invalid, "no command to run in instance %s", id)
	}
	first, size := d.firstSize(&spec)
	created, err := d.engine.ExecCreate(ctx, c.ID, client.ExecCreateOptions{
		User: spec.User, TTY: spec.TTY, Env: spec.Env, Cmd: spec.Command, ConsoleSize: size,
		AttachStdin: spec.Stdin != nil, AttachStdout: true, AttachStderr: true,
	})
	if errdefs.IsConflict(err) {
		return -1, vortex.Errorf(vortex.Precondition, "instance %s is not running: start it to run commands in it", id)
	}
	if err != nil {
		return -1, d.fail("prepare command in instance "+id, err)
	}
	attached, err := d.engine.ExecAttach(ctx, created.ID, client.ExecAttachOptions{TTY: spec.TTY, ConsoleSize: size})
	if err != nil {
		return -1, d.fail("run command in instance "+id, err)
	}
	defer attached.Close()
	if first != nil {
		d.resize(ctx, created.ID, *first)
	}
	err = d.converse(ctx, created.ID, &attached.HijackedResponse, spec)
	if ctx.Err() != nil {
		d.killExec(ctx, created.ID, c.ID)
		return -1, context.Cause(ctx)
	}
	if err != nil {
		return -1, d.fail("run command in instance "+id, err)
	}
	return d.exitCode(ctx, created.ID)
}

// converse carries the streams until the command has closed its own or ctx ends.
func (d *Driver) converse(ctx context.Context, execID string, conn *client.HijackedResponse, spec runtime.ExecSpec) error {
	if spec.Stdin != nil {
		go func() { // ends with the connection, at its next read of Stdin
			_, _ = io.Copy(conn.Conn, spec.Stdin) // a command need not read its input
			_ = conn.CloseWrite()
		}()
	}
	copied := make(chan error, 1)
	go func() { copied <- copyOutput(conn.Reader, spec) }()
	resize := spec.Resize
	for {
		select {
		case err := <-copied:
			return err
		case <-ctx.Done():
			conn.Close()
			return <-copied // which until then writes to the caller's writers
		case size, ok := <-resize:
			if !ok {
				resize = nil
				continue
			}
			d.resize(ctx, execID, size)
		}
	}
}

// firstSize takes the terminal's size if it is known already. An engine from API 1.42 on is told before the command
// starts; an older one must be told right after.
func (d *Driver) firstSize(spec *runtime.ExecSpec) (after *runtime.WindowSize, before client.ConsoleSize) {
	if !spec.TTY {
		spec.Resize = nil
		return nil, before
	}
	select {
	case size, ok := <-spec.Resize:
		switch {
		case !ok:
			spec.Resize = nil
			return nil, before
		case d.takesConsoleSize():
			return nil, client.ConsoleSize{Height: uint(size.Rows), Width: uint(size.Cols)}
		default:
			return &size, before
		}
	default:
		return nil, before
	}
}

// takesConsoleSize reports whether the engine's API is 1.42 or later.
func (d *Driver) takesConsoleSize() bool {
	minor, err := strconv.Atoi(strings.TrimPrefix(d.engine.ClientVersion(), "1."))
	return err == nil && minor >= 42
}

// resize sets a terminal's size. One that cannot be set any more is of a command that has just ended.
func (d *Driver) resize(ctx context.Context, execID string, size runtime.WindowSize) {
	_, _ = d.engine.ExecResize(ctx, execID, client.ExecResizeOptions{Height: uint(size.Rows), Width: uint(size.Cols)})
}

func copyOutput(r io.Reader, spec runtime.ExecSpec) error {
	stdout, stderr := orDiscard(spec.Stdout), orDiscard(spec.Stderr)
	if spec.TTY {
		_, err := io.Copy(stdout, r)
		return err
	}
	_, err := stdcopy.StdCopy(stdout, stderr, r)
	return err
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

// exitCode asks for the exit code. The engine closes the streams a moment before it notes the exit and has no way to
// wait for that, so it is asked again until it has.
func (d *Driver) exitCode(ctx context.Context, execID string) (int, error) {
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		r, err := d.engine.ExecInspect(ctx, execID, client.ExecInspectOptions{})
		if err != nil {
			return -1, d.fail("read the command's exit code", err)
		}
		if !r.Running {
			return r.ExitCode, nil
		}
		select {
		case <-ctx.Done():
			return -1, context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

// killExec kills a command. The engine's API cannot, so its process is killed where it is of this machine, which
// its cgroup being the container's proves.
func (d *Driver) killExec(ctx context.Context, execID, engineID string) {
	if !strings.HasPrefix(d.cfg.Host, "unix://") {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	r, err := d.engine.ExecInspect(ctx, execID, client.ExecInspectOptions{})
	if err != nil || !r.Running || r.PID <= 1 {
		return
	}
	cgroup, err := os.ReadFile("/proc/" + strconv.Itoa(r.PID) + "/cgroup")
	if err != nil || !strings.Contains(string(cgroup), engineID) {
		return
	}
	if err := syscall.Kill(r.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		d.cfg.Log.WarnContext(ctx, "Command not killed", "pid", r.PID, "err", err)
	}
}
