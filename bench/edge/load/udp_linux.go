package load

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"vortex/bench/edge/poll"
)

// Datagrams sends datagrams to what echoes them: each socket keeps a number of them under way. One thread serves all sockets. It never
// sleeps, so that whoever sends to it has nobody to wake, and it counts what comes without reading it: bundles are received for that, while
// the kernel drops single datagrams and counts them itself.
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
	err = poll.OnThread(d.Cores, func() (err error) {
		count, err = d.exchange()
		return err
	})
	return count, err
}

// exchange keeps the windows of all sockets full.
func (d Datagrams) exchange() (count int, err error) {
	sockets, err := d.open()
	defer closeAll(sockets)
	if err != nil {
		return 0, err
	}
	come, send := d.counted()
	if d.Bundled {
		come, send = d.bundled()
	}
	heard := make([]time.Time, len(sockets)) // or sent to anew
	for now, end := time.Now(), time.Now().Add(d.For); now.Before(end); now = time.Now() {
		idle := true
		for i, fd := range sockets {
			n, err := come(fd)
			if err != nil {
				return count, err
			}
			count += n
			if n == 0 && now.Sub(heard[i]) > lost {
				n = d.Window
			}
			if n == 0 {
				continue
			}
			idle, heard[i] = false, now
			if err := send(fd, min(n, d.Window)); err != nil {
				return count, err
			}
		}
		if idle {
			poll.Yield()
		}
	}
	return count, nil
}

// counted returns how many datagrams have come to a socket since the last time, by what the kernel counts, and sends some.
func (d Datagrams) counted() (come func(fd int) (int, error), send func(fd, n int) error) {
	before := map[int]uint32{}
	out := poll.NewDatagrams(d.Window, d.Size)
	out.Fill()
	return func(fd int) (int, error) {
		now, err := poll.Dropped(fd)
		n := now - before[fd]
		before[fd] = now
		return int(n), err
	}, out.Send
}

// bundled receives what has come to a socket, and sends some as one.
func (d Datagrams) bundled() (come func(fd int) (int, error), send func(fd, n int) error) {
	in, out := poll.NewDatagrams(d.Window, 0), poll.NewDatagrams(1, d.Window*d.Size)
	out.Fill()
	return func(fd int) (int, error) {
		_, bytes, err := in.Receive(fd)
		return bytes / d.Size, err
	}, func(fd, n int) error { return out.Part(fd, n*d.Size) }
}

func (d Datagrams) open() (sockets []int, err error) {
	for range d.Sockets {
		fd, err := poll.DialUDP(d.Addr)
		if err != nil {
			return sockets, err
		}
		sockets = append(sockets, fd)
		if d.Bundled {
			err = poll.Join(fd, d.Size)
		} else {
			err = poll.Count(fd)
		}
		if err != nil {
			return sockets, err
		}
	}
	return sockets, nil
}

func closeAll(sockets []int) {
	for _, fd := range sockets {
		poll.Close(fd)
	}
}

// Flood sends datagrams as fast as one thread can, one way, to what passes them on to a sink of the backend, which counts them.
type Flood struct {
	Addr    netip.AddrPort
	Sink    netip.AddrPort // asked past Addr
	Sockets int
	Burst   int // sent from a socket before the next one has its turn
	Size    int
	For     time.Duration
	Cores   []int
}

// Run returns how many datagrams the sink received, those among them that stood in line at the end.
func (f Flood) Run() (count int, err error) {
	err = poll.OnThread(f.Cores, func() (err error) {
		count, err = f.flood()
		return err
	})
	return count, err
}

func (f Flood) flood() (count int, err error) {
	sink, err := poll.DialUDP(f.Sink)
	if err != nil {
		return 0, err
	}
	defer poll.Close(sink)
	before, err := counted(sink)
	if err != nil {
		return 0, err
	}
	sockets, err := Datagrams{Addr: f.Addr, Sockets: f.Sockets}.open()
	defer closeAll(sockets)
	if err != nil {
		return 0, err
	}
	out := poll.NewDatagrams(f.Burst, f.Size)
	out.Fill()
	for end := time.Now().Add(f.For); time.Now().Before(end); {
		for _, fd := range sockets {
			if err := out.Send(fd, f.Burst); err != nil {
				return 0, err
			}
		}
	}
	after, err := settled(sink)
	return int(uint32(after - before)), err //nolint:gosec // the kernel counts in 32 bits
}

// settled waits until nothing comes to the sink any more and returns how much came.
func settled(sink int) (uint64, error) {
	const pause = 5 * time.Millisecond
	last, err := counted(sink)
	for err == nil {
		time.Sleep(pause) //nolint:forbidigo // a thread of its own, for as long as the proxy has datagrams in line
		n, err := counted(sink)
		if err != nil || n == last {
			return n, err
		}
		last = n
	}
	return last, err
}

// counted asks the sink how many datagrams it has received.
func counted(sink int) (uint64, error) {
	const tries = 20
	question, answer := poll.NewDatagrams(1, 1), poll.NewDatagrams(1, counterSize)
	for range tries {
		question.Fill()
		if err := question.Send(sink, 1); err != nil {
			return 0, err
		}
		if err := poll.Readable(sink, time.Second/tries); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, err
		}
		n, _, err := answer.Receive(sink)
		if err != nil {
			return 0, err
		}
		if n > 0 {
			return binary.BigEndian.Uint64(answer.Bytes(0)), nil
		}
	}
	return 0, fmt.Errorf("the sink did not answer %d questions", tries)
}

// counterSize is the length of the sink's answer.
const counterSize = 8
