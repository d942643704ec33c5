package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Process is a process that was started on a host.
type Process struct {
	host *Host
	name string
	cmd  *exec.Cmd
	log  string // the file of what it writes
	face *clockFace
	done chan struct{} // closed when it has ended
}

// Run starts a program on the host. What it writes is kept, and printed when the test fails.
func (h *Host) Run(bin string, args ...string) *Process {
	h.net.tb.Helper()
	p, err := h.Start(exec.Command(bin, args...)) //nolint:noctx // it ends with the host
	h.net.check(err)
	return p
}

// Start starts a command, which may have been given an environment and files, on the host.
func (h *Host) Start(cmd *exec.Cmd) (*Process, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.first == nil:
		return nil, fmt.Errorf("%s has no power", h.Name)
	case h.frozen:
		return nil, fmt.Errorf("%s is frozen", h.Name)
	}
	p := &Process{host: h, name: filepath.Base(cmd.Path), cmd: cmd, done: make(chan struct{})}
	p.log = filepath.Join(h.net.logs, fmt.Sprintf("%s-%d-%s.log", h.Name, len(h.processes)+1, p.name))
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	if cmd.Stdout == nil {
		cmd.Stdout = log
	}
	if cmd.Stderr == nil {
		cmd.Stderr = log
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Ptrace = true, true
	if err := onThread(p.start); err != nil {
		return nil, fmt.Errorf("start %s on %s: %w", p.name, h.Name, err)
	}
	h.processes = append(h.processes, p)
	go func() {
		_ = p.cmd.Wait() // its state is kept
		close(p.done)
	}()
	return p, nil
}

// start starts the process from a thread that has entered the host. It is traced until it has executed its program, so
// that not one instruction of it runs outside of the host's cgroup and by the wrong clock.
func (p *Process) start() error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	if err := unix.Setns(p.host.pidfd, namespaces|unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("enter the host: %w", err)
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	pid := p.cmd.Process.Pid
	err := p.admit(pid)
	if err == nil {
		err = unix.PtraceDetach(pid)
	}
	if err != nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
	return err
}

// admit completes a process that stands before its first instruction.
func (p *Process) admit(pid int) error {
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, 0, nil); err != nil {
		return fmt.Errorf("wait for the program: %w", err)
	}
	if !status.Stopped() {
		return errors.New("it ended at once")
	}
	var code *vdso
	joined := make(chan error)
	go func() { // on a thread outside, where the cgroup and the process are seen
		err := join(pid, filepath.Join(p.host.group(), inner))
		if err == nil && p.host.clock != nil {
			code, err = readVDSO(pid)
		}
		joined <- err
	}()
	err := <-joined
	if err == nil && p.host.clock != nil {
		p.face, err = code.lead(*p.host.clock)
	}
	return err
}

// PID is the process's id as the test sees it.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Ended reports whether the process has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends a signal.
func (p *Process) Signal(sig os.Signal) error { return p.cmd.Process.Signal(sig) }

// Kill kills the process and returns when it is gone.
func (p *Process) Kill() {
	p.host.net.tb.Helper()
	p.kill()
	p.host.net.check(p.gone())
}

func (p *Process) kill() { _ = p.cmd.Process.Kill() }

// gone waits until the process is.
func (p *Process) gone() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s on %s does not end within %s", p.name, p.host.Name, patience)
	}
}

// Log returns what the process wrote so far.
func (p *Process) Log() string {
	text, _ := os.ReadFile(p.log)
	return string(text)
}

// Output runs a program on the host to its end and returns what it printed. The error has what it complained of.
func (h *Host) Output(ctx context.Context, cmd *exec.Cmd) (string, error) {
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	p, err := h.Start(cmd)
	if err != nil {
		return "", err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		p.kill()
		<-p.done
		return out.String(), context.Cause(ctx)
	}
	if !cmd.ProcessState.Success() {
		return out.String(), fmt.Errorf("%s on %s: %s: %s", strings.Join(cmd.Args, " "), h.Name, cmd.ProcessState, bytes.TrimSpace(complaints.Bytes()))
	}
	return out.String(), nil
}

// printLogs prints how the log of each process of the host ends.
func (h *Host) printLogs() {
	const kept = 6000 // bytes
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.processes {
		if log := p.Log(); log != "" {
			h.net.tb.Logf("%s: log of %s %s\n%s", h.Name, p.name, strings.Join(p.cmd.Args[1:], " "), log[max(0, len(log)-kept):])
		}
	}
}
