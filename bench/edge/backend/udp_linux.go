package main

import (
	"encoding/binary"
	"errors"
	"os"
	"time"

	"vortex/bench/edge/poll"
)

const (
	datagrams    = 64       // read and written at once, each of which may be several of one sender
	datagramSize = 64 << 10 // at most
	questionSize = 16       // bytes that a sink takes for a question, and fewer
)

// serveUDP sends back every datagram that comes to a port: bundled are those that came together, where the kernel hands them over so. It
// never sleeps, so that who sends to it has nobody to wake.
func serveUDP(port uint16, bundled bool) error {
	fd, err := poll.ListenUDP(poll.Loopback(port))
	if err != nil {
		return err
	}
	if bundled {
		if err := poll.Join(fd, 0); err != nil {
			return err
		}
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
