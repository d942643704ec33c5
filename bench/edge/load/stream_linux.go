package load

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"vortex/bench/edge/poll"
)

// Messages sends small messages over TCP to what echoes them: each connection the next when the last has come back.
type Messages struct {
	Addr  netip.AddrPort
	Conns int
	Size  int
	For   time.Duration
	Cores []int
}

// Run returns how many messages went there and back.
func (m Messages) Run() (count int, err error) {
	message, buf := make([]byte, m.Size), make([]byte, readSize)
	got := map[int]int{}
	s := stream{addr: m.Addr, conns: m.Conns, duration: m.For}
	s.open = func(fd int) error { return writeAll(fd, message) }
	s.ready = func(fd int) error {
		n, err := poll.Read(fd, buf)
		if err != nil || n == 0 {
			return errors.Join(err, endOf(n, err))
		}
		if got[fd] += n; got[fd] < m.Size {
			return nil
		}
		got[fd] = 0
		count++
		return writeAll(fd, message)
	}
	err = poll.OnThread(m.Cores, s.run)
	return count, err
}

// Bulk reads all that comes over some connections.
type Bulk struct {
	Addr  netip.AddrPort
	Conns int
	For   time.Duration
	Cores []int
}

// Run returns how many bytes came.
func (b Bulk) Run() (count int, err error) {
	const much = 1 << 20
	s := stream{addr: b.Addr, conns: b.Conns, duration: b.For}
	s.open = func(int) error { return nil }
	s.ready = func(fd int) error {
		n, err := poll.Discard(fd, much)
		count += n
		return errors.Join(err, endOf(n, err))
	}
	err = poll.OnThread(b.Cores, s.run)
	return count, err
}

func endOf(n int, err error) error {
	if n == 0 && err == nil {
		return io.ErrUnexpectedEOF
	}
	return nil
}

func writeAll(fd int, b []byte) error {
	n, err := poll.Write(fd, b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	return err
}

// stream opens connections and serves whichever is ready for a while.
type stream struct {
	addr     netip.AddrPort
	conns    int
	duration time.Duration
	open     func(fd int) error
	ready    func(fd int) error
}

func (s stream) run() (err error) {
	p, err := poll.New()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	for range s.conns {
		fd, err := poll.Dial(s.addr, netip.Addr{})
		if err != nil {
			return err
		}
		defer poll.Close(fd)
		if err := errors.Join(p.Add(fd, false), s.open(fd)); err != nil {
			return err
		}
	}
	for end := time.Now().Add(s.duration); ; {
		left := time.Until(end)
		if left <= 0 {
			return nil
		}
		events, err := p.Wait(left)
		if err != nil {
			return err
		}
		for _, ev := range events {
			if err := s.ready(int(ev.Fd)); err != nil && !errors.Is(err, unix.EAGAIN) {
				return fmt.Errorf("a connection ended: %w", err)
			}
		}
	}
}
