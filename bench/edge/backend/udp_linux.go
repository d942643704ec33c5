package main

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"time"

	"vortex/bench/edge/poll"
)

const (
	datagrams    = 64       // read and written at once, each of which may be several of one sender
	datagramSize = 64 << 10 // at most
	questionSize = 16       // bytes that a sink takes for a question, and fewer
)

// serveBundles sends back every datagram that comes to a port, those together that came together, where the kernel hands them over so. It
// never sleeps, so that who sends to it has nobody to wake.
func serveBundles(port uint16) error {
	fd, err := poll.ListenUDP(poll.Loopback(port))
	if err != nil {
		return err
	}
	if err := poll.Join(fd, 0); err != nil {
		return err
	}
	slots := poll.NewDatagrams(datagrams, datagramSize)
	for {
		n, _, err := slots.Receive(fd)
		if err != nil {
			return err
		}
		if n == 0 {
			poll.Yield()
			continue
		}
		if err := slots.Return(fd, n); err != nil {
			return err
		}
	}
}

// flows answers the senders of one port, each datagram with one of the same size, and spends as little on it as can be: each sender has a
// socket of its own, where the kernel counts what it sends and nobody receives it.
type flows struct {
	addr    netip.AddrPort
	unknown int // the socket on which senders come that have none
	slots   *poll.Datagrams
	open    map[netip.AddrPort]*flow
	answers map[int]*poll.Datagrams // by their size
}

// flow is one sender.
type flow struct {
	fd      int
	seen    uint32 // by the kernel's count
	heard   time.Time
	answers *poll.Datagrams
}

// silent is after how long without a datagram a sender's socket is closed.
const silent = time.Second

// serveUDP answers every datagram that comes to a port. It never sleeps, so that who sends to it has nobody to wake.
func serveUDP(port uint16) error {
	addr := poll.Loopback(port)
	fd, err := poll.ShareUDP(addr)
	if err != nil {
		return err
	}
	f := flows{
		addr: addr, unknown: fd, slots: poll.NewDatagrams(datagrams, datagramSize),
		open: map[netip.AddrPort]*flow{}, answers: map[int]*poll.Datagrams{},
	}
	for {
		begun, err := f.begin()
		if err != nil {
			return err
		}
		answered, err := f.answer()
		if err != nil {
			return err
		}
		if !begun && !answered {
			poll.Yield()
		}
	}
}

// begin opens sockets for senders that have none, and sends back what they sent.
func (f *flows) begin() (begun bool, err error) {
	n, _, err := f.slots.Receive(f.unknown)
	if err != nil || n == 0 {
		return false, err
	}
	for i := range n {
		sender := f.slots.Sender(i)
		if f.open[sender] != nil {
			continue
		}
		fd, err := poll.CountUDP(f.addr, sender)
		if err != nil {
			return false, err
		}
		size := f.slots.Length(i)
		if f.answers[size] == nil {
			f.answers[size] = poll.NewDatagrams(datagrams, size)
			f.answers[size].Fill()
		}
		f.open[sender] = &flow{fd: fd, heard: time.Now(), answers: f.answers[size]}
	}
	return true, f.slots.Return(f.unknown, n)
}

// answer sends to every sender as many datagrams as it has sent.
func (f *flows) answer() (answered bool, err error) {
	now := time.Now()
	for sender, one := range f.open {
		count, err := poll.Dropped(one.fd)
		if err != nil {
			return false, err
		}
		n := count - one.seen
		if n == 0 && now.Sub(one.heard) > silent {
			poll.Close(one.fd)
			delete(f.open, sender)
		}
		if n == 0 {
			continue
		}
		answered, one.seen, one.heard = true, count, now
		for ; n > 0; n -= min(n, datagrams) {
			if err := one.answers.Send(one.fd, int(min(n, datagrams))); err != nil {
				return false, err
			}
		}
	}
	return answered, nil
}

// serveSink takes what comes to a port for nothing: the kernel drops and counts it, so that the sink costs next to no time of any core. A
// datagram that is short is let through, and answered with how many were dropped before.
func serveSink(port uint16) error {
	fd, err := poll.ListenUDP(poll.Loopback(port))
	if err != nil {
		return err
	}
	if err := poll.DropLonger(fd, questionSize); err != nil {
		return err
	}
	slots := poll.NewDatagrams(1, questionSize)
	for {
		if err := poll.Readable(fd, time.Hour); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		n, _, err := slots.Receive(fd)
		if err == nil && n > 0 {
			err = tell(fd, slots)
		}
		if err != nil {
			return err
		}
	}
}

// tell answers a question with how many datagrams were dropped.
func tell(fd int, question *poll.Datagrams) error {
	count, err := poll.Dropped(fd)
	if err != nil {
		return err
	}
	return question.Answer(fd, 0, binary.BigEndian.AppendUint64(nil, uint64(count)))
}
