package l4

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"vortex/internal/edge/limit"
	"vortex/internal/edge/pool"
)

// udpListener is one socket of a port, with the sessions of the clients whose datagrams come there.
type udpListener struct {
	port     *port
	loop     *udpLoop
	fd       int
	apart    bool // the kernel does not know how to cut datagrams apart
	sessions map[clientKey]*udpSession
	// The sessions in the order of their last datagram.
	oldest, newest *udpSession
}

// clientKey is a client's address and port.
type clientKey struct {
	addr [16]byte
	port uint16
	zone uint32
}

// udpSession sends the datagrams of one client to one backend through a socket of its own, on which the answers come back.
type udpSession struct {
	listener     *udpListener
	target       target
	backend      *pool.Backend
	traffic      *Traffic
	fd           int
	key          clientKey
	name         sockaddr
	control      control // says which of our addresses to answer from
	last         int64
	older, newer *udpSession
	apart        bool // the kernel does not cut its datagrams apart

	queue []int // slots of the batch at hand that are this session's
}

// Silences after which a session makes room: for another client when there are too many, and for its backend to drain.
const (
	evictAfter = time.Second
	drainAfter = 3 * time.Second
)

// receive sends on what clients sent.
func (u *udpListener) receive() {
	in := &u.loop.in
	if n := in.gather(u.fd); n > 0 {
		u.dispatch(in, n)
	}
}

// dispatch sends on a batch, each session's datagrams together.
func (u *udpListener) dispatch(in *batch, n int) {
	l := u.loop
	now := l.now
	l.touched = l.touched[:0]
	bytes := 0
	for i := range n {
		bytes += len(in.bytes(i))
		s := u.session(in, i, now)
		if s == nil {
			continue
		}
		if len(s.queue) == 0 {
			l.touched = append(l.touched, s)
		}
		s.queue = append(s.queue, i)
	}
	u.port.traffic.received.Add(uint64(bytes))
	for _, s := range l.touched {
		s.send(in, now)
	}
}

// session finds or begins the session of a datagram's client; nil when there cannot be one.
func (u *udpListener) session(in *batch, i int, now int64) *udpSession {
	key := in.names[i].key()
	if s := u.sessions[key]; s != nil {
		s.touch(now)
		return s
	}
	s, err := u.begin(in, i, key, now)
	if err != nil {
		u.port.traffic.failed.Add(1)
		return nil
	}
	return s
}

var (
	errFull   = errors.New("as many sessions as allowed")
	errClosed = errors.New("the port is closed")
)

func (u *udpListener) begin(in *batch, i int, key clientKey, now int64) (*udpSession, error) {
	server := u.port.server
	routes := u.port.routes.Load()
	if routes == nil || len(routes.rest) == 0 {
		return nil, errClosed
	}
	client := netip.AddrFrom16(key.addr).Unmap()
	if server.Limiter != nil {
		if !server.Limiter.Allow(limit.Address(client), time.Now().UnixNano()).OK {
			return nil, errLimited
		}
	}
	t := routes.rest[0]
	if u.port.traffic.active.Load() >= int64(t.service.MaxSessions) && !u.evict(now) {
		return nil, errFull
	}
	s := &udpSession{listener: u, target: t, key: key, name: in.names[i], last: now, apart: u.apart}
	s.control.take(in.control(i))
	if err := t.admit(now); err != nil {
		return nil, err
	}
	if err := s.connect(hashAddr(client), now); err != nil {
		t.finish()
		return nil, err
	}
	u.sessions[key] = s
	u.link(s)
	u.loop.sessions++
	u.port.traffic.begin()
	return s, nil
}

// evict ends the session that was silent for longest, if it was for a while.
func (u *udpListener) evict(now int64) bool {
	if u.oldest == nil || now-u.oldest.last < int64(evictAfter) {
		return false
	}
	u.end(u.oldest)
	return true
}

// connect picks a backend and opens a socket to it.
func (s *udpSession) connect(key uint64, now int64) error {
	server := s.listener.port.server
	var tried pool.Tried
	for {
		b := s.target.pool.Pick(key, now, &tried)
		if b == nil {
			s.target.service.wakeBackend(server, s.target.pool)
			return errNoBackend
		}
		traffic := server.backendTraffic(s.target.service.App, b)
		fd, err := dialUDP(b.Addr)
		if err == nil {
			if err = s.listener.loop.register(fd, udpFile{session: s}); err == nil {
				s.fd, s.backend, s.traffic = fd, b, traffic
				b.Served(now, statusConnected)
				traffic.begin()
				return nil
			}
			err = errors.Join(err, unix.Close(fd))
		}
		traffic.failed.Add(1)
		b.Done()
		if !tried.Add(b) {
			return err
		}
	}
}

// dialUDP opens a socket that sends to an address and receives from it alone.
func dialUDP(addr netip.AddrPort) (int, error) {
	family, to := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: addr.Addr().As16(), Port: int(addr.Port())})
	if ip := addr.Addr().Unmap(); ip.Is4() {
		family, to = unix.AF_INET, &unix.SockaddrInet4{Addr: ip.As4(), Port: int(addr.Port())}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	if err := unix.Connect(fd, to); err != nil {
		return 0, errors.Join(err, unix.Close(fd))
	}
	receiveTogether(fd)
	return fd, nil
}

// send sends the queued datagrams to the backend. When the backend turns out to be gone, the session ends and another one, to another
// backend, takes what was not sent.
func (s *udpSession) send(in *batch, now int64) {
	u, out := s.listener, &s.listener.loop.out
	for _, i := range s.queue {
		s.put(in, i)
	}
	queue := s.queue
	s.queue = queue[:0]
	for first := 0; first < out.used; first++ { // each is lost that cannot be sent, as datagrams may be
		bytes, stopped, err := out.send(s.fd, first)
		s.traffic.received.Add(uint64(bytes))
		if first = stopped; err == nil {
			break
		}
		u.port.traffic.failed.Add(1)
		if s.fail(err, now) {
			from, _ := slices.BinarySearch(queue, out.parcels[stopped].slot)
			out.reset()
			u.sendElsewhere(in, queue[from:], now)
			return
		}
	}
	out.reset()
}

// put gathers what a slot holds, for the backend.
func (s *udpSession) put(in *batch, slot int) {
	s.listener.loop.out.put(s, slot, in.bytes(slot), segment(in.control(slot)), nil, nil)
}

// sendElsewhere sends what a session left behind through others.
func (u *udpListener) sendElsewhere(in *batch, queue []int, now int64) {
	for _, i := range queue {
		if s := u.session(in, i, now); s != nil {
			s.put(in, i)
			bytes, _, _ := u.loop.out.send(s.fd, 0) // a datagram may be lost
			s.traffic.received.Add(uint64(bytes))
			u.loop.out.reset()
		}
	}
}

// fail takes in an error of the session's socket and reports whether that ended the session.
func (s *udpSession) fail(err error, now int64) bool {
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EMSGSIZE), errors.Is(err, unix.EINTR):
		return false // the datagram is lost, as datagrams may be
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH):
		s.traffic.failed.Add(1)
		s.backend.Failed(now)
		s.backend.MarkDead(now + int64(s.listener.port.server.SkipDead))
	}
	s.listener.end(s)
	return true
}

// receive takes the backend's answers into the batch that goes to clients.
func (s *udpSession) receive() {
	l := s.listener.loop
	if l.backTo != s.listener || l.back.used > batchSize-answers {
		l.flushBack()
		l.backTo = s.listener
	}
	first := l.back.used
	n := l.back.receive(s.fd, first, answers, false)
	if n < 0 {
		s.fail(unix.Errno(-n), l.now)
		return
	}
	bytes := 0
	for i := first; i < first+n; i++ {
		data := l.back.bytes(i)
		l.answers.put(s, i, data, segment(l.back.control(i)), &s.name, &s.control)
		bytes += len(data)
	}
	l.back.used += n
	s.traffic.sent.Add(uint64(bytes))
	s.touch(l.now)
}

// answers is how many of one session's answers are taken at once.
const answers = 16

// flushBack sends the answers at hand to their clients. One that cannot be sent is lost.
func (l *udpLoop) flushBack() {
	for first := 0; first < l.answers.used; first++ {
		bytes, stopped, _ := l.answers.send(l.backTo.fd, first)
		l.backTo.port.traffic.sent.Add(uint64(bytes))
		first = stopped
	}
	l.answers.reset()
	l.back.used, l.backTo = 0, nil
}

// touch makes the session the newest.
func (s *udpSession) touch(now int64) {
	s.last = now
	if u := s.listener; u.newest != s {
		u.unlink(s)
		u.link(s)
	}
}

func (u *udpListener) link(s *udpSession) {
	s.older, s.newer = u.newest, nil
	if u.newest != nil {
		u.newest.newer = s
	} else {
		u.oldest = s
	}
	u.newest = s
}

func (u *udpListener) unlink(s *udpSession) {
	if s.older != nil {
		s.older.newer = s.newer
	} else {
		u.oldest = s.newer
	}
	if s.newer != nil {
		s.newer.older = s.older
	} else {
		u.newest = s.older
	}
}

// end ends a session.
func (u *udpListener) end(s *udpSession) {
	u.unlink(s)
	delete(u.sessions, s.key)
	u.loop.sessions--
	u.loop.unregister(s.fd)
	u.port.traffic.end()
	s.traffic.end()
	s.target.finish()
	s.backend.Done()
}

// sweep ends the sessions that were silent for too long, sooner those whose backend is to drain.
func (u *udpListener) sweep(now int64) {
	for s := u.oldest; s != nil; {
		next := s.newer
		silent := time.Duration(now - s.last)
		if silent > s.target.service.IdleTimeout || s.backend.Removed() && silent > drainAfter {
			u.end(s)
		}
		s = next
	}
}
