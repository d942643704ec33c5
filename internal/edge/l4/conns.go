package l4

import (
	"net"
	"sync"
	"time"
)

// connSet is the connections that are served. The zero value is empty.
type connSet struct {
	mu      sync.Mutex
	conns   map[*conn]struct{}
	serving sync.WaitGroup
}

// add reports false when there are most already; 0 is no limit.
func (s *connSet) add(c *conn, most int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if most > 0 && len(s.conns) >= most {
		return false
	}
	if s.conns == nil {
		s.conns = map[*conn]struct{}{}
	}
	s.conns[c] = struct{}{}
	s.serving.Add(1)
	return true
}

func (s *connSet) remove(c *conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	s.serving.Done()
}

func (s *connSet) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// wait returns when every connection has ended.
func (s *connSet) wait() { s.serving.Wait() }

// cutIdle cuts the connections that carried nothing for longer than they may, or than limit when that is not 0.
func (s *connSet) cutIdle(now int64, limit time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if c.idleTooLong(now, limit) {
			c.cut()
		}
	}
}

func (s *connSet) cutAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.cut()
	}
}

// reset closes a connection so that the other side sees it as failed, rather than as ended well.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0) // on a connection that is closed already both fail, and nothing is left to do
	_ = c.Close()
}
