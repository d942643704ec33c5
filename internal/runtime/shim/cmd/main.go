// Command shim stays beside one instance for as long as it lives: it starts it, writes its output to the log, waits for it,
// and leaves a file that says how it ended. It outlives the agent, talks to nobody and costs two megabytes.
//
//	shim dir=DIR [log-bytes=N] [log-files=N] [oom=FILE] [runner=1] [cwd=DIR] [uid=N gid=N groups=N,N] -- COMMAND [ARG…]
//
// Without runner=1 the command is the instance. With it the command starts the instance, writes DIR/init.pid and exits; the instance
// becomes the shim's child because the shim is a subreaper. File descriptor 3 is the writing end of DIR/alive (see layout).
// The environment goes to the command as it is.
//
// It imports neither fmt nor net nor encoding/json, and its loop allocates nothing.
package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"vortex/internal/runtime/logfile"
	"vortex/internal/runtime/shim/layout"
)

const (
	defaultLogBytes = 10 << 20
	defaultLogFiles = 3
	memoryLimit     = 8 << 20
)

func main() {
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(-1) // the loop makes no garbage; the limit is for what a mistake would make
	debug.SetMemoryLimit(memoryLimit)
	unix.CloseOnExec(layout.AliveFD)
	os.Exit(run(parse(os.Args[1:]))) //nolint:forbidigo // a program of its own
}

// options is the command line.
type options struct {
	dir      string
	logBytes int64
	logFiles int
	oom      string
	runner   bool
	cwd      string
	uid, gid int // -1: as the shim
	groups   []uint32
	command  []string
}

func parse(args []string) options {
	o := options{logBytes: defaultLogBytes, logFiles: defaultLogFiles, uid: -1, gid: -1}
	for i, arg := range args {
		if arg == "--" {
			o.command = args[i+1:]
			break
		}
		key, value, _ := strings.Cut(arg, "=")
		n, _ := strconv.ParseInt(value, 10, 64)
		switch key {
		case "dir":
			o.dir = value
		case "log-bytes":
			o.logBytes = n
		case "log-files":
			o.logFiles = int(n)
		case "oom":
			o.oom = value
		case "runner":
			o.runner = n == 1
		case "cwd":
			o.cwd = value
		case "uid":
			o.uid = int(n)
		case "gid":
			o.gid = int(n)
		case "groups":
			o.groups = parseGroups(value)
		}
	}
	return o
}

func parseGroups(s string) []uint32 {
	var groups []uint32
	for g := range strings.SplitSeq(s, ",") {
		if n, err := strconv.ParseUint(g, 10, 32); err == nil {
			groups = append(groups, uint32(n))
		}
	}
	return groups
}

// run is the shim's whole life; it returns the exit code.
func run(o options) int {
	if o.dir == "" || len(o.command) == 0 {
		return 2
	}
	s := &shim{options: o}
	if err := s.prepare(); err != nil {
		return s.fail("prepare shim", err.Error())
	}
	if err := s.start(); err != nil {
		return s.fail("start "+o.command[0], err.Error())
	}
	if s.pid == 0 { // the runner said why
		return 1
	}
	s.reportStart()
	s.log = logfile.Open(o.dir+"/"+layout.Log, o.logBytes, o.logFiles)
	s.loop()
	s.finish()
	return 0
}
