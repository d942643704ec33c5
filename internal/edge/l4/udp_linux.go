package l4

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// udpEngine serves UDP ports on a few loops, each of which waits for all its sockets at once. A port has a socket on each loop, among
// which the kernel spreads the clients.
type udpEngine struct {
	clock func() int64
	mu    sync.Mutex
	loops []*udpLoop // started with the first port
	ports int
	ended sync.WaitGroup
}

func newUDPEngine(clock func() int64) *udpEngine { return &udpEngine{clock: clock} }

const (
	maxLoops = 16
	// shardedPorts is up to how many ports are served by every loop; more of them are served by one loop each.
	shardedPorts = 32
)

// listen opens a port and serves it until shut is called, which ends its sessions.
func (e *udpEngine) listen(ctx context.Context, p *port) (shut func(), err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.start(); err != nil {
		return nil, err
	}
	if err := probe(ctx, p.address()); err != nil {
		return nil, err
	}
	loops := e.loops
	if e.ports >= shardedPorts {
		loops = loops[int(p.Number)%len(loops):][:1]
	}
	var opened []*udpListener
	for _, loop := range loops {
		l, err := openUDP(ctx, p, loop)
		if err != nil {
			for _, l := range opened {
				_ = unix.Close(l.fd) // nothing was served on it
			}
			return nil, err
		}
		opened = append(opened, l)
	}
	for _, l := range opened {
		l.loop.do(func() { l.loop.add(l) })
	}
	e.ports++
	return func() {
		for _, l := range opened {
			l.loop.do(func() { l.loop.drop(l) })
		}
		e.mu.Lock()
		e.ports--
		e.mu.Unlock()
	}, nil
}

func (e *udpEngine) start() error {
	if len(e.loops) > 0 {
		return nil
	}
	for range min(runtime.GOMAXPROCS(0), maxLoops) {
		loop, err := newUDPLoop(e.clock)
		if err != nil {
			return err
		}
		e.loops = append(e.loops, loop)
		e.ended.Go(loop.run)
	}
	return nil
}

// close ends every loop. No port must be open.
func (e *udpEngine) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, loop := range e.loops {
		loop.do(func() { loop.ended = true })
	}
	e.ended.Wait()
	e.loops = nil
}

// probe reports whether somebody listens already: sockets that share a port, as those of the loops do, would not notice.
func probe(ctx context.Context, address string) error {
	pc, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", address)
	if err != nil {
		return err
	}
	return pc.Close()
}

// receiveBuffer is what the kernel is asked to keep of datagrams for a port while a loop is busy.
const receiveBuffer = 4 << 20

// openUDP opens one socket of a port.
func openUDP(ctx context.Context, p *port, loop *udpLoop) (*udpListener, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		return errors.Join(raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer) // as much as is allowed
			}
		}), err)
	}}
	pc, err := config.ListenPacket(ctx, "udp", p.address())
	if err != nil {
		return nil, err
	}
	defer pc.Close()
	conn, ok := pc.(*net.UDPConn)
	if !ok {
		return nil, fmt.Errorf("a socket of type %T", pc)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	l := &udpListener{port: p, loop: loop, sessions: map[clientKey]*udpSession{}}
	local, _ := conn.LocalAddr().(*net.UDPAddr)
	controlErr := raw.Control(func(fd uintptr) {
		if l.fd, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); err == nil && local.IP.IsUnspecified() {
			err = l.askForDestination()
		}
	})
	if err := errors.Join(controlErr, err); err != nil {
		return nil, err
	}
	receiveTogether(l.fd)
	if _, err := unix.GetsockoptInt(l.fd, unix.SOL_UDP, unix.UDP_SEGMENT); err != nil {
		l.apart = true // it would take what it does not know for one datagram
	}
	return l, nil
}

// receiveTogether lets the kernel hand over datagrams of one sender that came together as one, where it knows how to.
func receiveTogether(fd int) { _ = unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1) }

// askForDestination makes the kernel tell which of our addresses a datagram was sent to: answers come from there.
func (l *udpListener) askForDestination() error {
	family, err := unix.GetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return err
	}
	if family == unix.AF_INET6 {
		return unix.SetsockoptInt(l.fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	}
	return unix.SetsockoptInt(l.fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
}

// udpLoop waits for datagrams on many sockets and sends them on. Everything in it but orders is of its goroutine.
type udpLoop struct {
	clock       func() int64
	epoll, bell int // bell is an eventfd that tells of orders

	mu     sync.Mutex
	orders []func()
	closed bool // no order is run any more

	ended     bool
	now       int64     // when the sockets at hand were found ready
	files     []udpFile // by descriptor
	listeners map[*udpListener]struct{}
	sessions  int
	swept     int64
	in        batch  // from clients
	out       outbox // to one backend
	back      batch  // from backends
	answers   outbox // … to clients
	backTo    *udpListener
	touched   []*udpSession
}

// udpFile is whose descriptor it is.
type udpFile struct {
	listener *udpListener
	session  *udpSession
}

func newUDPLoop(clock func() int64) (*udpLoop, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, errors.Join(err, unix.Close(epoll))
	}
	l := &udpLoop{clock: clock, epoll: epoll, bell: bell, listeners: map[*udpListener]struct{}{}}
	l.out.init(gatherSlots)
	l.answers.init(batchSize)
	if err := errors.Join(l.in.init(gatherSlots), l.back.init(batchSize), l.watch(bell)); err != nil {
		l.free()
		return nil, err
	}
	return l, nil
}

// free gives back what the loop holds of the system.
func (l *udpLoop) free() {
	l.in.free()
	l.back.free()
	_ = unix.Close(l.bell) // nobody uses them any more
	_ = unix.Close(l.epoll)
}

func (l *udpLoop) watch(fd int) error {
	return unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

// do runs an order on the loop and returns when it has been run, or will not be because the loop has ended.
func (l *udpLoop) do(order func()) {
	done := make(chan struct{})
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return
	}
	l.orders = append(l.orders, func() { order(); close(done) })
	one := [8]byte{0: 1, 7: 1}        // not 0 in either order of the bytes
	_, _ = unix.Write(l.bell, one[:]) // a full counter rings as well
	l.mu.Unlock()
	<-done
}

// obey runs what was ordered.
func (l *udpLoop) obey() {
	var count [8]byte
	_, _ = unix.Read(l.bell, count[:])
	l.mu.Lock()
	orders := l.orders
	l.orders = nil
	l.mu.Unlock()
	for _, order := range orders {
		order()
	}
}

// udpSweep is how often sessions are looked at for having been silent for too long.
const udpSweep = time.Second

func (l *udpLoop) run() {
	events := make([]unix.EpollEvent, 256)
	for !l.ended {
		n := l.wait(events)
		l.now = l.clock()
		for i := range n {
			l.handle(int(events[i].Fd))
		}
		l.flushBack()
		l.sweep()
	}
	for s := range l.listeners {
		l.drop(s)
	}
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.obey()
	l.free()
}

// wait returns how many sockets are ready, or 0 when it is time to sweep. It sleeps, of which the scheduler must know, only when none is: a loop
// that always has something to do is nothing that the runtime's monitor has to look after many times in a millisecond.
func (l *udpLoop) wait(events []unix.EpollEvent) int {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
	if errno == 0 && n > 0 {
		return int(n)
	}
	patience := -1
	if l.sessions > 0 {
		patience = int(udpSweep.Milliseconds())
	}
	ready, err := unix.EpollWait(l.epoll, events, patience)
	if err != nil && !errors.Is(err, unix.EINTR) {
		panic(fmt.Sprintf("epoll: %v", err)) // its descriptor is the loop's own
	}
	return max(ready, 0)
}

func (l *udpLoop) handle(fd int) {
	if fd == l.bell {
		l.obey()
		return
	}
	switch f := l.files[fd]; {
	case f.listener != nil:
		f.listener.receive()
	case f.session != nil:
		f.session.receive()
	}
}

func (l *udpLoop) register(fd int, f udpFile) error {
	for len(l.files) <= fd {
		l.files = append(l.files, udpFile{})
	}
	if err := l.watch(fd); err != nil {
		return err
	}
	l.files[fd] = f
	return nil
}

func (l *udpLoop) unregister(fd int) {
	l.files[fd] = udpFile{}
	_ = unix.Close(fd) // which also ends the watch
}

func (l *udpLoop) add(u *udpListener) {
	l.listeners[u] = struct{}{}
	if err := l.register(u.fd, udpFile{listener: u}); err != nil {
		u.port.server.Log.Error("Port not served", "port", u.port.Number, "err", err)
	}
}

// drop ends a listener with its sessions.
func (l *udpLoop) drop(u *udpListener) {
	if _, ok := l.listeners[u]; !ok {
		return
	}
	l.flushBack()
	for u.oldest != nil {
		u.end(u.oldest)
	}
	delete(l.listeners, u)
	l.unregister(u.fd)
}

// sweep ends the sessions that were silent for too long.
func (l *udpLoop) sweep() {
	if l.sessions == 0 || l.now-l.swept < int64(udpSweep) {
		return
	}
	l.swept = l.now
	for u := range l.listeners {
		u.sweep(l.now)
	}
}
