package edge

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sync/errgroup"

	"vortex"
	"vortex/internal/edge/http1"
)

// Listener is an address that the edge accepts HTTP on.
type Listener struct {
	Name    string // what routers call it
	Address string
	Trusted []netip.Prefix // proxies before the edge, whose X-Forwarded-For is believed
	// AcceptProxy says whether they may, or must, begin with a header of the PROXY protocol; "" is not.
	AcceptProxy vortex.ProxyAcceptance
}

func (l Listener) settings() http1.ListenerSettings {
	return http1.ListenerSettings{Name: l.Name, Trusted: l.Trusted, AcceptProxy: l.AcceptProxy}
}

// listeners are what the edge accepts on.
type listeners struct {
	mu    sync.Mutex
	open  []*listener
	group *errgroup.Group // serves them; nil before Run
	ended bool
	told  bool // by SetListeners where to listen
}

// listener is an open one.
type listener struct {
	address  string // as it was asked for; "" is one of Config.Listeners
	ln       net.Listener
	settings *http1.Listener
	stop     context.CancelFunc // nil until it is served
	stopped  chan struct{}      // closed when nothing accepts any more
}

// SetListeners makes the edge listen where it is told and nowhere else. What stays, by its address, is never closed, and takes its new settings.
// Requests in flight on what goes are finished. All new ones are opened before anything changes: with an error everything is as before.
// It may be called before Run, and at any time while it runs.
func (e *Edge) SetListeners(ctx context.Context, wanted []Listener) error {
	s := &e.listeners
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return vortex.Errorf(vortex.Unavailable, "the edge is ending")
	}
	next := make([]*listener, 0, len(wanted))
	var fresh []*listener
	for _, w := range wanted {
		l := s.find(w.Address)
		if l == nil {
			var err error
			if l, err = listen(ctx, w.Address); err != nil {
				closeAll(fresh)
				return s.explain(w.Address, err)
			}
			fresh = append(fresh, l)
		}
		next = append(next, l)
	}
	for i, w := range wanted {
		next[i].settings.Set(w.settings())
	}
	gone := slices.DeleteFunc(s.open, func(l *listener) bool { return slices.Contains(next, l) })
	s.open, s.told = next, true
	for _, l := range fresh {
		e.start(l)
	}
	for _, l := range gone {
		l.close()
	}
	return nil
}

// find returns the open listener of an address.
func (s *listeners) find(address string) *listener {
	i := slices.IndexFunc(s.open, func(l *listener) bool { return l.address == address })
	if i < 0 {
		return nil
	}
	return s.open[i]
}

// explain says so when it is the edge itself that has the address.
func (s *listeners) explain(address string, err error) error {
	if !errors.Is(err, syscall.EADDRINUSE) {
		return err
	}
	for _, l := range s.open {
		if overlap(address, l.address) {
			return vortex.Errorf(vortex.Invalid,
				"the edge cannot listen on %s while it listens on %s itself; use another port, or leave %s out first and write %s in a second change", address, l.address, l.address, address)
		}
	}
	return err
}

// overlap reports whether one of two addresses is every address, with the port of the other.
func overlap(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	return errA == nil && errB == nil && portA == portB && (isEvery(hostA) || isEvery(hostB))
}

func isEvery(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.IsUnspecified()
}

func listen(ctx context.Context, address string) (*listener, error) {
	var config net.ListenConfig
	ln, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, explainListen(address, err)
	}
	return &listener{address: address, ln: ln, settings: http1.NewListener(http1.ListenerSettings{})}, nil
}

// close stops accepting, and frees the address. What was accepted goes on.
func (l *listener) close() {
	if l.stop != nil {
		l.stop()
	}
	_ = l.ln.Close() // closing twice is harmless: who serves it does too
	if l.stopped != nil {
		<-l.stopped
	}
}

func closeAll(list []*listener) {
	for _, l := range list {
		l.close()
	}
}

// start serves an open listener when Run runs, which otherwise does.
func (e *Edge) start(l *listener) {
	s := &e.listeners
	if s.group == nil {
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	l.stop, l.stopped = stop, make(chan struct{})
	s.group.Go(func() error {
		defer close(l.stopped)
		return e.server.ServeAs(ctx, l.ln, l.settings)
	})
}

// told reports whether SetListeners said where to listen.
func (e *Edge) told() bool {
	e.listeners.mu.Lock()
	defer e.listeners.mu.Unlock()
	return e.listeners.told
}

// openConfigured opens what Config names, or nothing.
func (e *Edge) openConfigured(ctx context.Context) error {
	addresses := e.config.Listen
	if len(addresses) == 0 && len(e.config.Listeners) == 0 && !e.told() {
		addresses = []string{DefaultListen}
	}
	settings := http1.ListenerSettings{Trusted: e.config.Trusted, AcceptProxy: e.config.AcceptProxy}
	var opened []*listener
	for _, ln := range e.config.Listeners {
		opened = append(opened, &listener{ln: ln, settings: http1.NewListener(settings)})
	}
	for _, address := range addresses {
		l, err := listen(ctx, address)
		if err != nil {
			closeAll(opened)
			return err
		}
		l.settings.Set(settings)
		opened = append(opened, l)
	}
	e.listeners.mu.Lock()
	e.listeners.open = append(e.listeners.open, opened...)
	e.listeners.mu.Unlock()
	if e.config.Accepting != nil {
		e.config.Accepting(e.Addrs())
	}
	return nil
}

// serve accepts on every listener until ctx ends or one of them fails.
func (e *Edge) serve(ctx context.Context) error {
	s := &e.listeners
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { // the group is not done before: listeners come and go
		<-ctx.Done()
		return nil
	})
	s.mu.Lock()
	s.group = group
	for _, l := range s.open {
		e.start(l)
	}
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	s.ended = true
	closeAll(s.open)
	s.mu.Unlock()
	return group.Wait()
}

// Addrs returns the addresses the edge listens on; none before Run does.
func (e *Edge) Addrs() []net.Addr {
	e.listeners.mu.Lock()
	defer e.listeners.mu.Unlock()
	var addrs []net.Addr
	for _, l := range e.listeners.open {
		addrs = append(addrs, l.ln.Addr())
	}
	return addrs
}
