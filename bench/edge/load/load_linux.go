// Package load sends what benchmarks of the edge need, from one thread: HTTP requests at a fixed rate, whether or not earlier ones
// were answered; small messages and bulk data over TCP; datagrams; and connections that idle.
//
// It never sends a request again, and counts whatever is not the answer it expects as an error.
package load

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"vortex/bench/edge/poll"
)

// Rated is HTTP requests at a fixed rate.
type Rated struct {
	Addr     netip.AddrPort
	Requests [][]byte // sent in turn; whole heads without a body
	Conns    int
	Rate     int // requests a second
	For      time.Duration
	Cores    []int // the thread runs on these; none is all
}

// Result is what became of them.
type Result struct {
	Took     []float64 // ms from when each request was due to its last byte
	Late     []float64 // ms from when each was due to its sending: what of Took is the client's own
	Unsent   int       // were due, and still waited for a connection at the end
	Failures error     // why connections ended, the first few
	Failed   int       // requests on them
}

const (
	readSize     = 64 << 10
	keptFailures = 3
	grace        = 2 * time.Second // for the answers to the last requests
)

// Run sends them. An error is one of the client's own.
func (r Rated) Run() (Result, error) {
	run := &rated{Rated: r, buf: make([]byte, readSize), conns: map[int]*conn{}}
	expected := int(float64(r.Rate) * r.For.Seconds())
	run.Took, run.Late = make([]float64, 0, expected), make([]float64, 0, expected)
	err := poll.OnThread(r.Cores, run.run)
	return run.Result, err
}

type rated struct {
	Rated
	Result

	poll  *poll.Poll
	buf   []byte
	conns map[int]*conn
	free  []*conn
	due   []time.Time // of requests that wait for a connection, oldest first
	busy  int
}

// conn is a connection with at most one request on it.
type conn struct {
	fd   int
	due  time.Time
	head []byte // what came of an answer's head
	left int    // bytes of the answer that are yet to come; -1: its head is
}

func (r *rated) run() (err error) {
	if r.poll, err = poll.New(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.poll.Close()) }()
	defer func() {
		for fd := range r.conns {
			poll.Close(fd)
		}
	}()
	for range r.Conns {
		if err := r.dial(); err != nil {
			return err
		}
	}
	start := time.Now()
	interval := time.Second / time.Duration(r.Rate)
	total := int(float64(r.Rate) * r.For.Seconds())
	for n := 0; n < total; {
		now := time.Now()
		for ; n < total; n++ {
			due := start.Add(time.Duration(n) * interval)
			if due.After(now) {
				break
			}
			r.due = append(r.due, due)
		}
		if err := errors.Join(r.send(), r.receive(time.Until(start.Add(time.Duration(n)*interval)))); err != nil {
			return err
		}
	}
	for end := time.Now().Add(grace); (r.busy > 0 || len(r.due) > 0) && time.Now().Before(end); {
		if err := errors.Join(r.send(), r.receive(time.Until(end))); err != nil {
			return err
		}
	}
	r.Unsent = len(r.due)
	r.Failed += r.busy
	return nil
}

func (r *rated) dial() error {
	fd, err := poll.Dial(r.Addr, netip.Addr{})
	if err != nil {
		return err
	}
	c := &conn{fd: fd}
	r.conns[fd] = c
	r.free = append(r.free, c)
	return r.poll.Add(fd, false)
}

// send puts as many of the due requests on free connections as there are.
func (r *rated) send() error {
	for len(r.due) > 0 && len(r.free) > 0 {
		c := r.free[len(r.free)-1]
		r.free = r.free[:len(r.free)-1]
		c.due, c.left, c.head = r.due[0], -1, c.head[:0]
		r.due = r.due[1:]
		r.busy++
		request := r.Requests[len(r.Late)%len(r.Requests)]
		r.Late = append(r.Late, ms(time.Since(c.due)))
		if n, err := poll.Write(c.fd, request); err != nil || n != len(request) {
			if err := r.fail(c, fmt.Errorf("write %d of %d bytes: %w", n, len(request), err)); err != nil {
				return err
			}
		}
	}
	return nil
}

// receive waits for answers, at most until the next request is due.
func (r *rated) receive(timeout time.Duration) error {
	events, err := r.poll.Wait(max(timeout, 0))
	if err != nil {
		return err
	}
	for _, ev := range events {
		c := r.conns[int(ev.Fd)]
		if c == nil {
			continue
		}
		if err := r.read(c); err != nil {
			return err
		}
	}
	return nil
}

func (r *rated) read(c *conn) error {
	n, err := poll.Read(c.fd, r.buf)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return nil
	case err != nil:
		return r.fail(c, err)
	case n == 0:
		return r.fail(c, io.EOF)
	case c.due.IsZero():
		return r.fail(c, fmt.Errorf("%d bytes that nobody asked for", n))
	}
	if err := c.take(r.buf[:n]); err != nil {
		return r.fail(c, err)
	}
	if c.left == 0 {
		r.Took = append(r.Took, ms(time.Since(c.due)))
		c.due = time.Time{}
		r.busy--
		r.free = append(r.free, c)
	}
	return nil
}

// fail ends a connection and opens another one in its place.
func (r *rated) fail(c *conn, err error) error {
	if !c.due.IsZero() {
		r.busy--
		r.Failed++
		if r.Failed <= keptFailures {
			r.Failures = errors.Join(r.Failures, err)
		}
	} else {
		for i, f := range r.free {
			if f == c {
				r.free = append(r.free[:i], r.free[i+1:]...)
				break
			}
		}
	}
	delete(r.conns, c.fd)
	poll.Close(c.fd)
	return r.dial()
}

var (
	headEnd = []byte("\r\n\r\n")
	okay    = []byte("HTTP/1.1 200 ")
	length  = []byte("\r\ncontent-length:")
)

// take takes in bytes of an answer.
func (c *conn) take(b []byte) error {
	if c.left < 0 {
		c.head = append(c.head, b...)
		end := bytes.Index(c.head, headEnd)
		if end < 0 {
			return nil
		}
		body, err := bodyLength(c.head[:end+2])
		if err != nil {
			return err
		}
		b, c.left = c.head[end+len(headEnd):], body
	}
	if len(b) > c.left {
		return fmt.Errorf("%d bytes more than announced", len(b)-c.left)
	}
	c.left -= len(b)
	return nil
}

// bodyLength returns the Content-Length of a good answer.
func bodyLength(head []byte) (int, error) {
	if !bytes.HasPrefix(head, okay) {
		line, _, _ := bytes.Cut(head, headEnd[:2])
		return 0, fmt.Errorf("answered %q", line)
	}
	_, rest, found := bytes.Cut(bytes.ToLower(head), length)
	if !found {
		return 0, fmt.Errorf("an answer without a length: %q", head)
	}
	value, _, _ := bytes.Cut(rest, headEnd[:2])
	return strconv.Atoi(string(bytes.TrimSpace(value)))
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
