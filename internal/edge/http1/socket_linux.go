package http1

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tuneClient lets the kernel give up a client that takes nothing of its response for that long, so that
// writing needs no deadline of its own. A failure only means that it takes the kernel's own time.
func tuneClient(c net.Conn, patience time.Duration) {
	sys, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sys.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(patience.Milliseconds()))
	})
}
