package http1

import (
	"bytes"
	"errors"
	"io"
	"net"
)

// errTooLarge is a head or line that does not fit the largest buffer allowed.
var errTooLarge = errors.New("message head too large")

// reader is a connection's receive buffer. What is between r and w was received and not yet used.
type reader struct {
	conn net.Conn
	buf  []byte
	r, w int
}

func (rd *reader) buffered() []byte { return rd.buf[rd.r:rd.w] }

func (rd *reader) len() int { return rd.w - rd.r }

func (rd *reader) discard(n int) {
	rd.r += n
	if rd.r == rd.w {
		rd.r, rd.w = 0, 0
	}
}

// fill receives more, growing the buffer up to limit bytes. It returns io.EOF only when nothing more comes.
func (rd *reader) fill(limit int) error {
	if rd.w == len(rd.buf) && rd.r > 0 {
		rd.w = copy(rd.buf, rd.buf[rd.r:rd.w])
		rd.r = 0
	}
	if rd.w == len(rd.buf) {
		if len(rd.buf) >= limit {
			return errTooLarge
		}
		rd.buf = append(rd.buf, make([]byte, min(max(len(rd.buf), minBuffer), limit-len(rd.buf)))...)
	}
	n, err := rd.conn.Read(rd.buf[rd.w:])
	rd.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// minBuffer is how large a receive buffer begins.
const minBuffer = 8 << 10

// line returns the next line without its end once it is wholly received, else nil. The caller discards
// size bytes when it is done with it.
func (rd *reader) line(strict bool) (line []byte, size int, err error) {
	b := rd.buffered()
	end := bytes.IndexByte(b, '\n')
	if end < 0 {
		return nil, 0, nil
	}
	size = end + 1
	if end > 0 && b[end-1] == '\r' {
		return b[: end-1 : end-1], size, nil
	}
	if strict {
		return nil, 0, malformed("a line does not end in CRLF")
	}
	return b[:end:end], size, nil
}

// headEnd returns the length of the head that b begins with, its empty line included, or -1 while it is
// not complete. from is a position before which no end was found.
func headEnd(b []byte, from int) int {
	for i := max(from, 0); ; {
		n := bytes.IndexByte(b[i:], '\n')
		if n < 0 {
			return -1
		}
		i += n + 1
		switch {
		case i < len(b) && b[i] == '\n':
			return i + 1
		case i+1 < len(b) && b[i] == '\r' && b[i+1] == '\n':
			return i + 2
		}
	}
}

// writer is a connection's send buffer.
type writer struct {
	conn net.Conn
	buf  []byte
}

// flushAt is how much is collected before it is sent although more is at hand.
const flushAt = 16 << 10

func (w *writer) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	_, err := w.conn.Write(w.buf)
	w.buf = w.buf[:0]
	return err
}

// write sends or collects data.
func (w *writer) write(data []byte) error {
	if len(w.buf)+len(data) <= flushAt {
		w.buf = append(w.buf, data...)
		return nil
	}
	if err := w.flush(); err != nil {
		return err
	}
	if len(data) < flushAt/2 {
		w.buf = append(w.buf, data...)
		return nil
	}
	_, err := w.conn.Write(data)
	return err
}
