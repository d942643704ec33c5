package http1

import (
	"errors"
	"io"
	"net"
	"strconv"

	"vortex/internal/edge/policy"
)

// bodyKind is how a body's end is found.
type bodyKind uint8

const (
	bodyNone bodyKind = iota
	bodyLength
	bodyChunked
	bodyClose // at the end of the connection
)

// maxLine is how long a chunk's size line or a trailer field may be, and maxTrailers all trailers together.
const (
	maxLine     = 4 << 10
	maxTrailers = 8 << 10
)

// body reads a message's body from a receive buffer as far as it has come, without ever waiting.
type body struct {
	kind     bodyKind
	strict   bool  // demand CRLF and plain chunk sizes
	left     int64 // bytes left of the body, or of the current chunk
	state    chunkState
	trailers []byte // as received, once a chunked body has ended
}

// chunkState is what a chunked body goes on with.
type chunkState uint8

const (
	chunkSize chunkState = iota
	chunkData
	chunkEnd // the line end behind a chunk's data
	chunkTrailer
	chunkDone
)

func newBody(kind bodyKind, length int64, strict bool) body {
	return body{kind: kind, left: max(length, 0), strict: strict}
}

// step returns the next bytes of the body that have been received; the caller discards them from rd. It
// returns nothing when more must be received first, and io.EOF at the body's end.
func (b *body) step(rd *reader) ([]byte, error) {
	switch b.kind {
	case bodyLength:
		if b.left == 0 {
			return nil, io.EOF
		}
		return b.take(rd), nil
	case bodyClose:
		return rd.buffered(), nil
	case bodyChunked:
		return b.stepChunked(rd)
	case bodyNone:
	}
	return nil, io.EOF
}

func (b *body) take(rd *reader) []byte {
	data := rd.buffered()
	if int64(len(data)) > b.left {
		data = data[:b.left]
	}
	b.left -= int64(len(data))
	return data
}

func (b *body) stepChunked(rd *reader) ([]byte, error) {
	for {
		switch b.state {
		case chunkData:
			if b.left > 0 {
				return b.take(rd), nil
			}
			b.state = chunkEnd
		case chunkDone:
			return nil, io.EOF
		case chunkSize, chunkEnd, chunkTrailer:
			line, size, err := rd.line(b.strict)
			if err != nil {
				return nil, err
			}
			if size == 0 {
				if rd.len() > maxLine {
					return nil, malformed("a chunk's size line is too long")
				}
				return nil, nil
			}
			if err := b.takeLine(line); err != nil {
				return nil, err
			}
			rd.discard(size)
		}
	}
}

// takeLine goes on by one of the lines between a chunked body's data.
func (b *body) takeLine(line []byte) error {
	switch b.state {
	case chunkSize:
		n, err := parseChunkSize(line, b.strict)
		if err != nil {
			return err
		}
		b.left, b.state = n, chunkData
		if n == 0 {
			b.state = chunkTrailer
		}
	case chunkEnd:
		if len(line) != 0 {
			return malformed("a chunk is longer than its size says")
		}
		b.state = chunkSize
	case chunkTrailer:
		if len(line) == 0 {
			b.state = chunkDone
			return nil
		}
		return b.takeTrailer(line)
	case chunkData, chunkDone:
	}
	return nil
}

// takeTrailer keeps a trailer field, unless it is one that only makes sense in a head (RFC 9110, 6.5.1).
func (b *body) takeTrailer(line []byte) error {
	f, err := parseField(line)
	if err != nil {
		return err
	}
	if len(b.trailers)+len(line) > maxTrailers {
		return malformed("the trailers are too large")
	}
	if trailerKind(f) == kindOther {
		b.trailers = appendField(b.trailers, f.name, f.value)
	}
	return nil
}

func parseChunkSize(line []byte, strict bool) (int64, error) {
	var n int64
	digits := 0
	for _, c := range line {
		digit, ok := hexDigit(c)
		if !ok {
			break
		}
		n = n<<4 | digit
		digits++
	}
	rest := line[digits:]
	if !strict {
		rest = trimSpace(rest)
	}
	if digits == 0 || digits > 15 || len(rest) > 0 && rest[0] != ';' {
		return 0, malformed("a chunk has no size")
	}
	if hasControl(rest) {
		return 0, malformed("a chunk's extension has a control character")
	}
	return n, nil
}

func hexDigit(c byte) (int64, bool) {
	switch {
	case '0' <= c && c <= '9':
		return int64(c - '0'), true
	case 'a' <= c && c <= 'f':
		return int64(c-'a') + 10, true
	case 'A' <= c && c <= 'F':
		return int64(c-'A') + 10, true
	}
	return 0, false
}

// bulk is from how many bytes on a body is moved by the kernel, where both ends are TCP.
const bulk = 64 << 10

// relay is one body on its way.
type relay struct {
	from    *reader
	to      *writer
	body    *body
	chunked bool           // send it in chunks
	ready   func() error   // called before every wait for more; nil is nothing
	piece   int64          // most bytes moved by the kernel in one wait; 0 is no limit
	moved   int64          // bytes taken from the body so far
	limit   int64          // most bytes the body may have; 0 is no limit
	encoder policy.Encoder // what compresses it, for a chunked one; nil is nothing
	limited io.LimitedReader
}

// errBodyTooLarge is a body with more bytes than relay.limit.
var errBodyTooLarge = errors.New("the body is too large")

// relayError is an error of the receiving or the sending side.
type relayError struct {
	err     error
	sending bool
}

func (e *relayError) Error() string { return e.err.Error() }
func (e *relayError) Unwrap() error { return e.err }

// run moves the body to its end. What has been received is sent on before waiting for more.
func (r *relay) run() error {
	for {
		data, err := r.body.step(r.from)
		switch {
		case err == io.EOF: //nolint:errorlint // step returns it bare
			return r.finish()
		case err != nil:
			return &relayError{err: err}
		case len(data) > 0:
			r.moved += int64(len(data))
			if r.limit > 0 && r.moved > r.limit {
				return &relayError{err: errBodyTooLarge}
			}
			if err := r.encode(data); err != nil {
				return &relayError{err, true}
			}
			r.from.discard(len(data))
		default:
			if done, err := r.wait(); done || err != nil {
				return err
			}
		}
	}
}

// wait sends what was collected and receives more. done is the end of a body that ends with its connection.
func (r *relay) wait() (done bool, err error) {
	if r.encoder != nil {
		if err := r.encoder.Flush(); err != nil {
			return false, &relayError{err, true}
		}
	}
	if err := r.to.flush(); err != nil {
		return false, &relayError{err, true}
	}
	if r.ready != nil {
		if err := r.ready(); err != nil {
			return false, &relayError{err: err}
		}
	}
	if moved, err := r.splice(); moved || err != nil {
		return false, err
	}
	switch err := r.from.fill(bulkBuffer); {
	case err == nil:
		return false, nil
	case err == io.EOF && r.body.kind == bodyClose: //nolint:errorlint // fill returns it bare
		return true, r.finish()
	case err == io.EOF: //nolint:errorlint // fill returns it bare
		return false, &relayError{err: io.ErrUnexpectedEOF}
	default:
		return false, &relayError{err: err}
	}
}

// bulkBuffer is how large a receive buffer may grow for a body.
const bulkBuffer = 32 << 10

// bulky reports whether what is left is for the kernel to move.
func (r *relay) bulky() bool { return r.body.kind == bodyLength && !r.chunked && r.body.left >= bulk }

// splice lets the kernel move a large body of known length.
func (r *relay) splice() (moved bool, err error) {
	if !r.bulky() {
		return false, nil
	}
	to, ok := r.to.conn.(*net.TCPConn)
	from, ok2 := r.from.conn.(*net.TCPConn)
	if !ok || !ok2 {
		return false, nil
	}
	n := r.body.left
	if r.piece > 0 {
		n = min(n, r.piece)
	}
	r.limited = io.LimitedReader{R: from, N: n}
	got, err := to.ReadFrom(&r.limited)
	r.body.left -= got
	r.moved += got
	switch {
	case err != nil:
		return true, &relayError{err: err} // which side it was cannot be told; both connections are given up
	case got < n:
		return true, &relayError{err: io.ErrUnexpectedEOF}
	}
	return true, nil
}

// encode sends data on, compressed if it is to be.
func (r *relay) encode(data []byte) error {
	if r.encoder == nil {
		return r.send(data)
	}
	_, err := r.encoder.Write(data)
	return err
}

// encoded is a relay as its encoder sees it: what comes out is sent.
type encoded relay

// Write implements io.Writer.
func (e *encoded) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil // an empty chunk would be the last
	}
	return len(p), (*relay)(e).send(p)
}

func (r *relay) send(data []byte) error {
	if !r.chunked {
		return r.to.write(data)
	}
	var size [20]byte
	head := append(strconv.AppendInt(size[:0], int64(len(data)), 16), '\r', '\n')
	if err := r.to.write(head); err != nil {
		return err
	}
	if err := r.to.write(data); err != nil {
		return err
	}
	return r.to.write([]byte("\r\n"))
}

func (r *relay) finish() error {
	if r.encoder != nil {
		if err := r.encoder.Close(); err != nil {
			return &relayError{err, true}
		}
	}
	if r.chunked {
		r.to.buf = append(r.to.buf, "0\r\n"...)
		r.to.buf = append(r.to.buf, r.body.trailers...)
		r.to.buf = append(r.to.buf, '\r', '\n')
	}
	if err := r.to.flush(); err != nil {
		return &relayError{err, true}
	}
	return nil
}
