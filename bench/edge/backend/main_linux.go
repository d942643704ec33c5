// Command backend answers as cheaply as it can, in one thread: it stands behind the proxies that are measured.
//
//	backend -http 9001,9002 -echo 9003 -bulk 9004 -udp 9005 -bundles 9006 -sink 9007
//
// On the -http ports it answers every request head with the same 1 KiB, naming the port in X-Backend; bodies of requests it does not know.
// On -echo it sends back what it reads, on -bulk it sends bytes without end. On -udp it answers every datagram with one as long, which it does
// not read, and on -bundles it sends back what came, that which came together as one. On -sink it counts datagrams, and answers those of at most 16 bytes with the count. It listens on 127.0.0.1, says "ready" on stdout, and ends when stdin does.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"vortex/bench/edge/poll"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "backend:", err)
		os.Exit(1) //nolint:forbidigo // a program of its own
	}
}

const (
	bodySize   = 1024
	bufferSize = 64 << 10
	bulkSize   = 256 << 10
	maxFiles   = 1 << 20
)

func run(args []string) error {
	flags := flag.NewFlagSet("backend", flag.ContinueOnError)
	web := flags.String("http", "", "ports for HTTP, comma-separated")
	echo := flags.String("echo", "", "ports that send back what they read")
	bulk := flags.String("bulk", "", "ports that send without end")
	udp := flags.String("udp", "", "UDP ports that answer every datagram with one as long")
	bundles := flags.String("bundles", "", "UDP ports that send back every datagram, those that came together as one")
	sink := flags.String("sink", "", "UDP ports that count every datagram")
	if err := flags.Parse(args); err != nil {
		return err
	}
	debug.SetGCPercent(-1)                   // nothing is allocated once it serves
	runtime.GOMAXPROCS(runtime.NumCPU() + 2) // threads for datagrams keep theirs
	s := &server{socks: make([]sock, maxFiles), buf: make([]byte, bufferSize), bulk: make([]byte, bulkSize)}
	failed := make(chan error)
	for _, udp := range []struct {
		list  string
		serve func(port uint16) error
	}{
		{*udp, serveUDP},
		{*bundles, serveBundles},
		{*sink, serveSink},
	} {
		for _, p := range ports(udp.list) {
			go func() { failed <- poll.OnThread(nil, func() error { return udp.serve(p) }) }()
		}
	}
	go func() {
		failed <- poll.OnThread(nil, func() error { return s.serve(ports(*web), ports(*echo), ports(*bulk)) })
	}()
	go func() {
		_, err := io.Copy(io.Discard, os.Stdin)
		failed <- err
	}()
	return <-failed
}

// ports reads a list of ports; what is no port is 0, which cannot be asked for.
func ports(list string) (found []uint16) {
	for field := range strings.SplitSeq(list, ",") {
		if n, err := strconv.ParseUint(field, 10, 16); err == nil {
			found = append(found, uint16(n))
		}
	}
	return found
}

// kind is what a socket is there for.
type kind byte

const (
	closed kind = iota
	web
	echo
	bulk
)

// sock is what is known of a descriptor.
type sock struct {
	kind      kind
	listening bool
	ends      int    // bytes of a head's end, \r\n\r\n, that were read last
	answer    []byte // to a head
}

type server struct {
	poll  *poll.Poll
	socks []sock // by descriptor
	buf   []byte
	bulk  []byte
}

func (s *server) serve(webs, echoes, bulks []uint16) (err error) {
	if s.poll, err = poll.New(); err != nil {
		return err
	}
	for k, list := range map[kind][]uint16{web: webs, echo: echoes, bulk: bulks} {
		for _, port := range list {
			fd, err := poll.Listen(poll.Loopback(port))
			if err != nil {
				return err
			}
			s.socks[fd] = sock{kind: k, listening: true, answer: answer(port)}
			if err := s.poll.Add(fd, false); err != nil {
				return err
			}
		}
	}
	if _, err := fmt.Fprintln(os.Stdout, "ready"); err != nil {
		return err
	}
	for {
		events, err := s.poll.Wait(-1)
		if err != nil {
			return err
		}
		for _, ev := range events {
			s.handle(int(ev.Fd))
		}
	}
}

func answer(port uint16) []byte {
	head := fmt.Sprintf("HTTP/1.1 200 OK\r\nServer: bench\r\nX-Backend: %d\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n", port, bodySize)
	return append([]byte(head), bytes.Repeat([]byte("x"), bodySize)...)
}

func (s *server) handle(fd int) {
	c := &s.socks[fd]
	var err error
	switch {
	case c.listening:
		s.accept(fd, *c)
		return
	case c.kind == bulk:
		err = s.send(fd)
	case c.kind == closed:
		return // closed by an earlier event of the same wait
	default:
		err = s.answer(fd, c)
	}
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		c.kind = closed
		poll.Close(fd)
	}
}

// accept takes all the connections that wait.
func (s *server) accept(listener int, l sock) {
	for {
		fd, err := poll.Accept(listener)
		if err != nil {
			return
		}
		l.listening, l.ends = false, 0
		s.socks[fd] = l
		if s.poll.Add(fd, l.kind == bulk) != nil {
			poll.Close(fd)
		}
	}
}

var errPartial = errors.New("the socket's buffer is full")

// answer reads once and answers every head in what came, or sends it back.
func (s *server) answer(fd int, c *sock) error {
	n, err := poll.Read(fd, s.buf)
	if err != nil {
		return err
	}
	if n == 0 {
		return io.EOF
	}
	if c.kind == echo {
		return write(fd, s.buf[:n])
	}
	for range c.heads(s.buf[:n]) {
		if err := write(fd, c.answer); err != nil {
			return err
		}
	}
	return nil
}

// heads counts the heads that end in what was read.
func (c *sock) heads(read []byte) (n int) {
	const end = "\r\n\r\n"
	for _, b := range read {
		switch b {
		case end[c.ends]:
			c.ends++
		case '\r':
			c.ends = 1
		default:
			c.ends = 0
		}
		if c.ends == len(end) {
			n++
			c.ends = 0
		}
	}
	return n
}

// write writes all of it: what is asked for fits the socket's buffer, or the peer has stopped reading.
func write(fd int, b []byte) error {
	n, err := poll.Write(fd, b)
	if errors.Is(err, unix.EAGAIN) || err == nil && n < len(b) {
		return errPartial
	}
	return err
}

// send fills a bulk connection's buffer. What comes the other way is read away.
func (s *server) send(fd int) error {
	if n, err := poll.Discard(fd, bulkSize); err == nil && n == 0 {
		return io.EOF
	}
	_, err := poll.Write(fd, s.bulk)
	return err
}
