//go:build linux && cgo

// Command runner makes OCI containers with libcontainer. It is the only part of Vortex that needs cgo, which is why it is a
// program of its own, embedded in the main one. It starts a container or a process in one and keeps no state but
// libcontainer's, below the instance's directory.
//
//	runner run DIR      makes the container of DIR/config.json (an OCI runtime spec), starts it with its own
//	                    stdio, writes DIR/init.pid and exits; when it fails, DIR/error has the reason
//	runner exec DIR     runs the process that comes as JSON on descriptor 3 in the container of DIR and exits with its code. When
//	                    the writer of descriptor 3 goes, the process is killed. Errors go to descriptor 4.
//	                    With a terminal, descriptor 5 is the socket that the terminal is sent over
//	runner init         what libcontainer starts inside; not for people
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"

	_ "github.com/opencontainers/cgroups/devices" // registers the device controller
	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // enters the namespaces before Go starts
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus" //nolint:depguard // libcontainer logs to it

	"vortex/internal/runtime/shim/layout"
)

// cannotRun is the exit code when the process could not be started, as in a shell.
const cannotRun = 126

// memoryLimit makes the collector run after all when a command is executed for long.
const memoryLimit = 64 << 20

func main() {
	debug.SetGCPercent(-1) // it lives for milliseconds
	debug.SetMemoryLimit(memoryLimit)
	if len(os.Args) > 1 && os.Args[1] == "init" {
		libcontainer.Init()
	}
	logrus.SetOutput(io.Discard)
	os.Exit(dispatch(os.Args[1:])) //nolint:forbidigo // a program of its own
}

func dispatch(args []string) int {
	const want = 2
	if len(args) != want {
		fmt.Fprintln(os.Stderr, "usage: runner run|exec DIR")
		return want
	}
	switch dir := args[1]; args[0] {
	case "run":
		if err := run(dir); err != nil {
			_ = os.WriteFile(filepath.Join(dir, layout.Error), []byte(err.Error()), 0o600)
			return 1
		}
		return 0
	case "exec":
		code, err := execIn(dir)
		if err != nil {
			_, _ = io.WriteString(os.NewFile(errorFD, "errors"), err.Error())
		}
		return code
	default:
		fmt.Fprintln(os.Stderr, "runner: unknown command", args[0])
		return want
	}
}

// stateRoot is where libcontainer keeps the state of the instance in dir.
func stateRoot(dir string) string { return filepath.Join(dir, "state") }

// run creates and starts the container of dir.
func run(dir string) (err error) {
	spec, err := readSpec(dir)
	if err != nil {
		return err
	}
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{
		CgroupName: filepath.Base(dir), Spec: spec, NoNewKeyring: true,
	})
	if err != nil {
		return fmt.Errorf("read container configuration: %w", err)
	}
	c, err := libcontainer.Create(stateRoot(dir), filepath.Base(dir), config)
	if err != nil {
		return fmt.Errorf("create container: %w", err)
	}
	p := newProcess(spec.Process)
	p.Init = true
	p.Stdin, p.Stdout, p.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := c.Run(p); err != nil {
		return errors.Join(err, c.Destroy())
	}
	if err := writePID(dir, p); err != nil {
		_ = c.Signal(os.Kill)
		_, _ = p.Wait()
		return errors.Join(err, c.Destroy())
	}
	return nil
}

func readSpec(dir string) (*specs.Spec, error) {
	f, err := os.Open(filepath.Join(dir, "config.json"))
	if err != nil {
		return nil, fmt.Errorf("open container configuration: %w", err)
	}
	defer func() { _ = f.Close() }()
	spec := &specs.Spec{}
	if err := json.NewDecoder(f).Decode(spec); err != nil {
		return nil, fmt.Errorf("decode container configuration: %w", err)
	}
	if spec.Process == nil {
		return nil, errors.New("the container configuration has no process")
	}
	return spec, nil
}

func writePID(dir string, p *libcontainer.Process) error {
	pid, err := p.Pid()
	if err != nil {
		return fmt.Errorf("find container process: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, layout.InitPID), []byte(strconv.Itoa(pid)), 0o600); err != nil {
		return fmt.Errorf("write pid file: %w", err)
	}
	return nil
}
