package http1

import (
	"io"
	"net"
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
	up := make(chan struct{})
	go func() {
		defer close(up)
		stream(u.tcp, c.tcp, c.in.buffered())
	}()
	if err := c.out.flush(); err == nil {
		stream(c.tcp, u.tcp, u.in.buffered())
	} else {
		closeQuietly(u.tcp)
	}
	<-up
	return verdictDone, false
}

// stream copies one direction to its end and passes the end on. When that was not a clean one, or the other
// side cannot be told, the other direction ends too.
func stream(to, from net.Conn, received []byte) {
	_, err := to.Write(received)
	if err == nil {
		_, err = io.Copy(to, from)
	}
	half, ok := to.(interface{ CloseWrite() error })
	if err == nil && ok && half.CloseWrite() == nil {
		_ = to.SetReadDeadline(time.Now().Add(halfClosed)) // a closed connection needs none
		return
	}
	closeQuietly(to)
	closeQuietly(from)
}

// halfClosed is how long a tunnel's other direction may go on after the first has ended.
const halfClosed = 60 * time.Second
