package main

import (
	"bytes"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"vortex/internal/runtime/shim/layout"
)

// finish ends what the instance left behind, completes the log and writes how it ended.
func (s *shim) finish() {
	finished := time.Now()
	oom := s.oomKills()
	s.killLeft()
	for deadline := finished.Add(drainTime); s.out[0] >= 0 || s.out[1] >= 0; {
		left := time.Until(deadline)
		if left <= 0 {
			break
		}
		s.poll(int(left.Milliseconds()) + 1)
	}
	s.log.Close()
	s.writeExit(finished, oom)
}

// killLeft kills every process that is still our descendant: the instance ended, and with it all it started.
func (s *shim) killLeft() {
	for killChildren() {
		if _, err := unix.Wait4(-1, nil, 0, nil); err != nil && err != unix.EINTR {
			return
		}
	}
}

// killChildren sends SIGKILL to every child and reports whether there was one.
func killChildren() bool {
	const tasks = "/proc/self/task/"
	dir, err := os.ReadDir(tasks)
	if err != nil {
		return false
	}
	found := false
	for _, task := range dir {
		b, _ := os.ReadFile(tasks + task.Name() + "/children")
		for f := range bytes.FieldsSeq(b) {
			if pid, err := strconv.Atoi(string(f)); err == nil {
				found = unix.Kill(pid, unix.SIGKILL) == nil || found
			}
		}
	}
	return found
}

// oomKills returns how many processes of the instance the kernel killed for want of memory.
func (s *shim) oomKills() int {
	if s.oom == "" {
		return 0
	}
	b, err := os.ReadFile(s.oom)
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(b) {
		if n, ok := bytes.CutPrefix(line, []byte("oom_kill ")); ok {
			count, _ := strconv.Atoi(string(bytes.TrimSpace(n)))
			return count
		}
	}
	return 0
}

// writeExit publishes the exit file and only then makes it durable: the driver need not wait for the disk.
func (s *shim) writeExit(finished time.Time, oom int) {
	code := s.status.ExitStatus()
	if s.status.Signaled() {
		code = 128 + int(s.status.Signal())
	}
	text := `{"code":` + strconv.Itoa(code) + `,"finished_at":` + strconv.FormatInt(finished.UnixNano(), 10) +
		`,"oom_kill":` + strconv.Itoa(oom) + "}\n"
	_, _ = unix.Pwrite(s.exitFD, []byte(text), 0)
	_ = unix.Rename(s.dir+"/"+layout.ExitTmp, s.dir+"/"+layout.Exit)
	_ = unix.Close(layout.AliveFD)
	_ = unix.Fsync(s.exitFD)
	if d, err := unix.Open(s.dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
		_ = unix.Fsync(d)
	}
}
