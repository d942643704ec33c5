package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"vortex"
	"vortex/internal/heartbeat"
	"vortex/internal/heartbeat/pulse"
	sessionpb "vortex/proto/session"
)

// Client is the nodes' side: it holds a session to every server. Use NewClient.
type Client struct {
	cfg ClientConfig

	mu      sync.Mutex
	servers map[string]bool
	changed chan struct{}
	silent  map[string]map[string]bool // server -> nodes that it takes to be silent
}

// ClientConfig says who holds the sessions.
type ClientConfig struct {
	Node  string
	Pulse *heartbeat.Pulse // nil: only streams
	Dial  []grpc.DialOption
	// Opinion is told when more than half of the servers that sessions stand to begin or cease to take a node to be silent; nil is nobody.
	Opinion func(node string, silent bool)
	Log     *slog.Logger
}

const (
	firstRetry   = 10 * time.Millisecond
	lastRetry    = time.Second
	carryTimeout = 200 * time.Millisecond
	maxCarries   = 64 // at a time
)

// NewClient returns a client without servers.
func NewClient(cfg ClientConfig) *Client {
	return &Client{cfg: cfg, servers: map[string]bool{}, changed: make(chan struct{}, 1), silent: map[string]map[string]bool{}}
}

// SetServers says which servers, host:port, there are.
func (c *Client) SetServers(addresses []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.servers)
	for _, a := range addresses {
		c.servers[a] = true
	}
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// Run holds the sessions until ctx ends.
func (c *Client) Run(ctx context.Context) error {
	var holders sync.WaitGroup
	defer holders.Wait()
	running := map[string]context.CancelFunc{}
	for {
		c.mu.Lock()
		wanted := maps.Clone(c.servers)
		c.mu.Unlock()
		for address, stop := range running {
			if !wanted[address] {
				stop()
				delete(running, address)
			}
		}
		for address := range wanted {
			if running[address] == nil {
				hold, stop := context.WithCancel(ctx)
				running[address] = stop
				holders.Go(func() { c.hold(hold, address) })
			}
		}
		select {
		case <-ctx.Done():
			for _, stop := range running {
				stop()
			}
			return nil
		case <-c.changed:
		}
	}
}

// hold holds a session to one server, again and again, until ctx ends.
func (c *Client) hold(ctx context.Context, address string) {
	conn, err := grpc.NewClient(address, c.cfg.Dial...)
	if err != nil {
		c.cfg.Log.ErrorContext(ctx, "No session", "server", address, "err", err)
		return
	}
	defer func() { _ = conn.Close() }()
	var link *heartbeat.Link // it outlives its stream until the next one stands: while it does, others can tell the server that we live
	keep := func(next *heartbeat.Link) {
		if link != nil {
			link.Close()
		}
		link = next
	}
	defer func() { keep(nil) }()
	pause := firstRetry
	for ctx.Err() == nil {
		stood, err := c.once(ctx, conn, keep)
		if ctx.Err() != nil {
			return
		}
		if stood {
			pause = firstRetry
			c.cfg.Log.InfoContext(ctx, "Session lost", "server", address, "err", err)
		} else {
			c.cfg.Log.DebugContext(ctx, "No session", "server", address, "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause/2 + rand.N(pause)):
		}
		pause = min(2*pause, lastRetry)
		conn.ResetConnectBackoff()
	}
}

// once holds one session to its end, and reports whether it ever stood. Its link is given to keep.
func (c *Client) once(ctx context.Context, conn *grpc.ClientConn, keep func(*heartbeat.Link)) (stood bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := sessionpb.NewSessionServiceClient(conn).Hold(ctx)
	if err != nil {
		return false, err
	}
	s := &clientSession{client: c, stream: stream, out: make(chan *sessionpb.NodeMessage, maxCarries), carrying: make(chan struct{}, maxCarries)}
	limit := time.AfterFunc(helloLimit, func() { cancel(errSilent) })
	err = s.greet(ctx)
	limit.Stop()
	if err != nil {
		if s.link != nil {
			s.link.Close()
		}
		return false, err
	}
	keep(s.link)
	defer c.forget(s.server)
	watchdog := time.AfterFunc(aliveLimit, func() { cancel(errSilent) })
	defer watchdog.Stop()
	var sending sync.WaitGroup
	defer sending.Wait()
	defer cancel(nil)
	sending.Go(func() { s.send(ctx) })
	for {
		m, err := stream.Recv()
		if err != nil {
			if cause := context.Cause(ctx); errors.Is(cause, errSilent) {
				err = cause
			}
			return true, err
		}
		watchdog.Reset(aliveLimit)
		s.take(ctx, m)
	}
}

var errSilent = errors.New("the server said nothing for too long")

// clientSession is one session.
type clientSession struct {
	client   *Client
	stream   sessionpb.SessionService_HoldClient
	server   string
	link     *heartbeat.Link
	out      chan *sessionpb.NodeMessage
	carrying chan struct{}
}

// greet agrees on keys and begins to beat.
func (s *clientSession) greet(ctx context.Context) error {
	own, err := keyPair()
	if err != nil {
		return err
	}
	hello := &sessionpb.Hello{Node: s.client.cfg.Node, PublicKey: own.PublicKey().Bytes()}
	if p := s.client.cfg.Pulse; p != nil {
		if s.link, err = p.Reserve(); err != nil {
			return err
		}
		hello.HeartbeatPort, hello.Channel = uint32(p.Port()), s.link.Channel()
	}
	err = s.stream.Send(&sessionpb.NodeMessage{Message: &sessionpb.NodeMessage_Hello{Hello: hello}})
	var m *sessionpb.ServerMessage
	if err == nil {
		m, err = s.stream.Recv()
	}
	welcome := m.GetWelcome()
	if err == nil && welcome == nil {
		err = vortex.Errorf(vortex.Internal, "the server's first word was no welcome")
	}
	var up, down [pulse.KeySize]byte
	if err == nil {
		up, down, err = keys(own, welcome.GetPublicKey())
	}
	if err != nil {
		return err
	}
	s.server = welcome.GetServer()
	s.client.listen(s.server)
	host, ok := s.host()
	if s.link == nil || welcome.GetHeartbeatPort() == 0 || !ok {
		return nil
	}
	s.link.Start(heartbeat.Peer{
		Peer: heartbeat.Addr(host, welcome.GetHeartbeatPort()), Channel: welcome.GetChannel(),
		Send: true, Out: up, In: down, Interval: micros(welcome.GetIntervalUs()),
	}, nil)
	s.client.cfg.Log.DebugContext(ctx, "Session stands", "server", s.server)
	return nil
}

func micros(n uint64) time.Duration { return time.Duration(min(n, 1<<32)) * time.Microsecond } //nolint:gosec // bounded

// host is where the server is.
func (s *clientSession) host() (netip.Addr, bool) {
	p, ok := peer.FromContext(s.stream.Context())
	if !ok {
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddrPort(p.Addr.String())
	return addr.Addr(), err == nil
}

// send says that we live, and gives answers back.
func (s *clientSession) send(ctx context.Context) {
	ticker := time.NewTicker(aliveEvery)
	defer ticker.Stop()
	for {
		m := &sessionpb.NodeMessage{Message: &sessionpb.NodeMessage_Alive{Alive: &sessionpb.Alive{IntervalMs: uint64(aliveEvery.Milliseconds())}}}
		select {
		case <-ctx.Done():
			return
		case m = <-s.out:
		case <-ticker.C:
		}
		if s.stream.Send(m) != nil {
			return // receiving fails too, and says why
		}
	}
}

func (s *clientSession) take(ctx context.Context, m *sessionpb.ServerMessage) {
	switch m := m.GetMessage().(type) {
	case *sessionpb.ServerMessage_Pace:
		if s.link != nil {
			s.link.Pace(micros(m.Pace.GetIntervalUs()))
		}
	case *sessionpb.ServerMessage_Carry:
		select {
		case s.carrying <- struct{}{}:
			go func() {
				s.carry(ctx, m.Carry)
				<-s.carrying
			}()
		default: // others were asked too
		}
	case *sessionpb.ServerMessage_Opinion:
		s.client.learn(s.server, m.Opinion.GetNode(), m.Opinion.GetSilent())
	}
}

// carry takes a datagram to another node, and its answer back. It can read neither.
func (s *clientSession) carry(ctx context.Context, c *sessionpb.Carry) {
	answer, err := exchange(ctx, c.GetAddress(), c.GetDatagram())
	if err != nil {
		s.client.cfg.Log.DebugContext(ctx, "Nothing to carry back", "address", c.GetAddress(), "err", err)
		return
	}
	select {
	case s.out <- &sessionpb.NodeMessage{Message: &sessionpb.NodeMessage_Carried{Carried: &sessionpb.Carried{Id: c.GetId(), Datagram: answer}}}:
	case <-ctx.Done():
	}
}

func exchange(ctx context.Context, address string, datagram []byte) ([]byte, error) {
	if len(datagram) != pulse.DatagramSize {
		return nil, fmt.Errorf("a datagram of %d bytes", len(datagram))
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", address)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(carryTimeout)); err != nil {
		return nil, err
	}
	if _, err := conn.Write(datagram); err != nil {
		return nil, err
	}
	answer := make([]byte, pulse.DatagramSize)
	n, err := conn.Read(answer)
	return answer[:n], err
}

// listen counts a server among those that have opinions.
func (c *Client) listen(server string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.silent[server] = map[string]bool{}
}

// learn takes in a server's opinion.
func (c *Client) learn(server, node string, silent bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.majority(node)
	of := c.silent[server]
	if of == nil {
		return
	}
	delete(of, node)
	if silent {
		of[node] = true
	}
	c.told(node, was)
}

// forget forgets what a server thought, which it may think no more.
func (c *Client) forget(server string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	of := c.silent[server]
	was := map[string]bool{}
	for node := range of {
		was[node] = c.majority(node)
	}
	delete(c.silent, server)
	for node := range was {
		c.told(node, was[node])
	}
}

// majority reports whether more than half of the servers that have opinions take a node to be silent, with the mutex held.
func (c *Client) majority(node string) bool {
	n := 0
	for _, of := range c.silent {
		if of[node] {
			n++
		}
	}
	return 2*n > len(c.silent)
}

func (c *Client) told(node string, was bool) {
	if is := c.majority(node); is != was && c.cfg.Opinion != nil {
		c.cfg.Opinion(node, is)
	}
}
