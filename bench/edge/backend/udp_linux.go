package main

import (
	"encoding/binary"
	"time"

	"vortex/bench/edge/poll"
)

const (
	datagrams    = 64       // read and written at once, each of which may be several of one sender
	datagramSize = 64 << 10 // at most
	counted      = 1024     // datagrams that a sink takes at once
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

// serveSink counts the datagrams that come to a port, and answers those that are short with how many came before. It looks every now and
// then, as the socket holds what comes meanwhile, so that who sends to it has nobody to wake.
func serveSink(port uint16) error {
	const pause = time.Millisecond / 2
	fd, err := poll.ListenUDP(poll.Loopback(port))
	if err != nil {
		return err
	}
	slots := poll.NewDatagrams(counted, questionSize)
	for count := uint64(0); ; {
		n, _, err := slots.Receive(fd)
		if err != nil {
			return err
		}
		for i := range n {
			if slots.Length(i) > questionSize {
				count++
				continue
			}
			if err := slots.Answer(fd, i, binary.BigEndian.AppendUint64(nil, count)); err != nil {
				return err
			}
		}
		if n < counted {
			poll.Pause(pause)
		}
	}
}
