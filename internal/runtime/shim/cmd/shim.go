package main

import (
	"bytes"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vortex/internal/runtime/logfile"
	"vortex/internal/runtime/shim/layout"
)

// drainTime is how long output is awaited after the instance's end, when a process that escaped it keeps it open.
const drainTime = 500 * time.Millisecond

// shim supervises one instance.
type shim struct {
	options

	log    *logfile.Writer
	out    [2]int // reading ends of stdout and stderr; -1 after their end
	write  [2]int // writing ends, open until the instance has them
	child  int    // says that a child changed state
	exitFD int    // the prepared exit file
	pid    int
	status unix.WaitStatus
}

// prepare makes everything that could fail later, when there is somebody to tell.
func (s *shim) prepare() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return err
	}
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGPIPE) // caught, so that children get the default
	for i := range s.out {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			return err
		}
		s.out[i], s.write[i] = p[0], p[1]
	}
	if err := s.watchChildren(); err != nil {
		return err
	}
	return s.prepareExit()
}

// watchChildren turns SIGCHLD into a byte in a pipe.
func (s *shim) watchChildren() error {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return err
	}
	s.child = p[0]
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGCHLD)
	go func() {
		one := []byte{1}
		for range c {
			_, _ = unix.Write(p[1], one)
		}
	}()
	return nil
}

// prepareExit reserves the exit file's room on the disk, so that a disk that is full by then does not matter.
func (s *shim) prepareExit() error {
	fd, err := unix.Open(s.dir+"/"+layout.ExitTmp, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	s.exitFD = fd
	_, err = unix.Write(fd, bytes.Repeat([]byte{' '}, 128))
	return err
}

// start starts the command and sets pid to the instance's first process.
func (s *shim) start() error {
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	attr := &syscall.ProcAttr{
		Dir: s.cwd, Env: os.Environ(), Files: []uintptr{uintptr(null), uintptr(s.write[0]), uintptr(s.write[1])},
		Sys: &syscall.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL}, // our threads never end before we do
	}
	if s.uid >= 0 {
		attr.Sys.Credential = &syscall.Credential{Uid: uint32(s.uid), Gid: uint32(max(s.gid, 0)), Groups: s.groups}
	}
	pid, err := syscall.ForkExec(s.command[0], s.command, attr)
	if err != nil {
		return err
	}
	_, _, _ = unix.Close(null), unix.Close(s.write[0]), unix.Close(s.write[1])
	if !s.runner {
		s.pid = pid
		return nil
	}
	return s.awaitRunner(pid)
}

// awaitRunner waits for the runner. When it succeeded the instance is ours.
func (s *shim) awaitRunner(runner int) error {
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(runner, &status, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		break
	}
	if status.ExitStatus() != 0 {
		s.killLeft()
		s.runnerFailed(status)
		return nil
	}
	b, err := os.ReadFile(s.dir + "/" + layout.InitPID)
	if err != nil {
		return err
	}
	s.pid, err = strconv.Atoi(string(b))
	return err
}

// runnerFailed keeps the reason the runner gave, or gives one when it was killed.
func (s *shim) runnerFailed(status unix.WaitStatus) {
	if status.Signaled() {
		s.fail("run container", "the runner was killed: "+status.Signal().String())
		return
	}
	var said [4096]byte
	_ = unix.SetNonblock(s.out[1], true)
	n, _ := unix.Read(s.out[1], said[:])
	if n <= 0 || exists(s.dir+"/"+layout.Error) {
		return
	}
	_ = os.WriteFile(s.dir+"/"+layout.Error, said[:n], 0o600)
}

// reportStart tells the driver that the instance runs, and which process it is.
func (s *shim) reportStart() {
	pid := strconv.Itoa(s.pid)
	line := pid + " " + startTime(pid) + " " + strconv.FormatInt(time.Now().UnixNano(), 10) + "\n"
	tmp := s.dir + "/" + layout.PID + ".tmp"
	if os.WriteFile(tmp, []byte(line), 0o600) == nil {
		_ = unix.Rename(tmp, s.dir+"/"+layout.PID)
	}
	_, _ = unix.Write(layout.AliveFD, []byte{layout.Started})
}

// startTime returns field 22 of /proc/PID/stat: when the process started, in clock ticks since boot.
func startTime(pid string) string {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return "0"
	}
	const afterName = 20 // fields after the closing parenthesis of the name
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < afterName {
		return "0"
	}
	return string(fields[afterName-1])
}

// loop writes output to the log until the instance ends.
func (s *shim) loop() {
	for !s.reap() {
		s.poll(-1)
	}
}

// poll waits for output or a child's end, at most for timeout milliseconds, and handles the output.
func (s *shim) poll(timeout int) {
	fds := [3]unix.PollFd{
		{Fd: int32(s.out[0]), Events: unix.POLLIN}, {Fd: int32(s.out[1]), Events: unix.POLLIN}, {Fd: int32(s.child), Events: unix.POLLIN},
	}
	if _, err := unix.Poll(fds[:], timeout); err != nil {
		return
	}
	for i := range s.out {
		if fds[i].Revents != 0 {
			s.read(i)
		}
	}
	if fds[2].Revents != 0 {
		var b [64]byte
		_, _ = unix.Read(s.child, b[:])
	}
}

func (s *shim) read(i int) {
	n, err := s.log.ReadFrom(s.out[i], i)
	if n > 0 || err == unix.EINTR || err == unix.EAGAIN { //nolint:errorlint // an errno is never wrapped here
		return
	}
	_ = unix.Close(s.out[i])
	s.out[i] = -1
}

// reap collects every child that ended and reports whether the instance is among them.
func (s *shim) reap() bool {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		switch {
		case err == unix.EINTR:
		case err != nil || pid <= 0:
			return false
		case pid == s.pid:
			s.status = status
			return true
		}
	}
}

func exists(path string) bool { return unix.Access(path, unix.F_OK) == nil }

// fail leaves the reason for the driver and returns the exit code.
func (s *shim) fail(what string, reason string) int {
	_ = os.WriteFile(s.dir+"/"+layout.Error, []byte(what+": "+reason), 0o600)
	return 1
}
