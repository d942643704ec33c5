package session

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc/peer"

	"vortex"
	"vortex/internal/heartbeat"
	sessionpb "vortex/proto/session"
)

// State is what a server knows of a node.
type State int

// The states.
const (
	Unknown   State = iota // it never held a session here
	Alive                  // it is heard, or answers through others
	Silent                 // it is not heard, though its stream stands
	Ended                  // its heartbeats said so or its stream ended: most likely its process did
	Confirmed              // Silent or Ended, and nobody else reaches it
)

func (s State) String() string {
	return [...]string{"unknown", "alive", "silent", "ended", "confirmed"}[s]
}

// Sight is what a server knows of a node, and why.
type Sight struct {
	State  State
	Reason string // for people; "" when it lives
}

// Server is the servers' side of sessions. Its fields may not be changed once it serves.
type Server struct {
	sessionpb.UnimplementedSessionServiceServer

	Name  string
	Pulse *heartbeat.Pulse // nil: only streams are watched
	// Authorize returns an error when the caller may not speak for the node; nil believes everybody.
	Authorize func(ctx context.Context, node string) error
	// Changed is told of every new sight, in order, from a thread that must not be held up; nil is nobody.
	Changed func(node string, s Sight)
	// ConfirmAfter is how long nobody may have reached a node; default 150 ms.
	ConfirmAfter time.Duration
	Log          *slog.Logger

	mu       sync.Mutex
	sessions map[string]*held
	wake     chan struct{}
	interval time.Duration
	carries  map[uint64]*held // whom the answers to pings are for
	next     uint64
}

// held is one node's session. The server's mutex guards what changes.
type held struct {
	node   string
	host   netip.Addr
	port   uint32
	out    chan *sessionpb.ServerMessage
	cancel context.CancelCauseFunc

	link     *heartbeat.Link // nil without heartbeats
	heard    time.Time       // when it last said something on the stream
	ended    bool
	left     time.Time // when it ended
	quiet    string    // why it is taken to be silent; "" when it is not
	sight    Sight
	checking bool      // others are asked about it
	since    time.Time // … from then on
	rounds   int       // … so many times
	again    time.Time // … next at this time
}

const (
	defaultConfirm = 150 * time.Millisecond
	askEvery       = 50 * time.Millisecond
	carriers       = 3 // nodes asked at a time to carry a ping
	// relayedFresh is how old an answer through others may be.
	relayedFresh = 300 * time.Millisecond
	lingering    = 10 * time.Second // a dead process's link is kept for, in case it was the stream alone
	// deafAfter is how long a node may be without a session and answer nobody though its heartbeats come: it sends, and hears nothing.
	deafAfter = 3 * time.Second
)

var (
	errReplaced = errors.New("the node holds a newer session")
	errSlow     = errors.New("the node takes nothing in")
)

// Hold implements the service.
func (s *Server) Hold(stream sessionpb.SessionService_HoldServer) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	received := make(chan *sessionpb.NodeMessage)
	failed := make(chan error, 1)
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case received <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	var hello *sessionpb.Hello
	select {
	case m := <-received:
		hello = m.GetHello()
	case err := <-failed:
		return closed(err)
	case <-time.After(helloLimit):
	}
	if hello.GetNode() == "" {
		return vortex.Errorf(vortex.Invalid, "a session begins with a hello that names the node")
	}
	h, err := s.begin(ctx, cancel, hello)
	if err != nil {
		return err
	}
	defer s.end(h)
	return s.serve(ctx, stream, h, received, failed)
}

// closed is why the node's side of a stream ended, nil when it was closed in order.
func closed(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// serve passes messages on until the stream ends.
func (s *Server) serve(ctx context.Context, stream sessionpb.SessionService_HoldServer, h *held, received <-chan *sessionpb.NodeMessage, failed <-chan error) error {
	alive := time.NewTicker(aliveEvery)
	defer alive.Stop()
	for {
		select {
		case <-ctx.Done():
			return vortex.Errorf(vortex.Unavailable, "the session ended: %w", context.Cause(ctx))
		case err := <-failed:
			return closed(err)
		case m := <-received:
			s.take(h, m)
		case m := <-h.out:
			if err := stream.Send(m); err != nil {
				return err
			}
		case <-alive.C:
			m := &sessionpb.ServerMessage{Message: &sessionpb.ServerMessage_Alive{Alive: &sessionpb.Alive{IntervalMs: uint64(aliveEvery.Milliseconds())}}}
			if err := stream.Send(m); err != nil {
				return err
			}
			s.checkStream(h)
		}
	}
}

// begin makes a node's session, in the place of its earlier one.
func (s *Server) begin(ctx context.Context, cancel context.CancelCauseFunc, hello *sessionpb.Hello) (*held, error) {
	if s.Authorize != nil {
		if err := s.Authorize(ctx, hello.GetNode()); err != nil {
			return nil, err
		}
	}
	h := &held{
		node: hello.GetNode(), host: hostOf(ctx), port: hello.GetHeartbeatPort(),
		out: make(chan *sessionpb.ServerMessage, queueSize), cancel: cancel, heard: time.Now(),
	}
	own, err := keyPair()
	if err != nil {
		return nil, err
	}
	up, down, err := keys(own, hello.GetPublicKey())
	if err != nil {
		return nil, err
	}
	welcome := &sessionpb.Welcome{Server: s.Name, PublicKey: own.PublicKey().Bytes()}
	if s.Pulse != nil && h.port != 0 && h.host.IsValid() {
		if h.link, err = s.Pulse.Reserve(); err != nil {
			return nil, err
		}
		welcome.HeartbeatPort, welcome.Channel = uint32(s.Pulse.Port()), h.link.Channel()
	}
	s.waker()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions == nil {
		s.sessions, s.carries = map[string]*held{}, map[uint64]*held{}
	}
	old := s.sessions[h.node]
	if old != nil {
		h.sight = old.sight
		old.cancel(errReplaced)
		old.drop()
	}
	s.sessions[h.node] = h
	s.pace(h)
	welcome.IntervalUs = uint64(s.interval.Microseconds())
	h.out <- &sessionpb.ServerMessage{Message: &sessionpb.ServerMessage_Welcome{Welcome: welcome}}
	for _, other := range s.sessions {
		if other.sight.State > Alive {
			h.tell(opinion(other.node, true))
		}
	}
	s.see(h)
	if h.link != nil {
		link := h.link
		// Its own thread calls back, never this one: the mutex is held here.
		link.Start(heartbeat.Peer{
			Peer: heartbeat.Addr(h.host, h.port), Channel: hello.GetChannel(), Watch: true, Out: down, In: up, Interval: s.interval,
		}, func(heartbeat.State) { s.beats(h) })
	}
	return h, nil
}

// hostOf is where the node of a stream is; invalid for one that came over no network.
func hostOf(ctx context.Context) netip.Addr {
	if p, ok := peer.FromContext(ctx); ok {
		if addr, err := netip.ParseAddrPort(p.Addr.String()); err == nil {
			return addr.Addr().Unmap()
		}
	}
	return netip.Addr{}
}

func (h *held) drop() {
	if h.link != nil {
		h.link.Close()
		h.link = nil
	}
}

// tell queues a message. A node that takes none in loses its session, so that it begins anew with all that counts.
func (h *held) tell(m *sessionpb.ServerMessage) {
	select {
	case h.out <- m:
	default:
		h.cancel(errSlow)
	}
}

func opinion(node string, silent bool) *sessionpb.ServerMessage {
	return &sessionpb.ServerMessage{Message: &sessionpb.ServerMessage_Opinion{Opinion: &sessionpb.Opinion{Node: node, Silent: silent}}}
}

// pace makes the interval fit the number of sessions, with the mutex held; but says nothing of it to a session that just begins.
func (s *Server) pace(but *held) {
	live := 0
	for _, h := range s.sessions {
		if !h.ended {
			live++
		}
	}
	interval := heartbeat.Interval(live)
	if s.interval != 0 && interval < s.interval*5/4 && interval > s.interval*4/5 {
		return
	}
	s.interval = interval
	for _, h := range s.sessions {
		if h != but && !h.ended {
			h.tell(&sessionpb.ServerMessage{Message: &sessionpb.ServerMessage_Pace{Pace: &sessionpb.Pace{IntervalUs: uint64(interval.Microseconds())}}})
		}
	}
}

// end notes that a session's stream has ended.
func (s *Server) end(h *held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[h.node] != h {
		return
	}
	h.ended, h.left = true, time.Now()
	s.see(h)
	if h.sight.State == Confirmed {
		s.linger(h) // it was silent before
	}
	s.pace(nil)
}

// beats is called when the state of a session's heartbeats has changed.
func (s *Server) beats(h *held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[h.node] == h {
		s.see(h)
	}
}

// take takes in a message.
func (s *Server) take(h *held, m *sessionpb.NodeMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h.heard = time.Now()
	if h.quiet != "" {
		h.quiet = ""
		s.see(h)
	}
	if carried := m.GetCarried(); carried != nil {
		about := s.carries[carried.GetId()]
		delete(s.carries, carried.GetId())
		if about != nil && about.link != nil {
			about.link.Carried(carried.GetDatagram())
		}
	}
}

// checkStream judges a node by its stream: where no heartbeat has ever come through, and where they come and nothing else does.
func (s *Server) checkStream(h *held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit, but := aliveLimit, "heartbeats do not reach this server"
	if h.link != nil && h.link.State() != heartbeat.Unheard {
		limit, but = aliveLimit+deafAfter, "it seems to hear nobody"
	}
	if silence := time.Since(h.heard); h.quiet == "" && silence > limit {
		h.quiet = "nothing came on its stream for " + silence.Round(time.Second).String() + ", and " + but
		s.see(h)
	}
}

// see judges a node anew and tells what changed, with the mutex held.
func (s *Server) see(h *held) {
	sight := h.judge()
	if (sight.State > Alive || h.unheard()) && !h.checking {
		h.checking, h.since, h.rounds, h.again = true, time.Now(), 0, time.Time{}
		s.signal()
	}
	s.put(h, sight)
}

// put tells a sight when it is a new one, with the mutex held.
func (s *Server) put(h *held, sight Sight) {
	before := h.sight
	if before == sight {
		return
	}
	h.sight = sight
	if s.Changed != nil {
		s.Changed(h.node, sight)
	}
	if was, is := before.State > Alive, sight.State > Alive; was != is {
		for _, other := range s.sessions {
			if !other.ended && other != h {
				other.tell(opinion(h.node, is))
			}
		}
	}
}

// judge is what to think of a node, its confirmation left out.
func (h *held) judge() Sight {
	state := heartbeat.Unwatched
	if h.link != nil {
		state = h.link.State()
	}
	confirmed := h.sight.State == Confirmed
	sight := Sight{State: Alive}
	switch {
	case state == heartbeat.Ended, h.ended && !h.reached():
		sight = Sight{Ended, "its process ended"}
	case state == heartbeat.Silent && !h.reached():
		sight = Sight{Silent, "its heartbeats stopped"}
	case state == heartbeat.Hung:
		sight = Sight{Silent, "its process runs but does nothing"}
	case h.quiet != "" && !h.reached():
		sight = Sight{Silent, h.quiet}
	}
	if confirmed && sight.State > Alive {
		return Sight{Confirmed, h.sight.Reason}
	}
	return sight
}

// returns reports whether a node whose stream has ended lives, and will hold a session again.
func (h *held) returns() bool {
	beats := h.link != nil && h.link.State() == heartbeat.Alive && time.Since(h.left) < deafAfter
	return beats || h.reached()
}

// reached reports whether the node answered through others lately.
func (h *held) reached() bool {
	if h.link == nil {
		return false
	}
	ago, ok := h.link.Relayed()
	return ok && ago < relayedFresh
}

// Run asks others about the nodes that are not heard, until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	wake := s.waker()
	for {
		wait := s.round(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		case <-time.After(wait):
		}
	}
}

// waker returns what is signalled when there is somebody to ask about.
func (s *Server) waker() chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wake == nil {
		s.wake = make(chan struct{}, 1)
	}
	return s.wake
}

// signal wakes Run, with the mutex held.
func (s *Server) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// round judges every node that is not heard, asks about those whose turn it is, and returns when it is anybody's again.
func (s *Server) round(ctx context.Context) time.Duration {
	ctx, cancel := context.WithTimeout(ctx, askEvery)
	defer cancel()
	now := time.Now()
	next := now.Add(time.Hour)
	var due []*held
	s.mu.Lock()
	for _, h := range s.sessions {
		if h.checking && !h.again.After(now) {
			over := h.rounds > 2 && now.Sub(h.since) > cmp.Or(s.ConfirmAfter, defaultConfirm)
			h.checking = s.check(h, over)
			h.rounds++
			h.again = now.Add(askEvery)
			if over {
				h.again = now.Add(relayedFresh / 2)
			}
			if h.checking {
				due = append(due, h)
			}
		}
		if h.checking && h.again.Before(next) {
			next = h.again
		}
	}
	s.mu.Unlock()
	for _, h := range due {
		s.ask(ctx, h)
	}
	return time.Until(next)
}

// check judges a node between questions, with the mutex held, and reports whether more are needed. over is that enough were asked.
func (s *Server) check(h *held, over bool) (more bool) {
	s.see(h)
	switch {
	case h.ended && h.returns():
		return true
	case h.sight.State == Alive:
		return h.unheard()
	case h.sight.State != Confirmed && over:
		s.put(h, Sight{Confirmed, h.sight.Reason + "; nobody else reaches it"})
		s.linger(h)
	}
	return !h.ended || h.link != nil || h.sight.State != Confirmed
}

// linger closes the link of a process that is dead after a while, with the mutex held.
func (s *Server) linger(h *held) {
	if h.ended {
		time.AfterFunc(lingering, func() { s.forgetLink(h) })
	}
}

// unheard reports whether the node lives by what others say alone.
func (h *held) unheard() bool { return h.link != nil && h.link.State() == heartbeat.Silent }

// forgetLink closes the link of a session that ended for good.
func (s *Server) forgetLink(h *held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.ended && h.sight.State == Confirmed {
		h.drop()
	}
}

// ask has some other nodes carry a ping to a node.
func (s *Server) ask(ctx context.Context, h *held) {
	s.mu.Lock()
	link := h.link
	s.mu.Unlock()
	if link == nil {
		return
	}
	ping, err := link.Ask(ctx)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var able []*held
	for _, other := range s.sessions {
		if other != h && other.sight.State == Alive && !other.ended {
			able = append(able, other)
		}
	}
	rand.Shuffle(len(able), func(i, j int) { able[i], able[j] = able[j], able[i] })
	to := net.JoinHostPort(h.host.String(), strconv.FormatUint(uint64(h.port), 10))
	for _, other := range able[:min(carriers, len(able))] {
		s.next++
		id := s.next
		s.carries[id] = h
		time.AfterFunc(relayedFresh, func() { s.forget(id) })
		other.tell(&sessionpb.ServerMessage{Message: &sessionpb.ServerMessage_Carry{Carry: &sessionpb.Carry{Id: id, Address: to, Datagram: ping}}})
	}
}

func (s *Server) forget(carry uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.carries, carry)
}

// Node is what is known of a node now.
func (s *Server) Node(name string) Sight {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.sessions[name]; h != nil {
		return h.sight
	}
	return Sight{}
}
