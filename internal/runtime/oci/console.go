package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vortex/internal/runtime"
)

// console is our end of a command's terminal. libcontainer makes the terminal inside the container and sends its master over a
// socket.
type console struct {
	socket *os.File
	spec   runtime.ExecSpec
	stop   context.CancelFunc
	done   chan struct{} // closed when the terminal has no more output

	mu     sync.Mutex
	master *os.File
	closed bool
}

// newConsole makes the socket and begins to serve the terminal that comes over it. The second result is the runner's end.
func newConsole(ctx context.Context, spec runtime.ExecSpec) (*console, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make console socket: %w", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("make console socket: %w", err), unix.Close(fds[0]), unix.Close(fds[1]))
	}
	ctx, stop := context.WithCancel(ctx)
	c := &console{socket: os.NewFile(uintptr(fds[0]), "console"), spec: spec, stop: stop, done: make(chan struct{})}
	go c.serve(ctx)
	return c, os.NewFile(uintptr(fds[1]), "console"), nil
}

// serve copies between the terminal and the exec's streams until the terminal's last user is gone.
func (c *console) serve(ctx context.Context) {
	defer close(c.done)
	master, err := c.receive()
	if err != nil {
		return // the runner says why there is no terminal
	}
	if !c.keep(master) {
		return
	}
	go c.resize(ctx, master)
	if c.spec.Stdin != nil {
		go func() { _, _ = io.Copy(master, c.spec.Stdin) }()
	}
	out := c.spec.Stdout
	if out == nil {
		out = io.Discard
	}
	_, _ = io.Copy(out, master) // EIO is a terminal's end of file
}

// keep makes the master ours to close. It reports false when the console was closed meanwhile.
func (c *console) keep(master *os.File) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.master = master
	if c.closed {
		_ = master.Close()
	}
	return !c.closed
}

// receive waits for the terminal's master.
func (c *console) receive() (*os.File, error) {
	conn, err := c.socket.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("receive terminal: %w", err)
	}
	name, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	var n int
	var rerr error
	err = conn.Read(func(fd uintptr) bool {
		_, n, _, _, rerr = unix.Recvmsg(int(fd), name, oob, unix.MSG_CMSG_CLOEXEC)
		return !errors.Is(rerr, unix.EAGAIN)
	})
	if err := errors.Join(err, rerr); err != nil {
		return nil, fmt.Errorf("receive terminal: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("receive terminal: %d messages, %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("receive terminal: %d descriptors, %w", len(fds), err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, errors.Join(fmt.Errorf("receive terminal: %w", err), unix.Close(fds[0]))
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}

// resize gives the terminal its size whenever the user's changed.
func (c *console) resize(ctx context.Context, master *os.File) {
	conn, err := master.SyscallConn()
	if err != nil {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case size, ok := <-c.spec.Resize:
			if !ok {
				return
			}
			_ = conn.Control(func(fd uintptr) {
				_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Cols})
			})
		}
	}
}

// drain waits for the rest of the output.
func (c *console) drain() {
	timer := time.NewTimer(outputTime)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
	}
}

func (c *console) close() {
	c.stop()
	_ = c.socket.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.master != nil {
		_ = c.master.Close()
	}
}
