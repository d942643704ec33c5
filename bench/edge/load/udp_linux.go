package load

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"vortex/bench/edge/poll"
)

// Datagrams sends datagrams to what echoes them: each socket keeps a number of them under way.
type Datagrams struct {
	Addr    netip.AddrPort
	Sockets int
	Window  int // under way from each socket
	Size    int
	Bundled bool // the kernel is given and hands over those that go together as one, as QUIC's programs have it
	For     time.Duration
	Cores   []int
}

// lost is after how long without an answer a socket sends a whole window anew.
const lost = 20 * time.Millisecond

// Run returns how many datagrams came back.
func (d Datagrams) Run() (count int, err error) {
	end := time.Now().Add(d.For)
	counts, errs := make([]int, d.Sockets), make([]error, d.Sockets)
	var wg sync.WaitGroup
	for i := range d.Sockets {
		wg.Go(func() {
			errs[i] = poll.OnThread(d.Cores, func() (err error) {
				counts[i], err = d.exchange(end)
				return err
			})
		})
	}
	wg.Wait()
	for _, n := range counts {
		count += n
	}
	return count, errors.Join(errs...)
}

// exchange keeps one socket's window full until end.
func (d Datagrams) exchange(end time.Time) (count int, err error) {
	raw, err := new(net.Dialer).DialContext(context.Background(), "udp4", d.Addr.String())
	if err != nil {
		return 0, err
	}
	defer func() { _ = raw.Close() }()
	conn, ok := raw.(*net.UDPConn)
	if !ok {
		return 0, fmt.Errorf("dialling UDP gave a %T", raw)
	}
	w, err := d.wire(conn)
	if err != nil {
		return 0, err
	}
	missing := d.Window
	for time.Now().Before(end) {
		if missing > 0 {
			if err := w.send(missing); err != nil {
				return count, err
			}
		}
		if err := conn.SetReadDeadline(time.Now().Add(lost)); err != nil {
			return count, err
		}
		n, err := w.receive()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			missing = d.Window
		case err != nil:
			return count, err
		default:
			missing = n
			count += n
		}
	}
	return count, nil
}

// wire sends a number of datagrams with one system call, and receives what is there with one.
type wire interface {
	send(n int) error
	receive() (n int, err error)
}

func (d Datagrams) wire(conn *net.UDPConn) (wire, error) {
	if !d.Bundled {
		return &single{ipv4.NewPacketConn(conn), messages(d.Window, d.Size), messages(d.Window, d.Size)}, nil
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var segment, gro error
	err = raw.Control(func(fd uintptr) {
		segment = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, d.Size)
		gro = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_GRO, 1)
	})
	return &bundled{conn, make([]byte, d.Window*d.Size), make([]byte, d.Window*d.Size), d.Size}, errors.Join(err, segment, gro)
}

// single gives the kernel each datagram by itself.
type single struct {
	conn    *ipv4.PacketConn
	out, in []ipv4.Message
}

func (s *single) send(n int) error {
	_, err := s.conn.WriteBatch(s.out[:n], 0)
	return err
}

func (s *single) receive() (int, error) {
	n, err := s.conn.ReadBatch(s.in, 0)
	return max(n, 0), err
}

func messages(n, size int) []ipv4.Message {
	list := make([]ipv4.Message, n)
	for i := range list {
		list[i].Buffers = [][]byte{make([]byte, size)}
	}
	return list
}

// bundled gives the kernel all of them as one.
type bundled struct {
	conn    *net.UDPConn
	out, in []byte
	size    int
}

func (b *bundled) send(n int) error {
	_, err := b.conn.Write(b.out[:n*b.size])
	return err
}

func (b *bundled) receive() (int, error) {
	n, err := b.conn.Read(b.in)
	return n / b.size, err
}
