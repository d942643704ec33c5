package node

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"vortex"
)

// listen opens a TCP listener; the error names the flag to change.
func listen(ctx context.Context, what, flag, addr string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, vortex.Errorf(vortex.Unavailable, "%s cannot listen on %s; is it taken? choose another with %s: %w", what, addr, flag, err)
	}
	return l, nil
}

// bounded bounds the connections of a listener.
func (n *Node) bounded(l net.Listener) net.Listener {
	return &boundedListener{Listener: l, most: int64(n.cfg.MaxConnections), log: n.component("listener")}
}

// boundedListener closes connections beyond a number at once, so that those who hold many do not take the process's
// last file descriptors.
type boundedListener struct {
	net.Listener

	most int64
	open atomic.Int64
	log  *slog.Logger
	told time.Time // when the log last told of a refusal; Accept's own
}

// tellEvery is how often the log tells that connections are refused.
const tellEvery = time.Minute

// Accept implements net.Listener.
func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.open.Add(1) <= l.most || l.most == 0 {
			return &countedConn{Conn: conn, closed: func() { l.open.Add(-1) }}, nil
		}
		l.open.Add(-1)
		_ = conn.Close()
		if time.Since(l.told) > tellEvery {
			l.told = time.Now()
			l.log.Warn("Connections refused: too many are open", "most", l.most, "from", conn.RemoteAddr().String())
		}
	}
}

// countedConn tells once when it is closed.
type countedConn struct {
	net.Conn

	once   sync.Once
	closed func()
}

// Close implements net.Conn.
func (c *countedConn) Close() error {
	c.once.Do(c.closed)
	return c.Conn.Close()
}
