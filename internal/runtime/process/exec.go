package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"vortex"
	"vortex/internal/runtime"
	"vortex/internal/runtime/bundle"
)

// outputTime is how long output is awaited after a command ended, when a process it left behind keeps it open.
const outputTime = 5 * time.Second

// Exec implements runtime.Driver: the command runs beside the instance, with its environment, directory and user. A read from
// spec.Stdin that blocks may outlast Exec.
func (d *Driver) Exec(ctx context.Context, id string, spec runtime.ExecSpec) (int, error) {
	in, err := d.set.Running(ctx, id)
	if err != nil {
		return 0, err
	}
	if len(spec.Command) == 0 {
		return 0, vortex.Errorf(vortex.Invalid, "exec in %s: no command given", id)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd, err := command(ctx, in, spec)
	if err != nil {
		return 0, err
	}
	if spec.TTY {
		err = runTerminal(ctx, cmd, spec)
	} else {
		err = runPlain(cmd, spec)
	}
	return exitCode(ctx, err)
}

// command makes the command as the instance would.
func command(ctx context.Context, in bundle.Running, spec runtime.ExecSpec) (*exec.Cmd, error) {
	img, _ := readImage(in.Dir)
	program := spec.Command[0]
	if img.Root != "" {
		if inside, ok := img.find(program, in.Spec); ok {
			program = inside
		}
	}
	cmd := exec.CommandContext(ctx, program, spec.Command[1:]...)
	instanceAs, err := findUser(in.Spec.User)
	if err != nil {
		return nil, err
	}
	as := instanceAs
	if spec.User != "" {
		if as, err = findUser(spec.User); err != nil {
			return nil, err
		}
	}
	if cmd.Dir, err = workDir(in.Dir, in.Spec, instanceAs, img); err != nil {
		return nil, err
	}
	cmd.Env = mergeEnv(environment(cmd.Dir, in.Port, in.Spec, img), spec.Env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if as != nil {
		cred := &syscall.Credential{Uid: uint32(as.UID), Gid: uint32(as.GID)}
		for _, g := range as.Groups {
			cred.Groups = append(cred.Groups, uint32(g))
		}
		cmd.SysProcAttr.Credential = cred
	}
	cmd.WaitDelay = outputTime
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) } // its whole session's group
	return cmd, nil
}

func runPlain(cmd *exec.Cmd, spec runtime.ExecSpec) error {
	cmd.Stdout, cmd.Stderr = spec.Stdout, spec.Stderr
	if spec.Stdin != nil {
		in, err := cmd.StdinPipe() // not cmd.Stdin: Wait would wait for a reader that may never end
		if err != nil {
			return fmt.Errorf("make pipe: %w", err)
		}
		go func() {
			_, _ = io.Copy(in, spec.Stdin)
			_ = in.Close()
		}()
	}
	return cmd.Run()
}

// runTerminal runs the command on a terminal of its own.
func runTerminal(ctx context.Context, cmd *exec.Cmd, spec runtime.ExecSpec) error {
	cmd.Env = mergeEnv([]string{"TERM=xterm"}, cmd.Env)
	master, err := pty.StartWithAttrs(cmd, nil, withTerminal(cmd.SysProcAttr))
	if err != nil {
		return err
	}
	defer func() { _ = master.Close() }()
	go resize(ctx, master, spec.Resize)
	if spec.Stdin != nil {
		go func() { _, _ = io.Copy(master, spec.Stdin) }()
	}
	out := spec.Stdout
	if out == nil {
		out = io.Discard
	}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(out, master) // EIO is a terminal's end of file
	}()
	err = cmd.Wait()
	timer := time.NewTimer(outputTime)
	defer timer.Stop()
	select {
	case <-copied:
	case <-timer.C:
	}
	return err
}

func withTerminal(attr *syscall.SysProcAttr) *syscall.SysProcAttr {
	attr.Setsid, attr.Setctty = true, true
	return attr
}

// resize gives the terminal its size whenever the user's changed.
func resize(ctx context.Context, master *os.File, sizes <-chan runtime.WindowSize) {
	conn, err := master.SyscallConn() // not Fd, which races with Close
	if err != nil {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case s, ok := <-sizes:
			if !ok {
				return
			}
			_ = conn.Control(func(fd uintptr) {
				_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: s.Rows, Col: s.Cols})
			})
		}
	}
}

// exitCode turns what became of a command into the contract's results.
func exitCode(ctx context.Context, err error) (int, error) {
	const signal, notFound = 128, 127
	if ctx.Err() != nil {
		return 0, fmt.Errorf("exec: %w", context.Cause(ctx))
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return signal + int(status.Signal()), nil
		}
		return exit.ExitCode(), nil
	}
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, exec.ErrNotFound) {
		return notFound, vortex.Errorf(vortex.Invalid, "exec: %w", err)
	}
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return 0, fmt.Errorf("run exec: %w", err)
	}
	return 0, nil
}
