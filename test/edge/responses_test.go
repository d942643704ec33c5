package edge_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	plain  = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	second = "GET /second HTTP/1.1\r\nHost: a\r\n\r\n"
)

// hostile is a backend that gives every connection's first request for anything but /second a given answer, and then waits a moment for the next
// request. To /second it says so.
func hostile(tb testing.TB, answer []byte) net.Addr {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer func() { _ = conn.Close() }()
				for {
					head, err := readHead(conn)
					if err != nil {
						return
					}
					wire := answer
					if bytes.HasPrefix(head, []byte("GET /second ")) {
						wire = []byte("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond")
					}
					if _, err := conn.Write(wire); err != nil {
						return
					}
				}
			})
		}
	})
	tb.Cleanup(func() {
		_ = ln.Close()
		serving.Wait()
	})
	return ln.Addr()
}

// readHead reads a request's head, waiting no longer than a moment.
func readHead(conn net.Conn) ([]byte, error) {
	_ = conn.SetReadDeadline(time.Now().Add(trickle))
	var head []byte
	for one := make([]byte, 1); !bytes.HasSuffix(head, []byte("\r\n\r\n")); {
		if _, err := conn.Read(one); err != nil {
			return nil, err
		}
		head = append(head, one[0])
	}
	return head, nil
}

// ask sends a request and returns everything up to the end of its final answer, and whether the connection ended with it.
func ask(t *testing.T, conn net.Conn, wire []byte) (got []byte, closed bool) {
	t.Helper()
	if _, err := conn.Write(wire); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(string(wire), " ")
	for buf := make([]byte, 64<<10); ; {
		list, _ := strictResponses(got, false, method)
		if n := len(list); n > 0 && list[n-1].start >= "200" {
			return got, false
		}
		n, err := conn.Read(buf)
		got = append(got, buf[:n]...)
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
			t.Fatalf("no answer came: %q", got)
		}
		if err != nil {
			return got, true
		}
	}
}

// TestResponses lets a backend answer with every response of the corpus.
func TestResponses(t *testing.T) {
	t.Parallel()
	for _, c := range corpus(t, "responses") {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			addr := serve(t, hostile(t, c.wire), impatient())
			conn := dial(t, "tcp", addr)
			wire := []byte(plain)
			if c.ask != "" {
				var err error
				if wire, err = unescape(c.ask); err != nil {
					t.Fatal(err)
				}
			}
			got, closed := ask(t, conn, wire)
			c.checkResponse(t, string(wire[:strings.IndexByte(string(wire), ' ')]), got, closed)
			if c.ask == "" && !closed && !bytes.Contains(got, []byte("Connection: close")) {
				expectSecond(t, conn)
			}
			expectSecond(t, dial(t, "tcp", addr))
		})
	}
}

// checkResponse holds that what the client got is what the case says, and whole if nothing was said.
func (c testCase) checkResponse(t *testing.T, method string, got []byte, closed bool) {
	t.Helper()
	strict, strictErr := strictResponses(got, closed, method)
	common, commonErr := commonResponses(got, method)
	if err := agree(strict, strictErr, common, commonErr); err != nil {
		t.Fatalf("%q was passed on ambiguously: %v\n%q", c.wire, err, got)
	}
	status, refused := strings.CutPrefix(c.expect, "refused ")
	switch {
	case c.expect == "cut":
		if len(strict) > 0 {
			t.Errorf("%s: %q was taken for whole: %q", c.why, c.wire, got)
		}
	case strictErr != nil:
		t.Errorf("%s: %q: %v in %q", c.why, c.wire, strictErr, got)
	case refused:
		if n := len(strict); n == 0 || strict[n-1].start != status {
			t.Errorf("%s: %.300q became %d bytes that end in %.300q, want %s", c.why, c.wire, len(got), got[max(0, len(got)-300):], status)
		}
	default:
		c.checkSeen(t, strict)
	}
}

// expectSecond holds that the next request gets its own answer and no other.
func expectSecond(t *testing.T, conn net.Conn) {
	t.Helper()
	got, closed := ask(t, conn, []byte(second))
	list, err := strictResponses(got, closed)
	if err != nil || len(list) != 1 || list[0].String() != `200 "second"` {
		t.Errorf("the next request was answered %q", got)
	}
}

// TestWhatComesLateAnswersNobody lets a backend send more after its answer was passed on. It must not answer the next request.
func TestWhatComesLateAnswersNobody(t *testing.T) {
	t.Parallel()
	more := make(chan chan struct{})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() {
		_ = ln.Close()
		serving.Wait()
	})
	serving.Go(func() {
		for n := 0; ; n++ {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer func() { _ = conn.Close() }()
				for {
					if _, err := readHead(conn); err != nil {
						return
					}
					fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine")
					select {
					case sent := <-more:
						_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
						close(sent)
					case <-time.After(10 * time.Millisecond):
					}
				}
			})
		}
	})
	addr := serve(t, ln.Addr(), impatient())
	conn := dial(t, "tcp", addr)
	for range 20 {
		got, closed := ask(t, conn, []byte(plain))
		if closed || !bytes.HasSuffix(got, []byte("fine")) {
			t.Fatalf("answered %q", got)
		}
		sent := make(chan struct{})
		select {
		case more <- sent:
			<-sent
		case <-time.After(20 * time.Millisecond):
		}
	}
}
