package l4

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// pieceSize is the most that is received at once while a connection carries small pieces.
	pieceSize = 16 << 10
	// bulkAfter is after how many pieces in a row that were full the kernel moves the bytes itself, and smallAfter after
	// how many in a row that were small it is asked no more.
	bulkAfter  = 2
	smallAfter = 4
	smallPiece = 4 << 10
	pipeSize   = 1 << 20
)

// piece is what is received at once.
type piece [pieceSize]byte

var pieces = sync.Pool{New: func() any { return new(piece) }}

// flow is one direction of a connection. Small pieces are received and sent; in bulk the kernel moves them from one socket to
// the other. Neither a buffer nor a pipe is held while it waits for the sender.
type flow struct {
	from, to       *net.TCPConn
	fromRaw, toRaw syscall.RawConn
	count          func(n int)

	piece *piece
	pipe  *pipe
	n     int   // received and not yet sent
	err   error // of the last system call

	bulk bool
	full int // full pieces in a row
	few  int // small ones in a row while in bulk
}

func newFlow(to, from *net.TCPConn, count func(int)) (*flow, error) {
	fromRaw, err := from.SyscallConn()
	if err != nil {
		return nil, err
	}
	toRaw, err := to.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &flow{from: from, to: to, fromRaw: fromRaw, toRaw: toRaw, count: count}, nil
}

// move carries everything from one side to the other. It returns nil when the sender has ended well.
func move(to, from *net.TCPConn, count func(int)) error {
	f, err := newFlow(to, from, count)
	if err != nil {
		return err
	}
	receive, drain := f.receive, f.drain // one allocation each, for all pieces
	for {
		if err := f.fromRaw.Read(receive); err != nil {
			return err
		}
		if f.err != nil {
			return f.err
		}
		if f.n == 0 {
			f.release()
			return nil
		}
		f.count(f.n)
		if err := f.send(drain); err != nil {
			f.abandon()
			return err
		}
		f.release()
		f.adapt()
	}
}

// receive takes one piece; false is to wait for more.
func (f *flow) receive(fd uintptr) bool {
	if f.bulk && f.pipe == nil {
		if f.pipe, f.err = takePipe(); f.err != nil {
			f.bulk, f.err = false, nil // no descriptors are left for pipes
		}
	}
	if !f.bulk && f.piece == nil {
		f.piece, _ = pieces.Get().(*piece)
	}
	for {
		if f.bulk {
			var n int64
			n, f.err = unix.Splice(int(fd), nil, f.pipe.w, nil, pipeSize, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
			f.n = int(n)
		} else {
			f.n, f.err = unix.Read(int(fd), f.piece[:])
		}
		switch {
		case f.err == nil:
			f.full = next(f.full, f.n == pieceSize)
			f.few = next(f.few, f.n <= smallPiece)
			return true
		case errors.Is(f.err, unix.EINTR):
		case errors.Is(f.err, unix.EAGAIN):
			f.release()
			return false
		default:
			f.release()
			return true
		}
	}
}

func next(count int, again bool) int {
	if again {
		return count + 1
	}
	return 0
}

// send sends what was received.
func (f *flow) send(drain func(uintptr) bool) error {
	if f.piece != nil {
		_, err := f.to.Write(f.piece[:f.n])
		return err
	}
	for f.n > 0 {
		if err := f.toRaw.Write(drain); err != nil {
			return err
		}
		if f.err != nil {
			return f.err
		}
	}
	return nil
}

// drain moves what the pipe holds; false is to wait for room.
func (f *flow) drain(fd uintptr) bool {
	for f.n > 0 {
		n, err := unix.Splice(f.pipe.r, nil, int(fd), nil, f.n, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		switch {
		case err == nil && n == 0:
			f.err = io.ErrUnexpectedEOF
			return true
		case err == nil:
			f.n -= int(n)
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return false
		default:
			f.err = err
			return true
		}
	}
	f.err = nil
	return true
}

// adapt chooses how the next piece is moved.
func (f *flow) adapt() {
	switch {
	case !f.bulk && f.full >= bulkAfter:
		f.bulk, f.few = true, 0
	case f.bulk && f.few >= smallAfter:
		f.bulk, f.full = false, 0
	}
}

// release gives back what holds nothing any more.
func (f *flow) release() {
	if f.piece != nil {
		pieces.Put(f.piece)
		f.piece = nil
	}
	if f.pipe != nil {
		f.pipe.giveBack()
		f.pipe = nil
	}
}

// abandon closes a pipe that may still hold bytes.
func (f *flow) abandon() {
	if f.pipe != nil {
		f.pipe.close()
		f.pipe = nil
	}
	f.release()
}

// pipe is where the kernel keeps bytes between two sockets.
type pipe struct{ r, w int }

// idlePipes are kept for the next who needs one.
var idlePipes = make(chan *pipe, 64)

func takePipe() (*pipe, error) {
	select {
	case p := <-idlePipes:
		return p, nil
	default:
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, err
	}
	// A refusal leaves the pipe at its usual size.
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize)
	return &pipe{fds[0], fds[1]}, nil
}

// giveBack keeps an empty pipe.
func (p *pipe) giveBack() {
	select {
	case idlePipes <- p:
	default:
		p.close()
	}
}

func (p *pipe) close() {
	_ = unix.Close(p.r) // a pipe has nothing to flush
	_ = unix.Close(p.w)
}
