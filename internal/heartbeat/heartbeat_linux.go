// Package heartbeat tells within milliseconds that a node is silent, and not when it merely seems so because this machine is busy.
//
// A Pulse has one UDP socket and a link to each peer: small authenticated datagrams go out at the interval that the peer asked for, and those of the
// peer are watched. Both are done by a tiny process of real-time priority (package pulse), with which this package shares a page of memory:
// a link's State is one atomic read. When the process that it beats for dies it says so at once. Where no such process or priority is to be had it says so, and timeouts are longer.
//
// A Pulse holds opinions of its own machine alone: Silent is one, reversible with the next beat. It never says Silent because it was
// stalled itself, and when more than half of its peers fall silent at once it says Held. Keys come from outside, new for every session; who is to be believed about
// a node's death is decided by others.
package heartbeat

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vortex"
	"vortex/internal/heartbeat/pulse"
)

// State is what is known of a link's peer.
type State = pulse.State

// The states.
const (
	Unwatched = pulse.Unwatched
	Unheard   = pulse.Unheard
	Alive     = pulse.Alive
	Silent    = pulse.Silent
	Held      = pulse.Held
	Hung      = pulse.Hung
	Ended     = pulse.Ended
)

// Config of a Pulse.
type Config struct {
	Address string // UDP, host:port; a port of 0 picks a free one
	Program string // the pulse program; "" beats from a thread of this process, with longer timeouts
	Log     *slog.Logger
}

// Pulse sends and watches heartbeats. Use Listen.
type Pulse struct {
	cfg  Config
	port uint16
	conn *os.File // the socket's duplicate for the program
	soon *os.File // the same of the one for what is urgent; nil is none
	mem  *os.File
	raw  []byte
	page *pulse.Page

	mu      sync.Mutex
	control int // the running program's; -1 is none
	runs    uint64
	links   [pulse.MaxLinks]*Link
	next    uint32 // generation
}

const (
	touchEvery   = 100 * time.Millisecond
	restartPause = 100 * time.Millisecond
	socketBuffer = 4 << 20
	// runShift leaves each run of the program numbers of its own for datagrams.
	runShift = 40
)

// Listen opens the socket; Run makes it beat.
func Listen(ctx context.Context, cfg Config) (*Pulse, error) {
	conn, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", cfg.Address)
	if err != nil {
		return nil, vortex.Errorf(vortex.Unavailable, "heartbeats cannot listen on UDP %s: %w", cfg.Address, err)
	}
	defer func() { _ = conn.Close() }() // the file is its duplicate
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		return nil, fmt.Errorf("%s is no UDP address", cfg.Address)
	}
	_ = udp.SetReadBuffer(socketBuffer)                                                        // less is enough for small clusters
	p := &Pulse{cfg: cfg, port: udp.LocalAddr().(*net.UDPAddr).AddrPort().Port(), control: -1} //nolint:errcheck,forcetypeassert // UDP
	if p.conn, err = udp.File(); err != nil {
		return nil, fmt.Errorf("share socket: %w", err)
	}
	if p.soon, err = urgentSocket(ctx, p.conn, udp.LocalAddr().String()); err != nil {
		cfg.Log.DebugContext(ctx, "Peers' ends are heard with their beats", "err", err)
	}
	fd, err := unix.MemfdCreate("vortex-pulse", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, errors.Join(os.NewSyscallError("memfd_create", err), p.close())
	}
	p.mem = os.NewFile(uintptr(fd), "vortex-pulse")
	if err = p.mem.Truncate(int64(pulse.PageSize)); err == nil {
		p.page, p.raw, err = pulse.Map(fd)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("share memory: %w", err), p.close())
	}
	return p, nil
}

// urgentSocket is a second socket at the address, for datagrams that are looked at when they come. That of beats was bound alone, so that nobody
// else could have the port, and nobody else can after this.
func urgentSocket(ctx context.Context, first *os.File, address string) (*os.File, error) {
	share := func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }
	if err := share(int(first.Fd())); err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	var refused error
	listen := net.ListenConfig{Control: func(_, _ string, conn syscall.RawConn) error {
		err := conn.Control(func(fd uintptr) { refused = share(int(fd)) })
		return errors.Join(err, refused)
	}}
	conn, err := listen.ListenPacket(ctx, "udp", address)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()     // the file is its duplicate
	file, err := conn.(*net.UDPConn).File() //nolint:errcheck,forcetypeassert // UDP
	if err != nil {
		return nil, err
	}
	if err := pulse.Urgent(int(file.Fd())); err != nil {
		return nil, errors.Join(os.NewSyscallError("setsockopt", err), file.Close())
	}
	return file, nil
}

// urgent is the descriptor of that socket, -1 when there is none.
func (p *Pulse) urgent() int {
	if p.soon == nil {
		return -1
	}
	return int(p.soon.Fd())
}

func (p *Pulse) close() (err error) {
	for _, f := range []*os.File{p.conn, p.soon, p.mem} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}

// Port is the UDP port.
func (p *Pulse) Port() uint16 { return p.port }

// Page is what the program tells of itself.
func (p *Pulse) Page() *pulse.Page { return p.page }

// Run beats and watches until ctx ends, and starts the program again when it dies. The Pulse is of no use afterwards.
func (p *Pulse) Run(ctx context.Context) error {
	defer func() { _ = p.close() }()
	var touching sync.WaitGroup
	defer touching.Wait()
	touching.Go(func() { p.touch(ctx) })
	for ctx.Err() == nil {
		if err := p.once(ctx); err != nil && ctx.Err() == nil {
			p.cfg.Log.WarnContext(ctx, "Heartbeats interrupted", "err", err, "retry_in", restartPause)
		}
		select {
		case <-ctx.Done():
		case <-time.After(restartPause):
		}
	}
	return nil
}

// touch says that this process runs.
func (p *Pulse) touch(ctx context.Context) {
	ticker := time.NewTicker(touchEvery)
	defer ticker.Stop()
	for {
		p.page.Touched.Store(pulse.Now())
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// once runs the program once, to its end.
func (p *Pulse) once(ctx context.Context) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	p.page.Touched.Store(pulse.Now())
	p.page.Started.Store(0)
	p.page.Thread.Store(0)
	wait, err := p.start(ctx, pair[1])
	if err != nil {
		return errors.Join(err, unix.Close(pair[0]))
	}
	p.attach(pair[0])
	stop := context.AfterFunc(ctx, func() { _ = unix.Shutdown(pair[0], unix.SHUT_RDWR) })
	var reading sync.WaitGroup
	reading.Go(func() { p.read(ctx, pair[0]) })
	reading.Wait()
	stop()
	p.detach()
	return errors.Join(unix.Close(pair[0]), wait())
}

// start starts the program, or a thread in its stead, and returns what waits for its end. It takes the control socket.
func (p *Pulse) start(ctx context.Context, control int) (wait func() error, err error) {
	if p.cfg.Program == "" {
		p.cfg.Log.WarnContext(ctx, "Heartbeats come from a thread of this process: a busy machine delays them, and timeouts are longer")
		done := make(chan error, 1)
		go func() {
			runtime.LockOSThread() // never unlocked: the thread with its priority ends with it
			err := pulse.Run(pulse.Config{Socket: int(p.conn.Fd()), Urgent: p.urgent(), Control: control, Page: p.page, Inside: true})
			done <- errors.Join(err, unix.Close(control))
		}()
		return func() error { return <-done }, nil
	}
	file := os.NewFile(uintptr(control), "control")
	defer func() { _ = file.Close() }()
	cmd := exec.Command(p.cfg.Program) //nolint:noctx // it ends with the control socket
	cmd.Env = []string{}
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{p.conn, file, p.mem}
	if p.soon != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, p.soon)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start heartbeats: %w", err)
	}
	return cmd.Wait, nil
}

// attach gives a program that was just started the links that stand.
func (p *Pulse) attach(control int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.control = control
	p.runs++
	for _, l := range p.links {
		if l != nil && l.started {
			p.order(l.add())
		}
	}
}

func (p *Pulse) detach() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.control = -1
}

// order sends an order, with mu held. Without a program it is lost: the next one is given every link anew.
func (p *Pulse) order(o pulse.Order) {
	if p.control >= 0 {
		_ = unix.Send(p.control, o.Append(nil), unix.MSG_NOSIGNAL)
	}
}

// read takes in what the program tells, until it ends. Its thread hurries as the program does, so that what was found in time is not late here. It
// is also the first to be gone when this process is killed, for the others wait their turn on a busy machine and the last of them
// has all the memory to give back: the program is told of its end, and tells the peers.
func (p *Pulse) read(ctx context.Context, control int) {
	runtime.LockOSThread()              // never unlocked: the thread with its priority ends with it
	if unix.Gettid() == unix.Getpid() { // the first thread is gone after all others
		var other sync.WaitGroup
		other.Go(func() { p.read(ctx, control) })
		other.Wait()
		runtime.UnlockOSThread()
		return
	}
	pulse.Hurry()
	p.page.Thread.Store(int64(unix.Gettid()))
	var buf [pulse.MaxReport]byte
	told := false
	for {
		n, _, err := unix.Recvfrom(control, buf[:], 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return
		}
		if !told {
			told = true
			p.tellPriority(ctx)
		}
		if r, ok := pulse.ParseReport(buf[:n]); ok {
			p.take(r)
		}
	}
}

func (p *Pulse) tellPriority(ctx context.Context) {
	if p.cfg.Program != "" && p.page.Priority.Load() != pulse.RealTime {
		p.cfg.Log.WarnContext(ctx, "Heartbeats have no real-time priority: a busy machine delays them, and timeouts are longer")
	}
}

func (p *Pulse) take(r pulse.Report) {
	p.mu.Lock()
	l := p.links[r.Link]
	p.mu.Unlock()
	if l == nil || l.generation != r.Generation {
		return
	}
	if r.Ping != nil {
		select {
		case l.pings <- append([]byte(nil), r.Ping...):
		default:
		}
		return
	}
	if changed := l.changed.Load(); changed != nil {
		(*changed)(r.State)
	}
}

// Reserve returns a link that is not used yet, an Exhausted error when there are too many.
func (p *Pulse) Reserve() (*Link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.links {
		if p.links[i] == nil {
			p.next++
			l := &Link{pulse: p, number: uint32(i), generation: p.next, pings: make(chan []byte, 1)} //nolint:gosec // below MaxLinks
			p.links[i] = l
			return l, nil
		}
	}
	return nil, vortex.Errorf(vortex.Exhausted, "there are %d heartbeat links, which is the most there can be", pulse.MaxLinks)
}

// Interval is how often so many peers should beat: more often where there are few, and never so often that all together come more than
// 4,000 times a second, which costs a watcher less than three percent of a core.
func Interval(peers int) time.Duration {
	const (
		share    = 250 * time.Microsecond
		shortest = 5 * time.Millisecond
		longest  = 100 * time.Millisecond
	)
	return min(max(time.Duration(peers)*share, shortest), longest)
}

// Addr returns where a peer's heartbeats go: its address with the port that it told.
func Addr(host netip.Addr, port uint32) netip.AddrPort {
	return netip.AddrPortFrom(host.Unmap(), uint16(port)) //nolint:gosec // a port
}
