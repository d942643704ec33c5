// Package layout names the files of an instance's directory, which the driver, the shim and the runner share.
// It holds constants only, so that the small helper binaries stay small.
//
//	alive      a FIFO; the shim holds its writing end. It says one byte when the instance runs; its end of file is the exit
//	pid        "<pid> <start time in clock ticks> <started at, Unix ns>", written by the shim before that byte
//	init.pid   the container's first process, written by the runner for the shim
//	error      why the start failed, for people
//	exit.json  code, finished_at (Unix ns) and oom_kill, written once by the shim (or by the driver when the shim died)
//	log, log.1 … the output, newest first
package layout

// The files of an instance's directory.
const (
	Alive   = "alive"
	PID     = "pid"
	InitPID = "init.pid"
	Error   = "error"
	Exit    = "exit.json"
	ExitTmp = "exit.tmp"
	Log     = "log"
)

// AliveFD is the file descriptor at which the shim finds the writing end of Alive.
const AliveFD = 3

// Started is the byte the shim writes to Alive when the instance runs.
const Started = 'S'
