package http1

import (
	"context"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"vortex/internal/edge/pool"
)

// lanes are a server's: as many as there are processors, or none where the kernel has no io_uring for this process.
type lanes struct {
	mu      sync.Mutex
	started bool
	list    []*lane
}

// start returns the lanes, which it starts at first.
func (ls *lanes) start(s *Server) []*lane {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.started {
		return ls.list
	}
	ls.started = true
	count := s.Lanes
	if count == 0 {
		count = runtime.GOMAXPROCS(0)
	}
	for range count {
		l, err := startLane(s)
		if err != nil {
			s.Log.Info("The edge serves without io_uring", "reason", err)
			ls.endAll()
			return nil
		}
		ls.list = append(ls.list, l)
	}
	return ls.list
}

// serve lets the lanes accept from ln until ctx ends, and reports whether there are any.
func (ls *lanes) serve(ctx context.Context, s *Server, ln net.Listener, of *Listener) bool {
	tcp, ok := ln.(*net.TCPListener)
	if !ok {
		return false
	}
	list := ls.start(s)
	var stopped sync.WaitGroup
	served := false
	for _, l := range list {
		fd, err := duplicate(tcp)
		if err != nil {
			s.Log.WarnContext(ctx, "A loop of the edge cannot accept", "err", err)
			continue
		}
		stopped.Add(1)
		if !l.post(func() { l.accept(fd, of, stopped.Done) }) {
			stopped.Done()
			_ = unix.Close(fd)
			continue
		}
		served = true
	}
	if !served {
		return false
	}
	<-ctx.Done()
	of.closed.Store(true)
	for _, l := range list {
		l.post(func() { l.retire(of) })
	}
	stopped.Wait()
	closeListener(ln)
	return true
}

// duplicate returns a descriptor of a listener or connection that blocks, as io_uring needs it: of another it takes every "not yet" for an answer.
func duplicate(of any) (fd int, err error) {
	socket, ok := of.(syscall.Conn)
	if !ok {
		return -1, syscall.ENOTSOCK
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return -1, err
	}
	failed := raw.Control(func(original uintptr) {
		if fd, err = unix.FcntlInt(original, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			err = unix.SetNonblock(fd, false)
		}
	})
	if failed != nil {
		return -1, failed
	}
	return fd, err
}

// retire ends the connections of a listener as soon as no request is on them.
func (ls *lanes) retire(of *Listener) {
	for _, l := range ls.all() {
		l.post(func() { l.retire(of) })
	}
}

// sever ends what is under way with the backends on a node.
func (ls *lanes) sever(node string) {
	for _, l := range ls.all() {
		l.post(func() { l.sever(node) })
	}
}

func (ls *lanes) all() []*lane {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return ls.list
}

// drain waits until no client is left in any lane. What is left when ctx ends is cut, which it reports.
func (ls *lanes) drain(ctx context.Context) (cut bool) {
	list := ls.all()
	var left sync.WaitGroup
	for _, l := range list {
		left.Add(1)
		if !l.post(func() { l.drain(left.Done) }) {
			left.Done()
		}
	}
	done := make(chan struct{})
	go func() {
		left.Wait()
		close(done)
	}()
	if closedIn(ctx, done) {
		return false
	}
	for _, l := range list {
		l.post(l.cut)
	}
	<-done
	return true
}

// idle returns how many idle connections the lanes have with each backend.
func (ls *lanes) idle() map[*pool.Backend]int {
	all := map[*pool.Backend]int{}
	for _, l := range ls.all() {
		told := make(chan struct{})
		if !l.post(func() {
			defer close(told)
			for b, list := range l.idle {
				all[b] += len(list)
			}
		}) {
			continue
		}
		select {
		case <-told:
		case <-l.over:
		}
	}
	return all
}

// end ends the lanes.
func (ls *lanes) end() {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.endAll()
}

func (ls *lanes) endAll() {
	for _, l := range ls.list {
		l.post(l.end)
	}
	ls.list = nil
}

// adopt serves a connection of a lane in the general way. prepare sets what is known of it. One that cannot be made a connection, for there are no
// descriptors left, is served as one that has ended: what is counted of it has to be counted off.
func (s *Server) adopt(fd int, of *Listener, prepare func(*conn)) {
	tcp := s.leaveLane(fd)
	if tcp == nil {
		tcp, _ = net.Pipe()
		closeQuietly(tcp)
	}
	c := newConn(s, tcp, of)
	prepare(c)
	s.run(c)
}

// startAway lets a new connection begin in the general way: to be refused, or because it does not begin with a request.
func (l *lane) startAway(fd int, of *Listener) {
	if tcp := l.srv.leaveLane(fd); tcp != nil {
		c := newConn(l.srv, tcp, of)
		c.home = l
		l.srv.start(c)
	}
}

// leaveLane makes a connection of a descriptor, which it takes over. It is nil when that fails.
func (s *Server) leaveLane(fd int) net.Conn {
	file := os.NewFile(uintptr(fd), "")
	tcp, err := net.FileConn(file)
	_ = file.Close() // tcp has a copy
	if err != nil {
		s.Log.Warn("Connection lost on its way from a loop", "err", err)
		return nil
	}
	return tcp
}

// goHome gives a connection without a request back to the lane that it came from, and reports whether it did.
func (c *conn) goHome() bool {
	if c.home == nil {
		return false
	}
	fd, err := duplicate(c.tcp)
	if err != nil {
		return false
	}
	back := &client{listener: c.listener, peer: c.peer, phase: c.phase, counted: c.counted, served: c.served}
	if !c.home.post(func() { c.home.takeBack(fd, back) }) {
		_ = unix.Close(fd)
		return false
	}
	c.counted = false // it is there
	return true
}
