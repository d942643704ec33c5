package l4

import (
	"net"
	"sync/atomic"
)

// join carries bytes between the client and the backend until both have ended, and closes both.
func join(c *conn, backend *net.TCPConn, traffic *Traffic) {
	up := make(chan struct{})
	go func() {
		defer close(up)
		pass(backend, c.client, counter(c, &c.port.traffic.received, &traffic.received))
		c.half()
	}()
	pass(c.client, backend, counter(c, &c.port.traffic.sent, &traffic.sent))
	c.half()
	<-up
	_ = c.client.Close() // both have ended or failed: nothing is left to tell
	_ = backend.Close()
}

func counter(c *conn, port, backend *atomic.Uint64) func(int) {
	return func(n int) {
		c.moved.Add(1)
		port.Add(uint64(n))
		backend.Add(uint64(n))
	}
}

// pass carries one direction and passes its end on: an end of sending as that, everything else as a reset of both.
func pass(to, from *net.TCPConn, count func(int)) {
	err := move(to, from, count)
	if err == nil {
		err = to.CloseWrite()
	}
	if err != nil {
		reset(to)
		reset(from)
	}
}
