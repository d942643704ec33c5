package logread

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// watch tells when something in a directory changed.
type watch struct {
	f    *os.File
	stop func() bool
	buf  [4096]byte
}

func newWatch(ctx context.Context, dir string) (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("watch log: %w", err)
	}
	const events = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_ONLYDIR
	if _, err := unix.InotifyAddWatch(fd, dir, events); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("watch log: %w", err)
	}
	w := &watch{f: os.NewFile(uintptr(fd), "inotify")}
	w.stop = context.AfterFunc(ctx, func() { _ = w.f.SetReadDeadline(time.Unix(1, 0)) })
	return w, nil
}

// wait returns at the next change, or with an error when the directory is gone or ctx ended.
func (w *watch) wait() error {
	n, err := w.f.Read(w.buf[:])
	if err != nil {
		return fmt.Errorf("watch log: %w", err)
	}
	if gone(w.buf[:n]) {
		return errors.New("watch log: the instance was removed")
	}
	return nil
}

// gone reports whether one of the events says that the directory was deleted.
func gone(events []byte) bool {
	for len(events) >= unix.SizeofInotifyEvent {
		mask := uint32(events[4]) | uint32(events[5])<<8 | uint32(events[6])<<16 | uint32(events[7])<<24
		if mask&(unix.IN_DELETE_SELF|unix.IN_IGNORED) != 0 {
			return true
		}
		name := int(uint32(events[12]) | uint32(events[13])<<8)
		events = events[min(len(events), unix.SizeofInotifyEvent+name):]
	}
	return false
}

func (w *watch) close() {
	w.stop()
	_ = w.f.Close()
}
