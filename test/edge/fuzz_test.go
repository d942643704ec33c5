package edge_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// checking is a backend that takes every request apart twice as it comes, and keeps what was wrong.
type checking struct {
	mu    sync.Mutex
	wrong error
}

func (c *checking) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	buf := make([]byte, 64<<10)
	var got []byte
	for {
		n, err := conn.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil {
			return
		}
		for len(got) > 0 {
			m, rest, err := strictRequest(got)
			if errors.Is(err, errPart) {
				break
			}
			whole := got[:len(got)-len(rest)]
			if err == nil {
				common, commonErr := commonRequests(whole)
				err = agree([]message{m}, nil, common, commonErr)
			}
			if err != nil {
				c.mu.Lock()
				c.wrong = fmt.Errorf("%w\nof %q", err, whole)
				c.mu.Unlock()
				return
			}
			if _, err := io.WriteString(conn, echo(0, m)); err != nil {
				return
			}
			got = rest
		}
	}
}

func (c *checking) take() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wrong
}

// FuzzConnection sends a stream of bytes to a real edge. Whatever it is, the backend must get requests that every parser reads alike, and the
// edge must go on answering.
func FuzzConnection(f *testing.F) {
	for _, c := range corpus(f, "requests") {
		if len(c.wire) < 4096 {
			f.Add(c.wire)
		}
	}
	backend := &checking{}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { backend.serve(conn) })
		}
	})
	f.Cleanup(func() {
		_ = ln.Close()
		serving.Wait()
	})
	addr := serve(f, ln.Addr(), impatient())
	f.Fuzz(func(t *testing.T, data []byte) {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := conn.Write(data); err == nil {
			if half, ok := conn.(interface{ CloseWrite() error }); ok {
				_ = half.CloseWrite() // fails where the edge has refused and closed
			}
		}
		if _, err := io.Copy(io.Discard, conn); err != nil {
			if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
				t.Fatalf("the edge neither answers nor closes")
			}
		}
		if err := backend.take(); err != nil {
			t.Fatal(err)
		}
	})
}
