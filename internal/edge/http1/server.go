// Package http1 is the edge's engine for HTTP/1.1 and WebSocket: it reads requests from client connections, sends
// each to a backend of the app that package route names, and streams both bodies.
//
// There are two ways through it. A lane (lane_linux.go) is a thread that serves what most requests of its connections are with an
// io_uring. Everything else, and everything where there is no io_uring, is served by a goroutine per connection (conn.go), to which a lane
// hands a connection over; requests without a body to stream, and their responses, need no other goroutine. Heads are parsed strictly
// and in place: whatever a backend might understand differently is refused with 400, so that no request can hide in another.
//
// It guarantees:
//   - bytes are passed on as they come, in both directions; no body is held back or kept in memory;
//   - a request is sent again only when that cannot make it happen twice: nothing of it was sent, or its method is
//     idempotent, its body was not begun and no byte of a response came;
//   - what a client says about itself (X-Forwarded-…, Forwarded, X-Real-IP) reaches no backend unless the client
//     is a trusted proxy;
//   - a backend's request is counted in flight from before it is chosen until its last byte, or its WebSocket, has ended.
//
// A client that closes its side of the connection counts as gone, once its request has taken a moment.
// It never changes a body, never decompresses, and never caches.
package http1

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"vortex"
	"vortex/internal/edge/accesslog"
	"vortex/internal/edge/limit"
	"vortex/internal/edge/meter"
	"vortex/internal/edge/pool"
	"vortex/internal/edge/route"
)

// Defaults of Config.
const (
	DefaultHeaderTimeout   = 10 * time.Second
	DefaultIdleTimeout     = 75 * time.Second
	DefaultBodyTimeout     = 60 * time.Second
	DefaultConnectTimeout  = 2 * time.Second
	DefaultResponseTimeout = 5 * time.Minute
	DefaultHoldTimeout     = 5 * time.Second
	DefaultSkipDead        = time.Second
	DefaultMaxHeaderBytes  = 64 << 10
	DefaultMinBodyRate     = 64
	DefaultBodyGrace       = 10 * time.Second
	DefaultMaxClientConns  = 10_000
)

// Config of a Server. Zero values are the defaults above.
type Config struct {
	Table   *route.Table   // required
	Meters  *meter.Set     // required: the Table's
	Limit   *limit.Rule    // what every client address may ask for; nil is no limit
	Metrics http.Handler   // answers GET /metrics of loopback clients when no app claims the host; nil is nobody
	Log     *slog.Logger   // access log at debug; nil discards
	Access  *accesslog.Log // nil is none
	Trusted []netip.Prefix // proxies before the edge, whose X-Forwarded-For is believed
	Hint    string         // tells people on this machine what to do when nobody answers; "" is about apps
	Why     string         // the command that tells them why no backend does; "" is about apps

	HeaderTimeout   time.Duration // from a head's first byte to its last
	BodyTimeout     time.Duration // without progress on a request's body, or on a client taking its response
	ConnectTimeout  time.Duration // to a backend
	ResponseTimeout time.Duration // from a request's end to its response's head
	HoldTimeout     time.Duration // a request waits this long for a backend; negative is not at all
	SkipDead        time.Duration // a backend that refused a connection is left out this long
	MaxHeaderBytes  int           // of a request's or response's head
	Lanes           int           // threads of the fast way, see lane; 0 is one for each processor, negative none

	Limits      Limits                 // what clients may do; SetLimits changes it
	AcceptProxy vortex.ProxyAcceptance // of Serve's listeners, as in ListenerSettings
}

// Limits bound what clients do. Zero values are the defaults above.
type Limits struct {
	MinBodyRate    int64         // bytes per second that a request's body must come with on average; negative is any rate
	BodyGrace      time.Duration // from its first bytes on it may be slower; negative is not at all
	MaxClientConns int           // connections that one client address may have open; negative is any number
	MaxRequests    int           // on one client connection; 0 is any number
	IdleTimeout    time.Duration // of a client connection between requests; it is what holds when the wait begins
}

func (l *Limits) setDefaults() {
	setDefault(&l.MinBodyRate, DefaultMinBodyRate)
	setDefault(&l.BodyGrace, DefaultBodyGrace)
	setDefault(&l.MaxClientConns, DefaultMaxClientConns)
	setDefault(&l.IdleTimeout, DefaultIdleTimeout)
}

// SetLimits changes the limits for every request and connection from now on.
func (s *Server) SetLimits(l Limits) {
	l.setDefaults()
	s.limits.Store(&l)
	s.crowds.Set(max(l.MaxClientConns, 0))
}

func (c *Config) setDefaults() {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	setDefault(&c.HeaderTimeout, DefaultHeaderTimeout)
	setDefault(&c.BodyTimeout, DefaultBodyTimeout)
	setDefault(&c.ConnectTimeout, DefaultConnectTimeout)
	setDefault(&c.ResponseTimeout, DefaultResponseTimeout)
	setDefault(&c.HoldTimeout, DefaultHoldTimeout)
	setDefault(&c.SkipDead, DefaultSkipDead)
	setDefault(&c.MaxHeaderBytes, DefaultMaxHeaderBytes)
}

func setDefault[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

// Server serves HTTP/1 on any number of listeners. Use New.
type Server struct {
	Config
	epoch   time.Time
	began   atomic.Int64 // the epoch in nanoseconds since 1970, by the machine's clock now
	limits  atomic.Pointer[Limits]
	crowds  *limit.Conns
	turned  atomic.Int64 // connections that are being turned away
	closing atomic.Bool
	mirror  *mirror

	mu    sync.Mutex
	lanes lanes

	conns map[*conn]struct{}
	empty chan struct{} // closed when closing and the last connection ended; nil before
}

// New returns a Server that serves nothing yet.
func New(c Config) *Server {
	c.setDefaults()
	s := &Server{Config: c, epoch: time.Now(), crowds: limit.NewConns(0), conns: map[*conn]struct{}{}}
	s.SetLimits(c.Limits)
	s.Unix()
	s.mirror = newMirror(s)
	return s
}

// Now is the engine's clock: nanoseconds since the server was made.
func (s *Server) Now() int64 { return int64(time.Since(s.epoch)) }

// maxDrift is how far the clock that limits go by may be from the machine's, which may be set.
const maxDrift = 100 * time.Millisecond

// Unix returns the time in nanoseconds since 1970 that limits go by. It does not go back, unless the machine's clock was set: that is
// noticed here, and not by requests.
func (s *Server) Unix() int64 {
	now := s.Now()
	began := time.Now().UnixNano() - now
	if drift := time.Duration(began - s.began.Load()); drift.Abs() > maxDrift {
		s.began.Store(began)
	}
	return s.unix(now)
}

func (s *Server) unix(now int64) int64 { return s.began.Load() + now }

// Serve accepts connections from ln until ctx ends, and closes ln. Requests in flight go on: Shutdown
// waits for them.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	return s.ServeAs(ctx, ln, NewListener(ListenerSettings{Trusted: s.Trusted, AcceptProxy: s.AcceptProxy}))
}

// ServeAs is Serve for a listener with settings of its own. When it ends, connections that came in there are closed as
// soon as no request is on them.
func (s *Server) ServeAs(ctx context.Context, ln net.Listener, l *Listener) error {
	defer s.retire(l)
	if s.lanes.serve(ctx, s, ln, l) {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { closeListener(ln) })
	defer stop()
	defer closeListener(ln)
	var pause time.Duration
	for {
		tcp, err := ln.Accept()
		switch {
		case err == nil:
			pause = 0
			s.start(newConn(s, tcp, l))
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		default: // out of descriptors, most likely: what is served now frees some
			s.Log.WarnContext(ctx, "Connection not accepted", "err", err)
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			if !wait(ctx, pause) {
				return nil
			}
		}
	}
}

// closeListener stops accepting. Closing twice is what happens when both ctx and the loop end, and harmless.
func closeListener(ln net.Listener) { _ = ln.Close() }

func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// start serves a connection on its own goroutine, which Shutdown waits for.
func (s *Server) start(c *conn) {
	if !s.admit(c) {
		return
	}
	s.mu.Lock()
	if s.closing.Load() {
		s.mu.Unlock()
		closeQuietly(c.tcp)
		s.dismiss(c)
		return
	}
	s.mu.Unlock()
	s.run(c)
}

// run serves a connection on its own goroutine.
func (s *Server) run(c *conn) {
	s.mu.Lock()
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	s.Meters.Connect(1)
	go func() {
		defer s.end(c)
		c.serve()
	}()
}

func (s *Server) end(c *conn) {
	s.Meters.Connect(-1)
	s.dismiss(c)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if s.empty != nil && len(s.conns) == 0 {
		close(s.empty)
		s.empty = nil
	}
}

// Idle returns how many idle connections there are with each backend besides those that the backend itself keeps.
func (s *Server) Idle() map[*pool.Backend]int { return s.lanes.idle() }

// Shutdown lets requests in flight finish until ctx ends, then cuts what is left. Connections between
// requests are closed at once; ones that never asked anything get a moment to. The listeners must be closed before.
// It returns ctx's cause when something had to be cut.
func (s *Server) Shutdown(ctx context.Context) error {
	defer s.mirror.end()
	s.beginShutdown()
	cut := s.lanes.drain(ctx)
	if done := s.whenEmpty(); !closedIn(ctx, done) {
		cut = true
		s.mu.Lock()
		for c := range s.conns {
			c.cut()
		}
		s.mu.Unlock()
		<-done
	}
	s.lanes.end()
	if cut {
		return context.Cause(ctx)
	}
	return nil
}

// Sever ends the connections that requests are on with the backends of a node that is gone, as if the backends had closed them: what may be
// sent again goes to others, and who waits for the rest is told at once.
func (s *Server) Sever(node string) {
	s.lanes.sever(node)
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.sever(node)
	}
}

// closedIn reports whether done is closed before ctx ends.
func closedIn(ctx context.Context, done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *Server) beginShutdown() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing.Store(true)
	for c := range s.conns {
		c.retire()
	}
}

// whenEmpty returns a channel that is closed once no connection is served by a goroutine.
func (s *Server) whenEmpty() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	done := make(chan struct{})
	if len(s.conns) == 0 {
		close(done)
		return done
	}
	s.empty = done
	return done
}

// closeQuietly closes a connection whose end no one waits for.
func closeQuietly(c net.Conn) { _ = c.Close() }
