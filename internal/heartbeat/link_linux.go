package heartbeat

import (
	"context"
	"sync/atomic"
	"time"

	"vortex"
	"vortex/internal/heartbeat/pulse"
)

// Peer is the other end of a link.
type Peer = pulse.Order

// Link is what is between this node and one peer. Use Pulse.Reserve.
type Link struct {
	pulse      *Pulse
	number     uint32
	generation uint32
	pings      chan []byte
	asked      atomic.Uint32
	changed    atomic.Pointer[func(State)]

	// Guarded by the pulse's mutex.
	started bool
	closed  bool
	peer    Peer
}

// Channel is what the peer has to call the link in its datagrams.
func (l *Link) Channel() uint32 { return l.number }

// Start begins to beat and to watch. Of the peer Peer, Channel, Send, Watch, Out, In and Interval count. changed is called
// with every new state, on a thread that must not be held up; nil is nobody.
func (l *Link) Start(peer Peer, changed func(State)) {
	if changed != nil {
		l.changed.Store(&changed)
	}
	l.pulse.mu.Lock()
	defer l.pulse.mu.Unlock()
	if l.closed {
		return
	}
	l.peer, l.started = peer, true
	l.pulse.order(l.add())
}

// add is the order that makes the link, with the pulse's mutex held.
func (l *Link) add() pulse.Order {
	o := l.peer
	o.Verb, o.Link, o.Generation = pulse.Add, l.number, l.generation
	o.OutSeq = l.pulse.runs << runShift
	if page := l.page(); page.Generation.Load() == l.generation {
		o.InSeq = page.Seq.Load()
	}
	return o
}

func (l *Link) page() *pulse.LinkPage { return &l.pulse.page.Links[l.number] }

// Pace changes the interval of our beats.
func (l *Link) Pace(interval time.Duration) {
	l.pulse.mu.Lock()
	defer l.pulse.mu.Unlock()
	l.peer.Interval = interval
	l.send(pulse.Order{Verb: pulse.Pace, Interval: interval})
}

// send sends an order about the link, with the pulse's mutex held.
func (l *Link) send(o pulse.Order) {
	if l.started && !l.closed {
		o.Link, o.Generation = l.number, l.generation
		l.pulse.order(o)
	}
}

// State is what is known of the peer now.
func (l *Link) State() State {
	page := l.page()
	if page.Generation.Load() != l.generation {
		return Unwatched
	}
	return State(page.State.Load())
}

// Silence is for how long the peer was not heard, directly or through others; ok is false before it ever was.
func (l *Link) Silence() (d time.Duration, ok bool) {
	page := l.page()
	last := max(page.Heard.Load(), page.Relayed.Load())
	if last == 0 || page.Generation.Load() != l.generation {
		return 0, false
	}
	return time.Duration(pulse.Now() - last), true
}

// Relayed is how long ago the peer last answered through others; ok is false when it did not since its last beat.
func (l *Link) Relayed() (ago time.Duration, ok bool) {
	page := l.page()
	last := page.Relayed.Load()
	return time.Duration(pulse.Now() - last), last > page.Heard.Load()
}

// Page is everything known of the link.
func (l *Link) Page() *pulse.LinkPage { return l.page() }

// Ask makes a ping that others may carry to the peer. Its answer is to be given to Carried.
func (l *Link) Ask(ctx context.Context) ([]byte, error) {
	select { // an earlier one that nobody waited for
	case <-l.pings:
	default:
	}
	l.pulse.mu.Lock()
	l.send(pulse.Order{Verb: pulse.Ask, Number: l.asked.Add(1)})
	l.pulse.mu.Unlock()
	select {
	case ping := <-l.pings:
		return ping, nil
	case <-ctx.Done():
		return nil, vortex.Errorf(vortex.Unavailable, "no ping was made: %w", ctx.Err())
	}
}

// Carried takes in a datagram of the peer that another node carried here.
func (l *Link) Carried(datagram []byte) {
	if len(datagram) != pulse.DatagramSize {
		return
	}
	l.pulse.mu.Lock()
	defer l.pulse.mu.Unlock()
	l.send(pulse.Order{Verb: pulse.Carried, Datagram: datagram})
}

// Close forgets the link; its number may be used again.
func (l *Link) Close() {
	l.pulse.mu.Lock()
	defer l.pulse.mu.Unlock()
	l.send(pulse.Order{Verb: pulse.Drop})
	if !l.closed {
		l.closed = true
		l.pulse.links[l.number] = nil
	}
}
