//go:build !linux

package l4

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"vortex/internal/edge/limit"
	"vortex/internal/edge/pool"
)

// udpEngine serves UDP ports, with two goroutines for each session.
type udpEngine struct{ serving sync.WaitGroup }

func newUDPEngine(func() int64) *udpEngine { return &udpEngine{} }

// close waits until every session has ended. No port must be open.
func (e *udpEngine) close() { e.serving.Wait() }

// listen opens a port and serves it until shut is called, which ends its sessions.
func (e *udpEngine) listen(ctx context.Context, p *port) (shut func(), err error) {
	pc, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", p.address())
	if err != nil {
		return nil, err
	}
	l := &udpListener{port: p, conn: pc.(*net.UDPConn), sessions: map[netip.AddrPort]*udpSession{}}
	e.serving.Go(func() { l.receive(&e.serving) })
	return func() { _ = pc.Close() }, nil
}

type udpListener struct {
	port *port
	conn *net.UDPConn

	mu       sync.Mutex
	sessions map[netip.AddrPort]*udpSession
}

type udpSession struct {
	target  target
	backend *pool.Backend
	traffic *Traffic
	conn    *net.UDPConn
}

const maxDatagram = 64 << 10

// receive sends on what clients sent, until the port is closed.
func (l *udpListener) receive(serving *sync.WaitGroup) {
	defer l.end()
	buf := make([]byte, maxDatagram)
	for {
		n, client, err := l.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		l.port.traffic.received.Add(uint64(n))
		s := l.session(client, serving)
		if s == nil {
			l.port.traffic.failed.Add(1)
			continue
		}
		if _, err := s.conn.Write(buf[:n]); err != nil {
			_ = s.conn.Close() // its goroutine ends it
			continue
		}
		_ = s.conn.SetReadDeadline(time.Now().Add(s.target.service.IdleTimeout)) // it was closed, or has one
		s.traffic.received.Add(uint64(n))
	}
}

func (l *udpListener) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.sessions {
		_ = s.conn.Close() // its goroutine ends it
	}
}

// session finds or begins a client's session; nil when there cannot be one.
func (l *udpListener) session(client netip.AddrPort, serving *sync.WaitGroup) *udpSession {
	l.mu.Lock()
	s := l.sessions[client]
	l.mu.Unlock()
	if s != nil {
		return s
	}
	server, routes := l.port.server, l.port.routes.Load()
	if routes == nil || len(routes.rest) == 0 {
		return nil
	}
	t, now := routes.rest[0], server.Now()
	if l.port.traffic.active.Load() >= int64(t.service.MaxSessions) {
		return nil
	}
	if server.Limiter != nil {
		if !server.Limiter.Allow(limit.Address(client.Addr()), time.Now().UnixNano()).OK {
			return nil
		}
	}
	if t.admit(now) != nil {
		return nil
	}
	b := t.pool.Pick(hashAddr(client.Addr()), now, &pool.Tried{})
	if b == nil {
		t.finish()
		t.service.wakeBackend(server, t.pool)
		return nil
	}
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(b.Addr))
	if err != nil {
		t.finish()
		b.Done()
		return nil
	}
	b.Served(now, statusConnected)
	s = &udpSession{target: t, backend: b, traffic: server.backendTraffic(t.service.App, b), conn: conn}
	l.mu.Lock()
	l.sessions[client] = s
	l.mu.Unlock()
	l.port.traffic.begin()
	s.traffic.begin()
	serving.Go(func() { l.answer(client, s) })
	return s
}

// answer sends the backend's answers to the client until the session was silent for too long.
func (l *udpListener) answer(client netip.AddrPort, s *udpSession) {
	buf := make([]byte, maxDatagram)
	for {
		n, err := s.conn.Read(buf)
		if err != nil {
			break
		}
		_ = s.conn.SetReadDeadline(time.Now().Add(s.target.service.IdleTimeout)) // it was closed, or has one
		if _, err := l.conn.WriteToUDPAddrPort(buf[:n], client); err == nil {
			s.traffic.sent.Add(uint64(n))
			l.port.traffic.sent.Add(uint64(n))
		}
	}
	_ = s.conn.Close() // nobody reads from it any more
	l.mu.Lock()
	delete(l.sessions, client)
	l.mu.Unlock()
	l.port.traffic.end()
	s.traffic.end()
	s.target.finish()
	s.backend.Done()
}
