package http1

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vortex/internal/edge/limit"
	"vortex/internal/edge/policy"
	"vortex/internal/edge/pool"
	"vortex/internal/edge/uring"
)

// A lane is the fast way through the edge: one thread with an io_uring that owns its client connections and its share of the
// connections to backends, and takes each request from its first byte to its last without waiting and without another goroutine. It serves
// what most requests are: a head, perhaps a small body, and an answer of any size. All else it hands over, as it came, to the
// general way, which gives the connection back when it is idle again.
//
// Nothing here locks but posted, through which others reach a lane.
type lane struct {
	srv  *Server
	ring *uring.Ring

	now      int64 // of the engine's clock, when this round began
	round    uint64
	nextLook int64 // when deadlines are looked at; 0 for never

	sockets []*socket // by id; nil is free
	free    []uint32
	spare   [][]byte // send buffers

	exchanges []*policy.Exchange // not in use
	extras    []*extra           // likewise

	idle    map[*pool.Backend][]*backendConn // used last at the end
	clients int                              // connections of clients
	drained func()                           // called once when no client is left after drain; nil before

	// What a request and its answer are read with. Nothing of it outlives the call that fills it.
	head    []byte
	req     request
	from    netip.Addr // who asks: the nearest address that is not a trusted proxy's
	trusted bool       // a trusted proxy has brought the request
	resp    response
	in      reader

	wake     int // eventfd
	wakeword [8]byte
	over     chan struct{} // closed when nothing that is posted is called any more

	mu     sync.Mutex
	posted []func()
	ended  bool
}

// Sizes of a lane's ring.
const (
	laneOperations = 1024
	laneBuffers    = 256
	laneBufferSize = 8 << 10
)

// operations are what a completion belongs to; the rest of its user value is the socket's id.
const (
	opReceive = iota
	opSend
	opConnect
	opAccept
	opWake
	opNothing
	opBits = 8
)

// socket is a descriptor that a lane owns. What is under way on it keeps its id taken.
type socket struct {
	lane     *lane
	owner    owner
	fd       int
	id       uint32
	underway uint8
	reading  bool // a receive is under way
	closed   bool
	soon     bool  // the deadline is kept exactly
	deadline int64 // of the engine's clock; 0 is none
}

// owner is what a socket's events are for.
type owner interface {
	// received gives what was received, which is valid until it returns; nothing, without an error, is the other side's end.
	received(data []byte, err error)
	sent(err error)
	connected(err error)
	// expired tells that the deadline has passed.
	expired()
	// released tells that the socket is closed and nothing is under way any more.
	released()
}

// lookEvery is how exactly deadlines are kept, and lookSoon those that a route's rules give.
const (
	lookEvery = int64(100 * time.Millisecond)
	lookSoon  = int64(5 * time.Millisecond)
)

// startLane starts a lane, which ends with stop. It fails where the kernel has no io_uring for this process.
func startLane(s *Server) (*lane, error) {
	l := &lane{srv: s, idle: map[*pool.Backend][]*backendConn{}, sockets: make([]*socket, 1), over: make(chan struct{})}
	var err error
	if l.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	started := make(chan error)
	go l.run(started)
	if err := <-started; err != nil {
		return nil, errors.Join(err, unix.Close(l.wake))
	}
	return l, nil
}

// run is the loop. Its ring belongs to its thread.
func (l *lane) run(started chan<- error) {
	runtime.LockOSThread() // for good: the thread ends with it, and the ring's work with the thread
	ring, err := uring.New(uring.Config{Operations: laneOperations, Buffers: laneBuffers, BufferSize: laneBufferSize})
	l.ring = ring
	started <- err
	if err != nil {
		return
	}
	l.ring.Read(l.wake, l.wakeword[:], opWake)
	l.now = l.srv.Now()
	handle := l.complete
	for !l.done() {
		if err := l.ring.Wait(l.patience(), handle); err != nil {
			l.srv.Log.Error("The edge's loop failed", "err", err)
			break
		}
		l.round++
		l.now = l.srv.Now()
		if l.nextLook != 0 && l.now >= l.nextLook {
			l.look()
		}
	}
	_ = l.ring.Close()
	_ = unix.Close(l.wake)
	close(l.over)
}

// patience is how long the next round may wait for something to happen.
func (l *lane) patience() time.Duration {
	if l.nextLook == 0 {
		return -1
	}
	return time.Duration(max(l.nextLook-l.srv.Now(), 0))
}

// done reports whether the lane is to end and nothing is left in it.
func (l *lane) done() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ended && len(l.posted) == 0
}

// post lets the lane call f soon. It reports false when the lane has ended.
func (l *lane) post(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return false
	}
	if l.posted = append(l.posted, f); len(l.posted) == 1 {
		one := [8]byte{1}
		_, _ = unix.Write(l.wake, one[:]) // it cannot fill up
	}
	return true
}

// complete handles one completion.
func (l *lane) complete(c uring.Completion) {
	op, id := c.User&(1<<opBits-1), c.User>>opBits
	switch op {
	case opWake:
		l.woken()
		return
	case opNothing:
		return
	}
	s := l.sockets[id]
	if s == nil { // cannot be
		l.ring.Recycle(c)
		return
	}
	if a, ok := s.owner.(*acceptor); ok && op == opAccept {
		a.accepted(c)
		return
	}
	s.underway--
	if op == opReceive {
		s.reading = false
	}
	switch {
	case s.closed:
		if s.underway == 0 {
			s.release()
		}
	case op == opSend:
		s.owner.sent(c.Err())
	case op == opConnect:
		s.owner.connected(c.Err())
	case c.Err() == unix.ENOBUFS: //nolint:errorlint // a number
		s.receive(false) // the buffers were all in use; some are free by the next round
	default:
		s.owner.received(l.ring.Received(c), c.Err())
	}
	l.ring.Recycle(c)
}

// woken calls what was posted.
func (l *lane) woken() {
	l.mu.Lock()
	posted := l.posted
	l.posted = nil
	l.mu.Unlock()
	for _, f := range posted {
		f()
	}
	l.ring.Read(l.wake, l.wakeword[:], opWake)
}

// open makes a descriptor the lane's.
func (l *lane) open(s *socket, fd int, o owner) {
	s.lane, s.fd, s.owner = l, fd, o
	if n := len(l.free); n > 0 {
		s.id = l.free[n-1]
		l.free = l.free[:n-1]
		l.sockets[s.id] = s
		return
	}
	s.id = uint32(len(l.sockets)) //nolint:gosec // no process has so many descriptors
	l.sockets = append(l.sockets, s)
}

func (s *socket) user(op uint64) uint64 { return uint64(s.id)<<opBits | op }

// receive asks for what comes next. later says that nothing is expected at once.
func (s *socket) receive(later bool) {
	if s.reading || s.closed {
		return
	}
	s.reading = true
	s.underway++
	s.lane.ring.Receive(s.fd, later, s.user(opReceive))
}

// send sends b, which must stay as it is until sent is called.
func (s *socket) send(b []byte) {
	s.underway++
	s.lane.ring.Send(s.fd, b, s.user(opSend))
}

// expire sets when expired is called, in so long from now; 0 is never.
func (s *socket) expire(in time.Duration) {
	if in == 0 {
		s.deadline = 0
		return
	}
	s.deadline, s.soon = s.lane.now+int64(in), false
	s.lane.lookBy(s.deadline)
}

// expireSoon is expire for a time that is to be kept exactly.
func (s *socket) expireSoon(in time.Duration) {
	if s.expire(in); in != 0 {
		s.soon = true
		s.lane.lookAt(s.deadline + int64(time.Millisecond))
	}
}

// lookBy makes the lane look at its deadlines at a time, or before.
func (l *lane) lookBy(at int64) { l.lookAt(max(at, l.now+lookEvery)) }

// lookAt is lookBy for a deadline that is to be kept exactly.
func (l *lane) lookAt(at int64) {
	if l.nextLook == 0 || at < l.nextLook {
		l.nextLook = max(at, l.now+lookSoon)
	}
}

// close ends the connection. released is called as soon as nothing is under way on it.
func (s *socket) close() {
	if s.closed {
		return
	}
	s.closed = true
	s.deadline = 0
	if s.underway == 0 {
		s.release()
		return
	}
	_ = unix.Shutdown(s.fd, unix.SHUT_RDWR) // completes what is under way; one that is not connected yet is canceled
	s.lane.ring.Cancel(s.user(opConnect), opNothing)
}

func (s *socket) release() {
	if s.fd >= 0 {
		s.lane.ring.CloseFile(s.fd, opNothing)
	}
	s.forget()
	s.owner.released()
}

// forget takes the socket out of the lane.
func (s *socket) forget() {
	s.closed = true
	s.lane.sockets[s.id] = nil
	s.lane.free = append(s.lane.free, s.id)
}

// look tells the owners of sockets whose deadline has passed, and finds the next one. Idle connections are many and their
// deadlines far, so that looking through all of them now and then costs less than keeping them in order.
func (l *lane) look() {
	l.nextLook = 0
	first, soon := int64(0), int64(0)
	for _, s := range l.sockets {
		switch {
		case s == nil || s.deadline == 0:
		case s.deadline <= l.now:
			s.deadline = 0
			s.owner.expired()
		case s.soon && (soon == 0 || s.deadline < soon):
			soon = s.deadline
		case !s.soon && (first == 0 || s.deadline < first):
			first = s.deadline
		}
	}
	if first != 0 {
		l.lookBy(first)
	}
	if soon != 0 {
		l.lookAt(soon)
	}
	l.dropRemoved()
}

// buffer returns an empty buffer to send from.
func (l *lane) buffer() []byte {
	if n := len(l.spare); n > 0 {
		b := l.spare[n-1]
		l.spare = l.spare[:n-1]
		return b[:0]
	}
	return make([]byte, 0, minBuffer)
}

// Bounds of the buffers that are kept.
const (
	maxSpare       = 256
	maxSpareBuffer = 32 << 10
)

func (l *lane) giveBack(b []byte) {
	if cap(b) >= minBuffer && cap(b) <= maxSpareBuffer && len(l.spare) < maxSpare {
		l.spare = append(l.spare, b)
	}
}

// acceptor is a listener's descriptor. All lanes accept from the same queue; the kernel wakes one of them for each connection.
type acceptor struct {
	socket

	listener *Listener
	stopped  func() // called once the descriptor is closed
}

// accept begins to take connections from a listener's descriptor, of which the lane gets a copy of its own, until stopAccepting.
func (l *lane) accept(fd int, of *Listener, stopped func()) {
	a := &acceptor{listener: of, stopped: stopped}
	l.open(&a.socket, fd, a)
	a.again()
}

func (a *acceptor) again() {
	a.underway++
	a.lane.ring.Accept(a.fd, a.user(opAccept))
}

func (a *acceptor) accepted(c uring.Completion) {
	if c.Res >= 0 {
		a.lane.admit(int(c.Res), a.listener)
	}
	if c.More() {
		return
	}
	a.underway--
	switch {
	case a.closed:
		a.shut()
	case c.Res < 0: // out of descriptors, most likely: what is served now frees some
		a.lane.srv.Log.Warn("Connection not accepted", "err", c.Err())
		a.expire(acceptPause)
	default:
		a.again()
	}
}

const acceptPause = 100 * time.Millisecond

func (a *acceptor) expired()               { a.again() }
func (a *acceptor) received([]byte, error) {}
func (a *acceptor) sent(error)             {}
func (a *acceptor) connected(error)        {}
func (a *acceptor) released()              {}

// stop ends accepting.
func (a *acceptor) stop() {
	if a.closed {
		return
	}
	a.closed = true
	a.deadline = 0
	if a.underway == 0 {
		a.shut()
		return
	}
	a.lane.ring.Cancel(a.user(opAccept), opNothing)
}

// shut closes the descriptor at once, so that whoever waits for it finds the address free.
func (a *acceptor) shut() {
	_ = unix.Close(a.fd)
	a.fd = -1
	a.release()
	a.stopped()
}

// admit takes a new connection in.
func (l *lane) admit(fd int, of *Listener) {
	c := &client{listener: of, peer: peerOf(fd)}
	if of.greets(c.peer) != greetsNot {
		l.startAway(fd, of)
		return
	}
	if !of.trusts(c.peer) {
		if c.counted = l.srv.crowds.Enter(limit.Address(c.peer)); !c.counted {
			l.startAway(fd, of)
			return
		}
	}
	l.open(&c.socket, fd, c)
	l.clients++
	l.srv.Meters.Connect(1)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // not fatal, as all of this
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(l.srv.BodyTimeout.Milliseconds()))
	if l.ending(of) {
		c.close()
		return
	}
	c.rest()
}

// takeBack takes a connection in that was in the general way.
func (l *lane) takeBack(fd int, c *client) {
	l.open(&c.socket, fd, c)
	l.clients++
	l.srv.Meters.Connect(1)
	if l.ending(c.listener) {
		c.close()
		return
	}
	c.rest()
}

// ending reports whether no more requests are to be taken on connections of a listener.
func (l *lane) ending(of *Listener) bool { return l.srv.closing.Load() || of.closed.Load() }

// retire ends the connections of a listener, nil being all, as soon as no request is on them.
func (l *lane) retire(of *Listener) {
	for _, s := range l.sockets {
		if s == nil {
			continue
		}
		switch o := s.owner.(type) {
		case *acceptor:
			if of == nil || o.listener == of {
				o.stop()
			}
		case *client:
			if of == nil || o.listener == of {
				o.retire()
			}
		}
	}
}

// drain retires everything, and calls done once no client is left.
func (l *lane) drain(done func()) {
	l.drained = done
	l.retire(nil)
	l.checkDrained()
}

func (l *lane) checkDrained() {
	if l.drained != nil && l.clients == 0 {
		done := l.drained
		l.drained = nil
		done()
	}
}

// cut ends every client's connection at once.
func (l *lane) cut() {
	for _, s := range l.sockets {
		if s == nil {
			continue
		}
		if c, ok := s.owner.(*client); ok {
			c.abandon()
		}
	}
}

// sever ends the connections that carry requests to backends on a node, as if these had closed them.
func (l *lane) sever(node string) {
	for _, s := range l.sockets {
		if s == nil {
			continue
		}
		if u, ok := s.owner.(*backendConn); ok && u.joined && u.client != nil && u.backend.Node == node {
			_ = unix.Shutdown(u.fd, unix.SHUT_RDWR) // what it waits for ends
		}
	}
}

// end ends the lane, from its own thread.
func (l *lane) end() {
	for _, list := range l.idle {
		for _, u := range list {
			_ = unix.Close(u.fd) // what is under way ends with the ring
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
}

// peerOf returns the other side's address.
func peerOf(fd int) netip.Addr {
	name, err := unix.Getpeername(fd)
	if err != nil {
		return netip.Addr{}
	}
	switch a := name.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(a.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(a.Addr).Unmap()
	}
	return netip.Addr{}
}
