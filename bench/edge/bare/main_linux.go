// Command bare passes datagrams on and does nothing else: what the system calls for that cost is the least that a proxy can cost which makes
// the same.
//
//	bare -listen 9001 -to 9002
//
// Each client has a socket to the backend, for ever. Datagrams that one client sent in a row go as one message that the kernel cuts apart,
// and so do answers. All must be of one size. There are no limits, no figures, no failures to see and no end but that of stdin. It
// serves 127.0.0.1 from one thread.
package main

import (
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime/debug"

	"vortex/bench/edge/poll"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "bare:", err)
		os.Exit(1) //nolint:forbidigo // a program of its own
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("bare", flag.ContinueOnError)
	listen := flags.Uint("listen", 0, "port to serve")
	to := flags.Uint("to", 0, "port of the backend")
	if err := flags.Parse(args); err != nil {
		return err
	}
	debug.SetGCPercent(-1) // nothing is allocated once it serves
	failed := make(chan error)
	go func() {
		failed <- poll.OnThread(nil, func() error { return serve(uint16(*listen), uint16(*to)) }) //nolint:gosec // ports
	}()
	go func() {
		_, err := io.Copy(io.Discard, os.Stdin)
		failed <- err
	}()
	return <-failed
}

const (
	slots    = 256
	together = 64        // datagrams that the kernel cuts one message into at most
	slotSize = 2048 + 64 // no power of two, for which slots would push each other out of the caches
)

// bare is what the loop knows.
type bare struct {
	backend  netip.AddrPort
	poll     *poll.Poll
	listener int
	there    *poll.Datagrams
	back     *poll.Datagrams
	sockets  map[netip.AddrPort]int // to the backend, by client
	clients  map[int]netip.AddrPort // by socket
}

func serve(listen, to uint16) (err error) {
	b := bare{
		backend: poll.Loopback(to), there: poll.NewDatagrams(slots, slotSize), back: poll.NewDatagrams(together, slotSize),
		sockets: map[netip.AddrPort]int{}, clients: map[int]netip.AddrPort{},
	}
	if b.poll, err = poll.New(); err != nil {
		return err
	}
	if b.listener, err = poll.ListenUDP(poll.Loopback(listen)); err != nil {
		return err
	}
	if err := b.poll.Add(b.listener, false); err != nil {
		return err
	}
	for {
		ready, err := b.poll.Wait(-1)
		if err != nil {
			return err
		}
		for _, ev := range ready {
			if fd := int(ev.Fd); fd == b.listener {
				err = b.forth()
			} else {
				err = b.answer(fd)
			}
			if err != nil {
				return err
			}
		}
	}
}

// forth passes on what clients sent.
func (b *bare) forth() error {
	n, _, err := b.there.Receive(b.listener)
	if err != nil {
		return err
	}
	for first := 0; first < n; {
		client, next := b.there.Sender(first), first+1
		for next < n && next-first < together && b.there.Sender(next) == client {
			next++
		}
		fd, err := b.socket(client)
		if err != nil {
			return err
		}
		if err := b.there.Together(fd, first, next, netip.AddrPort{}); err != nil {
			return err
		}
		first = next
	}
	return nil
}

// socket returns a client's socket to the backend.
func (b *bare) socket(client netip.AddrPort) (int, error) {
	if fd, ok := b.sockets[client]; ok {
		return fd, nil
	}
	fd, err := poll.DialUDP(b.backend)
	if err != nil {
		return -1, err
	}
	b.sockets[client], b.clients[fd] = fd, client
	return fd, b.poll.Add(fd, false)
}

// answer passes on what the backend sent to a client.
func (b *bare) answer(fd int) error {
	n, _, err := b.back.Receive(fd)
	if err != nil || n == 0 {
		return err
	}
	return b.back.Together(b.listener, 0, n, b.clients[fd])
}
