package http1

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"vortex/internal/edge/pool"
)

// upstream is a connection to a backend.
type upstream struct {
	tcp     net.Conn
	in      reader
	out     writer
	backend *pool.Backend
	reused  bool  // it has carried a request before
	idle    int64 // since when it waits for a request
}

// Close implements pool.Conn.
func (u *upstream) Close() error { return u.tcp.Close() }

// checkIdle is for how long an idle connection is trusted to be open without a look.
const checkIdle = time.Second

// connect returns a connection to a backend: an idle one, or with fresh always a new one. One for a request that
// must not be sent twice is looked at before it is used again.
func (s *Server) connect(b *pool.Backend, fresh, careful bool) (*upstream, error) {
	for !fresh {
		u, ok := b.TakeIdle().(*upstream)
		if !ok {
			break
		}
		if (careful || s.Now()-u.idle > int64(checkIdle)) && !stillOpen(u.tcp) {
			closeQuietly(u.tcp)
			continue
		}
		u.reused = true
		return u, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.ConnectTimeout)
	defer cancel()
	var dialer net.Dialer
	tcp, err := dialer.DialContext(ctx, "tcp", b.Addr.String())
	if err != nil {
		return nil, err
	}
	return &upstream{tcp: tcp, in: reader{conn: tcp}, out: writer{conn: tcp}, backend: b}, nil
}

// isDead reports whether a failed connect says that the backend is not there, rather than that something is wrong here.
func isDead(err error) bool {
	netErr, ok := errors.AsType[net.Error](err)
	return ok && netErr.Timeout() || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTDOWN)
}

// errEarly is a connection that ended before any byte of a response.
var errEarly = errors.New("the backend closed the connection without an answer")

// errNoAnswer is a backend that took too long to begin its response.
var errNoAnswer = errors.New("the backend did not answer in time")

// readHead receives a response's head, which is valid until the caller discards it. first is whether nothing of a response
// was received on this connection since the request.
func (u *upstream) readHead(limit int, first bool) ([]byte, error) {
	scanned := 0
	for {
		if end := headEnd(u.in.buffered(), scanned-3); end > 0 {
			return u.in.buffered()[:end], nil
		}
		scanned = u.in.len()
		switch err := u.in.fill(limit); {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, errNoAnswer
		case errors.Is(err, errTooLarge):
			return nil, malformed("the response head is too large")
		case first && u.in.len() == 0:
			return nil, errEarly
		default:
			return nil, io.ErrUnexpectedEOF
		}
	}
}

// stillOpen reports whether the other side has neither closed an idle connection nor sent anything on it.
func stillOpen(c net.Conn) bool {
	sys, ok := c.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := sys.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		quiet = errors.Is(err, syscall.EAGAIN)
		return true
	})
	return err == nil && quiet
}
