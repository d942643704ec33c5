package http1

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"vortex/internal/edge/policy"
)

// tunnel joins the two connections after the backend switched protocols, until both directions have ended.
func (c *conn) tunnel(u *upstream, size int) (v verdict, keep bool) {
	c.back.stop()
	defer closeQuietly(u.tcp)
	none := policy.Compression{}
	c.out.buf = c.appendRules(c.appendSession(c.resp.appendTo(c.out.buf[:0], c.rules, none), u.backend), none)
	c.out.buf = append(c.out.buf, "Connection: Upgrade\r\n\r\n"...)
	u.in.discard(size)
	c.answered(c.resp.status)
	c.backendAnswered(u.backend)
	if c.tcp.SetReadDeadline(time.Time{}) != nil || u.tcp.SetReadDeadline(time.Time{}) != nil {
		return verdictDone, false
	}
	bounds := tunnelBounds{idle: c.rule().Timeouts.Idle}
	if total := c.within(0); total > 0 {
		timer := time.AfterFunc(total, c.cut)
		defer timer.Stop()
	}
	bounds.moved()
	up := make(chan struct{})
	go func() {
		defer close(up)
		bounds.stream(u.tcp, c.tcp, c.in.buffered())
	}()
	if err := c.out.flush(); err == nil {
		bounds.stream(c.tcp, u.tcp, u.in.buffered())
	} else {
		closeQuietly(u.tcp)
	}
	<-up
	return verdictDone, false
}

// tunnelBounds is how long a tunnel may carry nothing.
type tunnelBounds struct {
	idle time.Duration // 0 is for ever
	last atomic.Int64  // when it carried something
	half atomic.Bool   // one direction has ended
}

func (t *tunnelBounds) moved() { t.last.Store(time.Now().UnixNano()) }

// stream copies one direction to its end and passes the end on. When that was not a clean one, or the other
// side cannot be told, the other direction ends too.
func (t *tunnelBounds) stream(to, from net.Conn, received []byte) {
	_, err := to.Write(received)
	switch {
	case err != nil:
	case t.idle == 0:
		_, err = io.Copy(to, from)
	default:
		err = t.copy(to, from)
	}
	half, ok := to.(interface{ CloseWrite() error })
	if err == nil && ok && half.CloseWrite() == nil {
		t.half.Store(true)
		_ = to.SetReadDeadline(time.Now().Add(t.patience())) // a closed connection needs none
		return
	}
	closeQuietly(to)
	closeQuietly(from)
}

// copy copies until nothing was carried either way for too long.
func (t *tunnelBounds) copy(to, from net.Conn) error {
	piece := make([]byte, minBuffer)
	for {
		last := t.last.Load()
		if err := from.SetReadDeadline(time.Unix(0, last).Add(t.patience())); err != nil {
			return err
		}
		n, err := from.Read(piece)
		if n > 0 {
			t.moved()
			if err := to.SetWriteDeadline(time.Now().Add(t.idle)); err != nil {
				return err
			}
			if _, err := to.Write(piece[:n]); err != nil {
				return err
			}
			t.moved()
			continue
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded) && t.last.Load() != last: // the other direction carried something
		default:
			return err
		}
	}
}

// patience is how long the tunnel may carry nothing now.
func (t *tunnelBounds) patience() time.Duration {
	switch {
	case t.idle == 0:
		return halfClosed
	case t.half.Load():
		return min(t.idle, halfClosed)
	}
	return t.idle
}

// halfClosed is how long a tunnel's other direction may go on after the first has ended.
const halfClosed = 60 * time.Second
