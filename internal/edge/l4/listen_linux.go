package l4

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// keepAlive lets connections accepted here, which inherit it, find out that the client vanished.
func keepAlive(_, _ string, raw syscall.RawConn) error {
	const (
		idleSeconds     = 15
		intervalSeconds = 15
		probes          = 9
	)
	var err error
	control := raw.Control(func(fd uintptr) {
		for _, o := range [][3]int{
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, idleSeconds},
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, intervalSeconds},
			{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, probes},
		} {
			if err == nil {
				err = unix.SetsockoptInt(int(fd), o[0], o[1], o[2])
			}
		}
	})
	if control != nil {
		return control
	}
	return err
}
