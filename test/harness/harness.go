// Package harness runs the built binary for end-to-end tests, the demo and the benchmarks: real processes, real
// containers, real sockets.
//
// Every Vortex it starts has a data directory of its own and free ports, and is found through the run file that
// it leaves there.
package harness

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"

	"vortex/client"
)

// Vortex is a running `vortex up`, or one that was killed.
type Vortex struct {
	Data string         // its data directory
	Run  client.RunFile // where it answers
	API  *client.Client // with its token
	Took time.Duration  // from the command to being ready
	Bin  string         // the binary
	args []string       // the whole command
	cmd  *exec.Cmd      //
	log  *Output        // what it wrote
	done chan struct{}  // closed when the process has ended
}

// Options say what to start. The zero value is a whole Vortex with the default runtime.
type Options struct {
	Data    string   // default: a new temporary directory
	Command string   // up, the default, or server
	Args    []string // more flags of the command
	Within  []string // a command that runs the binary, such as in another network namespace; it must become it
}

const (
	readyTimeout = 60 * time.Second
	stopTimeout  = 60 * time.Second
	poll         = 2 * time.Millisecond
)

// Binary is the path of the built binary: $VORTEX_BIN, else bin/vortex of this repository.
func Binary() (string, error) {
	path := os.Getenv("VORTEX_BIN")
	if path == "" {
		path = filepath.Join(Root(), "bin", "vortex")
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("the binary is not built; run make build: %w", err)
	}
	return path, nil
}

// Root is the repository's directory.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// Start starts a Vortex and returns when it is ready.
func Start(ctx context.Context, opts Options) (*Vortex, error) {
	bin, err := Binary()
	if err != nil {
		return nil, err
	}
	if opts.Data == "" {
		if opts.Data, err = os.MkdirTemp("", "vortex-e2e-"); err != nil {
			return nil, err
		}
	}
	v := &Vortex{Data: opts.Data, Bin: bin, log: &Output{}}
	v.args = append(slices.Clone(opts.Within), bin, cmp.Or(opts.Command, "up"))
	v.args = append(v.args,
		"--data", opts.Data, "--api", "127.0.0.1:0", "--kind", "127.0.0.1:0", "--edge", "127.0.0.1:0",
		"--etcd-client", "", "--etcd-peer", "",
	)
	v.args = append(v.args, opts.Args...)
	return v, v.start(ctx)
}

// start runs the command and waits for its run file.
func (v *Vortex) start(ctx context.Context) error {
	began := time.Now()
	cmd := exec.Command(v.args[0], v.args[1:]...) //nolint:noctx // it outlives the context: tests end it
	cmd.Stdout, cmd.Stderr = v.log, v.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start vortex: %w", err)
	}
	v.cmd, v.done = cmd, make(chan struct{})
	go func(done chan struct{}) {
		_ = cmd.Wait()
		close(done)
	}(v.done)
	deadline := time.After(readyTimeout)
	for {
		if v.readRunFile(cmd.Process.Pid) {
			v.Took = time.Since(began)
			return v.connect()
		}
		select {
		case <-v.done:
			return fmt.Errorf("vortex ended while starting: %s\n%s", cmd.ProcessState, v.log)
		case <-deadline:
			_ = cmd.Process.Kill()
			return fmt.Errorf("vortex was not ready within %s\n%s", readyTimeout, v.log)
		case <-ctx.Done():
			_ = cmd.Process.Kill()
			return context.Cause(ctx)
		case <-time.After(poll):
		}
	}
}

func (v *Vortex) readRunFile(pid int) bool {
	data, err := os.ReadFile(filepath.Join(v.Data, "run.json"))
	return err == nil && json.Unmarshal(data, &v.Run) == nil && v.Run.PID == pid
}

func (v *Vortex) connect() (err error) {
	v.API, err = client.New(client.Options{Server: v.Run.API, Token: v.Run.Token})
	return err
}

// PID is the process's id.
func (v *Vortex) PID() int { return v.cmd.Process.Pid }

// Ended reports whether the process has ended.
func (v *Vortex) Ended() bool {
	select {
	case <-v.done:
		return true
	default:
		return false
	}
}

// Command is the process as it was started, for signals.
func (v *Vortex) Command() *exec.Cmd { return v.cmd }

// Log is what the process wrote so far.
func (v *Vortex) Log() string { return v.log.String() }

// Kill ends the process with SIGKILL, as a crash would, and returns when it is gone.
func (v *Vortex) Kill() {
	_ = v.cmd.Process.Kill()
	<-v.done
}

// Restart starts it again on the same data, with new ports.
func (v *Vortex) Restart(ctx context.Context) error { return v.start(ctx) }

// Stop ends the process in good order and returns when it is gone.
func (v *Vortex) Stop() error {
	_ = v.cmd.Process.Signal(os.Interrupt)
	select {
	case <-v.done:
		return nil
	case <-time.After(stopTimeout):
		v.Kill()
		return errors.New("vortex did not stop in time")
	}
}

// Destroy removes every container, stops the process and deletes its data. What is destroyed stays so.
func (v *Vortex) Destroy() error {
	_ = v.cmd.Process.Kill()
	<-v.done
	if _, err := os.Stat(v.Data); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	v.args = append(v.args, "--rm")
	if err := v.start(context.Background()); err != nil {
		return err
	}
	if err := v.Stop(); err != nil {
		return err
	}
	return os.RemoveAll(v.Data)
}

// CLI runs a command of the binary against this Vortex and returns what it printed and its exit code.
func (v *Vortex) CLI(ctx context.Context, args ...string) (stdout, stderr string, code int) {
	return Command(ctx, v.Bin, []string{"VORTEX_SERVER=" + v.Run.API, "VORTEX_TOKEN=" + v.Run.Token, "VORTEX_KIND=" + v.Run.Kind}, args...)
}
