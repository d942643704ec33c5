package l4

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// port is one port of the edge.
type port struct {
	portKey

	server  *Server
	routes  atomic.Pointer[routes] // nil when no service claims it any more
	traffic Traffic

	// Of the Server's mu.
	app  string // the first that claims it
	open bool
	err  error // why it is not open

	shut func() // stops accepting; of Run's goroutine
}

func (p *port) status() PortStatus {
	st := PortStatus{App: p.app, Protocol: p.Protocol, Host: p.Host, Port: p.Number, Open: p.open, Counts: p.traffic.Counts()}
	if p.err != nil {
		st.Err = p.err.Error()
	}
	return st
}

// address is where the port listens.
func (p *port) address() string { return net.JoinHostPort(p.Host, strconv.Itoa(int(p.Number))) }

// listen opens the port, and serves it on goroutines of serving until it is closed.
func (p *port) listen(ctx context.Context, serving *sync.WaitGroup) error {
	if p.Protocol == UDP {
		shut, err := p.server.udp.listen(ctx, p)
		p.shut = shut
		return explain(err)
	}
	config := net.ListenConfig{KeepAlive: -1, Control: keepAlive}
	config.SetMultipathTCP(false) // splice knows plain TCP alone
	ln, err := config.Listen(ctx, "tcp", p.address())
	if err != nil {
		return explain(err)
	}
	tcp, ok := ln.(*net.TCPListener)
	if !ok {
		return fmt.Errorf("a listener of type %T", ln)
	}
	p.shut = func() { _ = tcp.Close() } // what it accepted goes on
	serving.Go(func() { p.accept(ctx, tcp) })
	return nil
}

// close stops accepting. It may be called more than once.
func (p *port) close() {
	if p.shut != nil {
		p.shut()
		p.shut = nil
	}
}

// explain says what to do about a port that cannot be opened.
func explain(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("another program listens there; stop it, or give the app another edgePort: %w", err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("ports below 1024 need root or CAP_NET_BIND_SERVICE: %w", err)
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return fmt.Errorf("no more files may be open; raise the limit (ulimit -n): %w", err)
	}
	return err
}

// accept serves connections until the listener is closed.
func (p *port) accept(ctx context.Context, ln *net.TCPListener) {
	var pause time.Duration
	for {
		tcp, err := ln.AcceptTCP()
		switch {
		case err == nil:
			pause = 0
			p.start(tcp)
		case errors.Is(err, net.ErrClosed):
			return
		default: // out of descriptors, most likely: what is served now frees some
			p.server.Log.WarnContext(ctx, "Connection not accepted", "port", p.Number, "err", err)
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return
			}
		}
	}
}

// start serves a connection on its own goroutine.
func (p *port) start(tcp *net.TCPConn) {
	s := p.server
	c := &conn{port: p, client: tcp}
	if s.closing.Load() || !s.tcp.add(c, s.MaxConnections) {
		p.traffic.failed.Add(1)
		reset(tcp)
		return
	}
	p.traffic.begin()
	go func() {
		defer s.tcp.remove(c)
		defer p.traffic.end()
		c.serve()
	}()
}
