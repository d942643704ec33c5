//go:build !linux

package l4

import (
	"errors"
	"io"
	"net"
	"syscall"
)

// move carries everything from one side to the other. It returns nil when the sender has ended well.
func move(to, from *net.TCPConn, count func(int)) error {
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			count(n)
			if _, err := to.Write(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// keepAlive lets connections keep the system's own way of finding dead ones.
func keepAlive(string, string, syscall.RawConn) error { return nil }
