//go:build linux && cgo

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The descriptors of exec.
const (
	requestFD = 3
	errorFD   = 4
	consoleFD = 5
)

// rlimits maps the names of an OCI process to the kernel's numbers; the driver uses no others.
var rlimits = map[string]int{"RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_CORE": unix.RLIMIT_CORE}

// newProcess makes libcontainer's process of an OCI one.
func newProcess(p *specs.Process) *libcontainer.Process {
	lp := &libcontainer.Process{
		Args: p.Args, Env: p.Env, Cwd: p.Cwd, UID: int(p.User.UID), GID: int(p.User.GID), NoNewPrivileges: &p.NoNewPrivileges,
		LogLevel: "3", // warnings
	}
	for _, g := range p.User.AdditionalGids {
		lp.AdditionalGroups = append(lp.AdditionalGroups, int(g))
	}
	if c := p.Capabilities; c != nil {
		lp.Capabilities = &configs.Capabilities{
			Bounding: c.Bounding, Effective: c.Effective, Permitted: c.Permitted, Inheritable: c.Inheritable, Ambient: c.Ambient,
		}
	}
	for _, r := range p.Rlimits {
		if kind, ok := rlimits[r.Type]; ok {
			lp.Rlimits = append(lp.Rlimits, configs.Rlimit{Type: kind, Hard: r.Hard, Soft: r.Soft})
		}
	}
	if s := p.ConsoleSize; s != nil {
		lp.ConsoleHeight, lp.ConsoleWidth = uint16(s.Height), uint16(s.Width)
	}
	return lp
}

// execIn runs the requested process in the container of dir and returns its exit code.
func execIn(dir string) (int, error) {
	request := os.NewFile(requestFD, "request")
	spec := &specs.Process{}
	dec := json.NewDecoder(request)
	if err := dec.Decode(spec); err != nil {
		return cannotRun, fmt.Errorf("decode process: %w", err)
	}
	c, err := libcontainer.Load(stateRoot(dir), filepath.Base(dir))
	if err != nil {
		return cannotRun, fmt.Errorf("load container: %w", err)
	}
	p := newProcess(spec)
	if spec.Terminal {
		p.ConsoleSocket = os.NewFile(consoleFD, "console")
	} else {
		p.Stdin, p.Stdout, p.Stderr = os.Stdin, os.Stdout, os.Stderr
	}
	if err := c.Run(p); err != nil {
		return cannotRun, err
	}
	go func() {
		_, _ = io.Copy(io.Discard, request) // ends when the one who asked is gone
		_ = p.Signal(unix.SIGKILL)
	}()
	return exitCode(p.Wait())
}

func exitCode(state *os.ProcessState, err error) (int, error) {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		state = exit.ProcessState
	} else if err != nil {
		return cannotRun, fmt.Errorf("wait for process: %w", err)
	}
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return state.ExitCode(), nil
}
