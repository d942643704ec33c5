// Package poll waits for many sockets in one thread, with epoll and next to nothing around it: what a benchmark's own
// client and backend cost must not hide what the proxy between them costs.
//
// A Poll belongs to one goroutine, locked to its thread. Sockets are plain descriptors that do not block.
package poll

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batch is how many sockets one wait reports.
const batch = 256

// Poll is an epoll instance. Use New.
type Poll struct {
	fd     int
	events [batch]unix.EpollEvent
}

// New returns a Poll without sockets.
func New() (*Poll, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	return &Poll{fd: fd}, nil
}

// Close lets go of the instance; its sockets stay open.
func (p *Poll) Close() error { return unix.Close(p.fd) }

// Add has a socket reported while it can be read, or written as well.
func (p *Poll) Add(fd int, writing bool) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
	if writing {
		ev.Events |= unix.EPOLLOUT
	}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &ev))
}

// Wait returns the sockets that are ready, none after the timeout. A negative timeout waits without end. The events are
// valid until the next Wait.
func (p *Poll) Wait(timeout time.Duration) ([]unix.EpollEvent, error) {
	var until *unix.Timespec
	if timeout >= 0 {
		ts := unix.NsecToTimespec(int64(timeout))
		until = &ts
	}
	n, _, errno := unix.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events)), batch, uintptr(unsafe.Pointer(until)), 0, 0)
	if errno == unix.EINTR {
		return nil, nil
	}
	if errno != 0 {
		return nil, os.NewSyscallError("epoll_pwait2", errno)
	}
	return p.events[:n], nil
}

// Read reads what is there: unix.EAGAIN when there is nothing, 0 at the end. It must not be given an empty buffer.
func Read(fd int, buf []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// Readable waits until there is something to read, an end among it.
func Readable(fd int, timeout time.Duration) error {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, int(timeout.Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err == nil && n == 0:
			return os.ErrDeadlineExceeded
		default:
			return os.NewSyscallError("poll", err)
		}
	}
}

// Discard reads what is there, up to n bytes, without copying it.
func Discard(fd, n int) (int, error) {
	got, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), 0, uintptr(n), unix.MSG_TRUNC, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(got), nil
}

// Write writes what fits: unix.EAGAIN when nothing does. It must not be given an empty buffer.
func Write(fd int, buf []byte) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), unix.MSG_NOSIGNAL, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// Listen opens a TCP listener.
func Listen(addr netip.AddrPort) (int, error) {
	const backlog = 4096
	fd, err := socket()
	if err != nil {
		return -1, err
	}
	err = errors.Join(
		os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)),
		os.NewSyscallError("bind", unix.Bind(fd, sockaddr(addr))),
		os.NewSyscallError("listen", unix.Listen(fd, backlog)),
	)
	if err != nil {
		return -1, errors.Join(fmt.Errorf("listen on %s: %w", addr, err), unix.Close(fd))
	}
	return fd, nil
}

// Accept takes a connection from a listener: unix.EAGAIN when there is none.
func Accept(listener int) (int, error) {
	fd, _, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	if err != nil {
		return -1, err
	}
	return fd, noDelay(fd)
}

// Dial connects to addr, from the address from unless that is the zero value.
func Dial(addr netip.AddrPort, from netip.Addr) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if from.IsValid() {
		// The port is chosen when the connection is made, so that one address serves more connections than it has ports.
		err = errors.Join(
			os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)),
			os.NewSyscallError("bind", unix.Bind(fd, sockaddr(netip.AddrPortFrom(from, 0)))),
		)
	}
	err = errors.Join(err,
		os.NewSyscallError("connect", unix.Connect(fd, sockaddr(addr))),
		noDelay(fd), os.NewSyscallError("fcntl", unix.SetNonblock(fd, true)),
	)
	if err != nil {
		return -1, errors.Join(fmt.Errorf("dial %s: %w", addr, err), unix.Close(fd))
	}
	return fd, nil
}

// Close closes a socket. That it cannot be told about changes nothing for a benchmark.
func Close(fd int) { _ = unix.Close(fd) }

func socket() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	return fd, os.NewSyscallError("socket", err)
}

func noDelay(fd int) error {
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
}

func sockaddr(addr netip.AddrPort) unix.Sockaddr {
	return &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())}
}

// Loopback is a port of this machine.
func Loopback(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
}

// OnThread runs f in a thread of its own, on the given cores, all when there are none, and with timers that are exact.
func OnThread(cores []int, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- errors.Join(pin(cores), os.NewSyscallError("prctl", unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)), f())
	}()
	return <-done
}

func pin(cores []int) error {
	if len(cores) == 0 {
		return nil
	}
	var set unix.CPUSet
	for _, c := range slices.Sorted(slices.Values(cores)) {
		set.Set(c)
	}
	return os.NewSyscallError("sched_setaffinity", unix.SchedSetaffinity(0, &set))
}
