// Package shim is the driver's side of the shim: it launches the small process that stays beside each instance, and finds
// it again after a restart.
//
// Driver and shim share a directory (see layout) and one FIFO in it, whose writing end only the shim holds. End of
// file on the FIFO is the exit, seen at once, with no thread per instance, no polling and no pid that could have been reused; it
// means the same to a driver that was started long after the shim.
package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vortex/internal/runtime/shim/layout"
)

// Config is what the shim is to start.
type Config struct {
	Binary   string   // the shim
	Dir      string   // the instance's directory; it exists
	Command  []string // Command[0] is an absolute path
	Env      []string // the command's whole environment
	Cwd      string   // "" is the driver's own
	Runner   bool     // the command starts the instance, writes layout.InitPID and exits
	OOM      string   // a file with a line "oom_kill N", or ""
	LogBytes int64    // a log file's greatest size; 0 is 10 MiB
	LogFiles int      // log files kept; 0 is 3
	User     *User    // nil is the driver's own
}

// User is whom a command runs as.
type User struct {
	UID, GID int
	Groups   []int
}

// attachTime is how long Attach waits for a start that is under way.
const attachTime = 10 * time.Second

// Exit is how an instance ended.
type Exit struct {
	Code       int    `json:"code"`
	FinishedAt int64  `json:"finished_at"` // Unix ns
	OOMKills   int    `json:"oom_kill"`
	Reason     string `json:"reason,omitempty"`
}

// Instance is an instance beside which a shim runs, or ran.
type Instance struct {
	PID       int
	StartedAt time.Time

	dir   string
	ticks string
	alive *os.File
	cmd   *exec.Cmd // nil when an earlier driver launched the shim
}

// ErrClosed is returned by Wait after Close.
var ErrClosed = os.ErrClosed

// Start launches a shim and returns when the instance runs. The error is the shim's or runner's own words when it does not.
// When ctx ends first the shim is killed; what it had started by then is the caller's to kill.
func Start(ctx context.Context, cfg Config) (*Instance, error) {
	path := filepath.Join(cfg.Dir, layout.Alive)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return nil, fmt.Errorf("make fifo: %w", err)
	}
	alive, err := openAlive(cfg.Dir)
	if err != nil {
		return nil, err
	}
	cmd, err := launch(cfg, path)
	if err != nil {
		_ = alive.Close()
		return nil, err
	}
	i := &Instance{dir: cfg.Dir, alive: alive, cmd: cmd}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	if err := i.awaitStart(); err != nil {
		_ = alive.Close()
		_ = cmd.Wait() // its exit code says no more than err
		return nil, err
	}
	return i, nil
}

// launch starts the shim process with the FIFO's writing end.
func launch(cfg Config, fifo string) (*exec.Cmd, error) {
	w, err := os.OpenFile(fifo, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open fifo: %w", err)
	}
	defer func() { _ = w.Close() }()
	cmd := exec.Command(cfg.Binary, args(cfg)...) //nolint:noctx // it outlives every context
	cmd.Env = cfg.Env
	if cmd.Env == nil {
		cmd.Env = []string{}
	}
	cmd.Dir = cfg.Dir
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("launch shim: %w", err)
	}
	return cmd, nil
}

func args(cfg Config) []string {
	a := []string{"dir=" + cfg.Dir}
	if cfg.Cwd != "" {
		a = append(a, "cwd="+cfg.Cwd)
	}
	if cfg.Runner {
		a = append(a, "runner=1")
	}
	if cfg.OOM != "" {
		a = append(a, "oom="+cfg.OOM)
	}
	if cfg.LogBytes > 0 {
		a = append(a, "log-bytes="+strconv.FormatInt(cfg.LogBytes, 10))
	}
	if cfg.LogFiles > 0 {
		a = append(a, "log-files="+strconv.Itoa(cfg.LogFiles))
	}
	if u := cfg.User; u != nil {
		groups := make([]string, len(u.Groups))
		for i, g := range u.Groups {
			groups[i] = strconv.Itoa(g)
		}
		a = append(a, "uid="+strconv.Itoa(u.UID), "gid="+strconv.Itoa(u.GID), "groups="+strings.Join(groups, ","))
	}
	return append(append(a, "--"), cfg.Command...)
}

// Attach finds the instance in dir again. It reports false when no shim runs there any more; Wait then returns at
// once. PID is 0 when the instance never ran.
func Attach(dir string) (i *Instance, running bool, err error) {
	alive, err := openAlive(dir)
	if err != nil {
		return nil, false, err
	}
	i = &Instance{dir: dir, alive: alive}
	running = i.connected()
	if i.readPID() != nil && running {
		_ = i.alive.SetReadDeadline(time.Now().Add(attachTime))
		err = i.awaitStart() // a driver was killed while the shim was starting it
		_ = i.alive.SetReadDeadline(time.Time{})
		running = err == nil
	}
	if err != nil || !running && i.PID == 0 {
		_ = alive.Close()
	}
	return i, running, err
}

// openAlive opens the reading end without waiting for a writer.
func openAlive(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, layout.Alive), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open fifo: %w", err)
	}
	return f, nil
}

// connected reports whether a shim holds the writing end: a FIFO without one is at its end.
func (i *Instance) connected() bool {
	c, err := i.alive.SyscallConn()
	if err != nil {
		return false
	}
	connected := false
	err = c.Read(func(fd uintptr) bool {
		var b [1]byte
		n, err := unix.Read(int(fd), b[:])
		connected = n > 0 || errors.Is(err, unix.EAGAIN)
		return true
	})
	return err == nil && connected
}

// awaitStart returns when the shim says that the instance runs, or with the reason why it does not.
func (i *Instance) awaitStart() error {
	var b [1]byte
	_, err := i.alive.Read(b[:])
	switch {
	case err == nil:
		return i.readPID()
	case errors.Is(err, io.EOF):
		return i.startError()
	default:
		return fmt.Errorf("await start: %w", err)
	}
}

// startError returns the reason the shim or the runner left.
func (i *Instance) startError() error {
	b, err := os.ReadFile(filepath.Join(i.dir, layout.Error))
	if err != nil || len(b) == 0 {
		return errors.New("the shim ended before the instance ran")
	}
	return errors.New(strings.TrimSpace(string(b)))
}

// readPID reads the pid file.
func (i *Instance) readPID() error {
	b, err := os.ReadFile(filepath.Join(i.dir, layout.PID))
	if err != nil {
		return fmt.Errorf("read pid file: %w", err)
	}
	var started int64
	if _, err := fmt.Sscan(string(b), &i.PID, &i.ticks, &started); err != nil {
		return fmt.Errorf("parse pid file: %w", err)
	}
	i.StartedAt = time.Unix(0, started)
	return nil
}

// Wait returns when the instance has ended, or ErrClosed after Close. Only one Wait may run.
func (i *Instance) Wait() error {
	var b [1]byte
	for {
		_, err := i.alive.Read(b[:])
		if err == nil {
			continue
		}
		if errors.Is(err, os.ErrClosed) {
			return ErrClosed
		}
		return nil
	}
}

// Reap collects the shim's own exit, when this process launched it, and lets go of the FIFO.
func (i *Instance) Reap() {
	_ = i.alive.Close()
	if i.cmd != nil {
		_ = i.cmd.Wait()
	}
}

// Close lets go of the instance, which goes on.
func (i *Instance) Close() { _ = i.alive.Close() }

// Signal sends a signal to the instance's first process. A process that is gone is no error.
func (i *Instance) Signal(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(i.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if StartTicks(i.PID) != i.ticks {
		return nil // another process has its pid now
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process: %w", err)
	}
	return nil
}

// StartTicks returns when a process started, in clock ticks since boot, as the kernel prints it; "" when there is none.
func StartTicks(pid int) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	const afterName = 20
	s := string(b)
	fields := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	if len(fields) < afterName {
		return ""
	}
	return fields[afterName-1]
}

// ReadExit returns how the instance in dir ended. It reports false when nobody wrote that down.
func ReadExit(dir string) (Exit, bool) {
	b, err := os.ReadFile(filepath.Join(dir, layout.Exit))
	if err != nil {
		return Exit{}, false
	}
	var e Exit
	if json.Unmarshal(b, &e) != nil {
		return Exit{}, false
	}
	return e, true
}

// WriteExit writes down how an instance ended whose shim could not.
func WriteExit(dir string, e Exit) error {
	b, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode exit: %w", err)
	}
	tmp := filepath.Join(dir, layout.ExitTmp)
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("write exit: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, layout.Exit)); err != nil {
		return fmt.Errorf("write exit: %w", err)
	}
	return nil
}
