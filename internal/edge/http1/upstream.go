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
	reused  bool // it has carried a request before

	raw  syscall.RawConn
	look func(fd uintptr) bool // sets quiet
	// Valid after look: whether the backend has neither closed the connection nor sent anything on it.
	quiet bool
	seen  [1]byte
}

func newUpstream(tcp net.Conn, b *pool.Backend) *upstream {
	u := &upstream{tcp: tcp, in: reader{conn: tcp}, out: writer{conn: tcp}, backend: b}
	if sys, ok := tcp.(syscall.Conn); ok {
		u.raw, _ = sys.SyscallConn() // fails on a closed connection, which is not used again
	}
	u.look = func(fd uintptr) bool {
		_, _, err := syscall.Recvfrom(int(fd), u.seen[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		u.quiet = errors.Is(err, syscall.EAGAIN)
		return true
	}
	return u
}

// Close implements pool.Conn.
func (u *upstream) Close() error { return u.tcp.Close() }

// connect returns a connection to a backend: an idle one, or with fresh always a new one. An idle one is looked at: what a backend has sent
// unasked would be taken for the answer to the next request.
func (s *Server) connect(b *pool.Backend, fresh bool, timeout time.Duration) (*upstream, error) {
	for !fresh {
		u, ok := b.TakeIdle().(*upstream)
		if !ok {
			break
		}
		if !u.stillQuiet() {
			closeQuietly(u.tcp)
			continue
		}
		u.reused = true
		return u, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var dialer net.Dialer
	tcp, err := dialer.DialContext(ctx, "tcp", b.Addr.String())
	if err != nil {
		return nil, err
	}
	return newUpstream(tcp, b), nil
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

// stillQuiet reports whether the backend has neither closed an idle connection nor sent anything on it.
func (u *upstream) stillQuiet() bool {
	return u.raw != nil && u.raw.Read(u.look) == nil && u.quiet
}
