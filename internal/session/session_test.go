package session_test

import (
	"cmp"
	"context"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"flag"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"vortex"
	"vortex/internal/heartbeat"
	"vortex/internal/heartbeat/pulse"
	"vortex/internal/session"
	sessionpb "vortex/proto/session"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if as := strings.Split(*holdAs, ","); len(as) == 3 {
		if err := be(as[0], as[1], as[2]); err != nil {
			panic(err)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

var loopback = netip.MustParseAddr("127.0.0.1")

func listenTCP(tb testing.TB) net.Listener {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

// run runs a part until the test ends or stop is called.
func run(t *testing.T, part func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- part(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("a part failed: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func listen(t *testing.T) (p *heartbeat.Pulse, stop func()) {
	t.Helper()
	p, err := heartbeat.Listen(t.Context(), heartbeat.Config{Address: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return p, run(t, p.Run)
}

// server is a session server on a real socket.
type server struct {
	*session.Server

	address string
	mu      sync.Mutex
	seen    []session.Sight // of every node, in order
}

func serve(t *testing.T, name string, authorize func(context.Context, string) error) *server {
	t.Helper()
	p, _ := listen(t)
	l := listenTCP(t)
	s := &server{address: l.Addr().String()}
	s.Server = &session.Server{Name: name, Pulse: p, Authorize: authorize, Log: slog.New(slog.DiscardHandler), Changed: func(_ string, sight session.Sight) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.seen = append(s.seen, sight)
	}}
	run(t, s.Run)
	srv := grpc.NewServer()
	sessionpb.RegisterSessionServiceServer(srv, s.Server)
	run(t, func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, srv.Stop)
		defer stop()
		return srv.Serve(l)
	})
	return s
}

func (s *server) saw(state session.State) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.seen, func(x session.Sight) bool { return x.State == state })
}

// node is a node that holds sessions.
type node struct {
	kill   func() // ends its process
	freeze func() // ends its heartbeats alone
}

func join(t *testing.T, name string, opinion func(string, bool), servers ...*server) node {
	t.Helper()
	p, freeze := listen(t)
	c := session.NewClient(session.ClientConfig{
		Node: name, Pulse: p, Opinion: opinion, Log: slog.New(slog.DiscardHandler),
		Dial: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())},
	})
	var addresses []string
	for _, s := range servers {
		addresses = append(addresses, s.address)
	}
	c.SetServers(addresses)
	kill := run(t, c.Run)
	for _, s := range servers {
		eventually(t, s.Name+" hears "+name, is(s, name, session.Alive))
	}
	return node{func() { freeze(); kill() }, freeze}
}

func is(s *server, node string, want session.State) func() bool {
	return func() bool { return s.Node(node).State == want }
}

func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			tb.Fatalf("not within 30 s: %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

func TestProcessThatDiesIsKnownAtOnceAndConfirmedAndBack(t *testing.T) {
	s := serve(t, "s1", nil)
	n := join(t, "n1", nil, s)
	join(t, "n2", nil, s)
	n.kill()
	eventually(t, "its death is confirmed", is(s, "n1", session.Confirmed))
	if !s.saw(session.Ended) && !s.saw(session.Silent) {
		t.Error("it was never merely suspected")
	}
	if got := s.Node("n2").State; got != session.Alive {
		t.Errorf("n2 is %v", got)
	}
	join(t, "n1", nil, s)
}

func TestFrozenMachineIsSilentThoughItsStreamStands(t *testing.T) {
	s := serve(t, "s1", nil)
	n := join(t, "n1", nil, s)
	join(t, "n2", nil, s)
	beaten(t, s)
	n.freeze()
	eventually(t, "it is silent, and then confirmed", is(s, "n1", session.Confirmed))
	if !s.saw(session.Silent) || s.saw(session.Ended) {
		t.Error("it was not found by its silence")
	}
}

// beaten waits until heartbeats have come.
func beaten(t *testing.T, s *server) {
	t.Helper()
	eventually(t, "heartbeats come", func() bool {
		n := uint64(0)
		for i := range s.Pulse.Page().Links[:8] {
			n += s.Pulse.Page().Links[i].Beats.Load()
		}
		return n > 20
	})
}

func TestNodeMayNotSpeakForAnother(t *testing.T) {
	s := serve(t, "s1", func(_ context.Context, node string) error {
		if node != "n1" {
			return vortex.Errorf(vortex.Denied, "you are not %s", node)
		}
		return nil
	})
	join(t, "n1", nil, s)
	stream := dial(t, s)
	if err := stream.Send(hello("n2", key(t), 0, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err == nil {
		t.Error("a stranger got a session")
	}
	if got := s.Node("n2").State; got != session.Unknown {
		t.Errorf("n2 is %v", got)
	}
}

func TestSenselessFirstWordsAreRefused(t *testing.T) {
	s := serve(t, "s1", nil)
	for name, m := range map[string]*sessionpb.NodeMessage{
		"no hello":           {Message: &sessionpb.NodeMessage_Alive{Alive: &sessionpb.Alive{}}},
		"nothing":            {},
		"no name":            hello("", key(t), 0, 0),
		"no key":             {Message: &sessionpb.NodeMessage_Hello{Hello: &sessionpb.Hello{Node: "n"}}},
		"a key of all zeros": {Message: &sessionpb.NodeMessage_Hello{Hello: &sessionpb.Hello{Node: "n", PublicKey: make([]byte, 32)}}},
	} {
		stream := dial(t, s)
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err == nil {
			t.Errorf("%s: got a session", name)
		}
	}
}

func dial(t *testing.T, s *server) sessionpb.SessionService_HoldClient {
	t.Helper()
	conn, err := grpc.NewClient(s.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	stream, err := sessionpb.NewSessionServiceClient(conn).Hold(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func key(t *testing.T) *ecdh.PrivateKey {
	t.Helper()
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func hello(node string, k *ecdh.PrivateKey, port, channel uint32) *sessionpb.NodeMessage {
	return &sessionpb.NodeMessage{Message: &sessionpb.NodeMessage_Hello{Hello: &sessionpb.Hello{
		Node: node, PublicKey: k.PublicKey().Bytes(), HeartbeatPort: port, Channel: channel,
	}}}
}

func TestOldSessionsEndSaysNothingOfTheNewOne(t *testing.T) {
	s := serve(t, "s1", nil)
	first := dial(t, s)
	if err := first.Send(hello("n1", key(t), 0, 0)); err != nil {
		t.Fatal(err)
	}
	if m, err := first.Recv(); err != nil || m.GetWelcome().GetServer() != "s1" {
		t.Fatalf("the welcome: %v, %v", m, err)
	}
	join(t, "n1", nil, s)
	eventually(t, "the old stream is ended", func() bool { _, err := first.Recv(); return err != nil })
	if got := s.Node("n1").State; got != session.Alive || s.saw(session.Ended) {
		t.Errorf("n1 is %v", got)
	}
}

// beater is a node that beats, and whose session can be ended alone.
type beater struct {
	cut    *atomic.Bool // its heartbeats do not arrive
	leave  func()       // ends its stream
	freeze func()       // ends its heartbeats
}

// beat makes a node that answers pings at a port, 0 for where it beats from.
func beat(t *testing.T, s *server, name string, port uint32) beater {
	t.Helper()
	p, freeze := listen(t)
	link, err := p.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	own, stream := key(t), dial(t, s)
	if err := stream.Send(hello(name, own, cmp.Or(port, uint32(p.Port())), link.Channel())); err != nil {
		t.Fatal(err)
	}
	m, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	welcome := m.GetWelcome()
	public, err1 := ecdh.X25519().NewPublicKey(welcome.GetPublicKey())
	secret, err2 := own.ECDH(public)
	both, err3 := hkdf.Key(sha256.New, secret, nil, "vortex heartbeats", 2*pulse.KeySize)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	leave := func() {
		_ = stream.CloseSend()
		for err == nil { // the last word of a handler that has ended
			_, err = stream.Recv()
		}
	}
	b := beater{cut: &atomic.Bool{}, leave: leave, freeze: freeze}
	link.Start(heartbeat.Peer{
		Peer: gate(t, b.cut, welcome.GetHeartbeatPort()), Channel: welcome.GetChannel(), Send: true,
		Out: [pulse.KeySize]byte(both), In: [pulse.KeySize]byte(both[pulse.KeySize:]), Interval: 5 * time.Millisecond,
	}, nil)
	return b
}

// TestNodeBehindACutLinkLivesByWhatOthersSay has a node whose heartbeats to the server can be cut, and one that carries.
func TestNodeBehindACutLinkLivesByWhatOthersSay(t *testing.T) {
	s := serve(t, "s1", nil)
	n := beat(t, s, "n1", 0)
	join(t, "n2", nil, s)
	beaten(t, s)
	n.cut.Store(true)
	eventually(t, "it was suspected", func() bool { return s.saw(session.Silent) })
	eventually(t, "others reach it", is(s, "n1", session.Alive))
	n.freeze()
	eventually(t, "nobody reaches it", is(s, "n1", session.Confirmed))
}

func TestNodeWithoutASessionLivesByWhatOthersSay(t *testing.T) {
	s := serve(t, "s1", nil)
	n := beat(t, s, "n1", 0)
	join(t, "n2", nil, s)
	beaten(t, s)
	n.cut.Store(true)
	eventually(t, "it was suspected", func() bool { return s.saw(session.Silent) })
	n.leave()
	eventually(t, "others reach it after its session's end", is(s, "n1", session.Alive))
	n.freeze()
	eventually(t, "nobody reaches it", is(s, "n1", session.Confirmed))
}

// TestNodeThatHearsNobodyIsGivenUp has a node that beats, and answers no ping: nothing arrives there.
func TestNodeThatHearsNobodyIsGivenUp(t *testing.T) {
	s := serve(t, "s1", nil)
	deaf, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = deaf.Close() }()
	n := beat(t, s, "n1", uint32(deaf.LocalAddr().(*net.UDPAddr).Port))
	join(t, "n2", nil, s)
	beaten(t, s)
	n.leave()
	eventually(t, "nobody reaches it", is(s, "n1", session.Confirmed))
	beat(t, s, "n3", uint32(deaf.LocalAddr().(*net.UDPAddr).Port))
	eventually(t, "nobody reaches it, though its stream stands", is(s, "n3", session.Confirmed))
}

// gate returns an address that leads to a port while it is not cut.
func gate(t *testing.T, cut *atomic.Bool, port uint32) netip.AddrPort {
	t.Helper()
	to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port))
	in, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, _, err := in.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if !cut.Load() {
				_, _ = in.WriteToUDPAddrPort(buf[:n], to)
			}
		}
	})
	t.Cleanup(func() { _ = in.Close(); done.Wait() })
	return in.LocalAddr().(*net.UDPAddr).AddrPort()
}

func TestMostServersOpinionIsTold(t *testing.T) {
	s1, s2 := serve(t, "s1", nil), serve(t, "s2", nil)
	type told struct {
		node   string
		silent bool
	}
	opinions := make(chan told, 100)
	join(t, "edge", func(node string, silent bool) { opinions <- told{node, silent} }, s1, s2)
	onlyOne := join(t, "n1", nil, s1)
	onlyOne.kill()
	eventually(t, "one of two knows", is(s1, "n1", session.Confirmed))
	both := join(t, "n2", nil, s1, s2)
	both.kill()
	select {
	case got := <-opinions:
		if got != (told{"n2", true}) {
			t.Errorf("told %v", got)
		}
	case <-time.After(30 * time.Second):
		t.Error("nothing was told")
	}
}
