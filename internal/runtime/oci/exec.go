package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"vortex"
	"vortex/internal/runtime"
	"vortex/internal/runtime/bundle"
)

// outputTime is how long output is awaited after a command ended, when a process it left behind keeps it open.
const outputTime = 5 * time.Second

// Exec implements runtime.Driver. A read from exec.Stdin that blocks may outlast Exec.
func (d *Driver) Exec(ctx context.Context, id string, spec runtime.ExecSpec) (int, error) {
	in, err := d.set.Running(ctx, id)
	if err != nil {
		return 0, err
	}
	if len(spec.Command) == 0 {
		return 0, vortex.Errorf(vortex.Invalid, "exec in %s: no command given", id)
	}
	process, err := execProcess(in, spec)
	if err != nil {
		return 0, err
	}
	r, err := startRunner(ctx, d.cfg.Runner, in.Dir, process, spec)
	if err != nil {
		return 0, err
	}
	return r.wait(ctx)
}

// execProcess is the container's own process with another command.
func execProcess(in bundle.Running, spec runtime.ExecSpec) (*specs.Process, error) {
	b, err := os.ReadFile(filepath.Join(in.Dir, "config.json"))
	if err != nil {
		return nil, fmt.Errorf("read container configuration: %w", err)
	}
	var config specs.Spec
	if err := json.Unmarshal(b, &config); err != nil || config.Process == nil {
		return nil, fmt.Errorf("decode container configuration: %w", err)
	}
	p := config.Process
	p.Args, p.Env, p.Terminal, p.OOMScoreAdj = spec.Command, mergeEnv(p.Env, spec.Env), spec.TTY, nil
	if spec.TTY {
		p.Env = mergeEnv([]string{"TERM=xterm"}, p.Env)
	}
	if spec.User != "" {
		if p.User, err = findUser(config.Root.Path, spec.User); err != nil {
			return nil, err
		}
		p.Capabilities = capabilities(p.User)
	}
	return p, nil
}

// running is a runner that executes a command.
type running struct {
	cmd     *exec.Cmd
	request *os.File // closing it kills the command
	errs    *os.File // what the runner says when it fails
	console *console // nil without a terminal
	ends    []*os.File
}

// startRunner starts the runner and hands it the process.
func startRunner(ctx context.Context, binary, dir string, process *specs.Process, spec runtime.ExecSpec) (*running, error) {
	r := &running{cmd: exec.Command(binary, "exec", dir)} //nolint:noctx // it ends with its request pipe
	r.cmd.Dir = dir
	r.cmd.Env = []string{}
	r.cmd.WaitDelay = outputTime
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	theirRequest, ours, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	r.request = ours
	r.ends = append(r.ends, theirRequest)
	errsRead, errsWrite, err := os.Pipe()
	if err != nil {
		r.close()
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	r.errs = errsRead
	r.ends = append(r.ends, errsWrite)
	r.cmd.ExtraFiles = []*os.File{theirRequest, errsWrite}
	if err := r.connect(ctx, spec); err != nil {
		r.close()
		return nil, err
	}
	if err := r.cmd.Start(); err != nil {
		r.close()
		return nil, fmt.Errorf("start runner: %w", err)
	}
	r.closeEnds()
	if err := json.NewEncoder(r.request).Encode(process); err != nil {
		_ = r.request.Close() // the runner gives up, and wait says why
	}
	return r, nil
}

// connect gives the command its input and output.
func (r *running) connect(ctx context.Context, spec runtime.ExecSpec) error {
	if spec.TTY {
		c, theirs, err := newConsole(ctx, spec)
		if err != nil {
			return err
		}
		r.console = c
		r.ends = append(r.ends, theirs)
		r.cmd.ExtraFiles = append(r.cmd.ExtraFiles, theirs)
		return nil
	}
	r.cmd.Stdout, r.cmd.Stderr = spec.Stdout, spec.Stderr
	if spec.Stdin == nil {
		return nil
	}
	theirs, ours, err := os.Pipe() // not cmd.Stdin: Wait would wait for a reader that may never end
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	r.cmd.Stdin = theirs
	r.ends = append(r.ends, theirs)
	go func() {
		_, _ = io.Copy(ours, spec.Stdin)
		_ = ours.Close()
	}()
	return nil
}

// wait returns the command's exit code.
func (r *running) wait(ctx context.Context) (int, error) {
	defer r.close()
	stop := context.AfterFunc(ctx, func() { _ = r.request.Close() })
	defer stop()
	said, _ := io.ReadAll(io.LimitReader(r.errs, 1<<16)) // ends with the runner
	err := r.cmd.Wait()
	if r.console != nil {
		r.console.drain()
	}
	if ctx.Err() != nil {
		return 0, fmt.Errorf("exec: %w", context.Cause(ctx))
	}
	if len(said) > 0 {
		return 0, vortex.Errorf(vortex.Invalid, "exec: %s", strings.TrimSpace(string(said)))
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode(), nil
	}
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return 0, fmt.Errorf("run exec: %w", err)
	}
	return 0, nil
}

func (r *running) closeEnds() {
	for _, f := range r.ends {
		_ = f.Close()
	}
	r.ends = nil
}

func (r *running) close() {
	r.closeEnds()
	for _, f := range []*os.File{r.request, r.errs} {
		if f != nil {
			_ = f.Close()
		}
	}
	if r.console != nil {
		r.console.close()
	}
}
