package http1

import (
	"io"
	"net"
	"time"
)

// endConn is a connection made of a reader or a writer.
type endConn struct{ end any }

func (d endConn) Read(p []byte) (int, error) {
	if r, ok := d.end.(io.Reader); ok {
		return r.Read(p)
	}
	return 0, io.EOF
}

func (d endConn) Write(p []byte) (int, error) {
	if w, ok := d.end.(io.Writer); ok {
		return w.Write(p)
	}
	return len(p), nil
}

func (endConn) Close() error                     { return nil }
func (endConn) LocalAddr() net.Addr              { return nil }
func (endConn) RemoteAddr() net.Addr             { return nil }
func (endConn) SetDeadline(time.Time) error      { return nil }
func (endConn) SetReadDeadline(time.Time) error  { return nil }
func (endConn) SetWriteDeadline(time.Time) error { return nil }
