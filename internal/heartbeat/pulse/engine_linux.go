package pulse

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// Config is what an engine runs on. It does not own the descriptors.
type Config struct {
	Socket  int // UDP, not blocking
	Urgent  int // the same for what Urgent says, and looked at when something comes; -1 is none
	Control int // SOCK_SEQPACKET, not blocking; its end is the engine's
	Page    *Page
	Parent  int  // the process whose stop is ours too; 0 is none
	Inside  bool // it is a thread of a larger process, which no priority makes punctual
}

// link is one peer.
type link struct {
	used        bool
	send, watch bool
	generation  uint32
	channel     uint32 // the peer's name for it
	to          sockaddr
	out         sealer
	in          opener
	interval    int64
	due         int64 // when the next beat goes
	beats       uint32
	detector    detector
	state       State
	since       int64 // of the silence
	echo        uint32
	heard       uint32 // the number of the peer's last beat
	untold      bool   // the parent has not been told of the state
	parent      int64
	ended       bool // it said so
}

// engine is the loop. Nothing in it waits but wait.
type engine struct {
	Config

	ipv6     bool
	links    []link
	top      int // links beyond it are unused
	ticks    int64
	planned  int64 // when this round was to begin
	stall    int64 // the longest lateness since the last beats went
	flags    uint32
	proc     int // the parent's state in /proc; -1 is none
	looked   int64
	stopped  bool  // the parent is
	thread   int   // a descriptor of the parent's thread, whose end is the parent's; -1 is none
	told     int64 // its id, as the parent told it
	inbox    inbox
	outgoing [DatagramSize]byte
	order    [orderSize]byte
	report   [MaxReport]byte
	poll     [3]unix.PollFd
}

const (
	shortestTick = int64(2500 * time.Microsecond)
	longestTick  = int64(10 * time.Millisecond)
	lateLimit    = int64(5 * time.Millisecond)
	// shortestInterval bounds what a parent may ask for.
	shortestInterval = int64(time.Millisecond)
	recentPings      = 8 // whose answers count
	lookEvery        = int64(5 * time.Millisecond)
	// hungAfter is how long a peer's parent may be silent: a busy machine delays a process without priority by 0.3 s.
	hungAfter = int64(3 * time.Second)
	// panicWindow is how young silences are that count as one: what has been silent for longer is known to be gone. Those that are held stay
	// so for as long as they are more than half.
	panicWindow = int64(time.Second)
)

// Run beats and watches until the control socket ends.
func Run(c Config) error {
	e := &engine{Config: c, links: make([]link, MaxLinks), ticks: longestTick, proc: -1, thread: -1}
	addr, err := unix.Getsockname(c.Socket)
	if err != nil {
		return err
	}
	_, e.ipv6 = addr.(*unix.SockaddrInet6)
	e.inbox.init()
	if c.Parent != 0 {
		e.proc = openStat(c.Parent)
		defer func() { _ = errors.Join(unix.Close(e.proc), unix.Close(e.thread)) }()
	}
	priority := raise(!c.Inside)
	if priority == RealTime {
		e.flags |= flagRealTime
	}
	c.Page.Priority.Store(priority)
	c.Page.Started.Store(now())
	e.planned = now()
	for {
		if err := e.round(); err != nil {
			if errors.Is(err, errEnd) {
				e.farewell()
				return nil
			}
			return err
		}
	}
}

// errEnd is that the parent has ended.
var errEnd = errors.New("the parent has ended")

// round does everything that is due, and waits for the next time something is.
func (e *engine) round() error {
	t := now()
	late := max(t-e.planned, 0)
	clean := late <= lateLimit
	e.stall = max(e.stall, late)
	e.Page.Rounds.Add(1)
	if !clean {
		e.Page.Stalls.Add(1)
		e.Page.WorstStall.Store(max(e.Page.WorstStall.Load(), late))
	}
	e.look(t)
	if !e.stopped {
		e.beat(t)
	}
	e.receive(t, clean)
	if !clean {
		for i := range e.links[:e.top] {
			e.links[i].detector.excuse(late)
		}
	}
	e.judge(t)
	e.planned = e.next(now())
	return e.wait()
}

// next is when something is due again.
func (e *engine) next(t int64) int64 {
	at := t + longestTick
	if e.stopped {
		at = t + lookEvery
	}
	for i := range e.links[:e.top] {
		l := &e.links[i]
		if !l.used {
			continue
		}
		if l.send && !e.stopped {
			at = min(at, max(l.due, t))
		}
		if l.watch {
			at = min(at, t+e.ticks)
		}
	}
	return at
}

// wait returns when it is time, having done what the parent asked for meanwhile.
func (e *engine) wait() error {
	urgent := e.Urgent
	for {
		left := e.planned - now()
		ts := unix.NsecToTimespec(max(left, 0))
		for i, fd := range [...]int{e.Control, e.thread, urgent} {
			e.poll[i] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN} //nolint:gosec // a descriptor
		}
		n, err := unix.Ppoll(e.poll[:], &ts, nil)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n > 0 && err == nil {
			if urgent, err = e.answer(urgent); err != nil {
				return err
			}
			continue
		}
		if now() >= e.planned {
			return nil
		}
	}
}

// answer does what the poll has found to do, and returns what to look at for what is urgent from now on.
func (e *engine) answer(urgent int) (then int, err error) {
	if e.poll[0].Revents != 0 {
		if err := e.obey(); err != nil {
			return urgent, err
		}
	}
	if e.poll[1].Revents != 0 {
		return urgent, errEnd
	}
	if e.poll[2].Revents != 0 && !e.hasten() {
		return -1, nil // until the next round: strangers may not keep us awake
	}
	return urgent, nil
}

// hasten takes in what is urgent, after all that came before it, and reports whether any of it was from a peer.
func (e *engine) hasten() bool {
	t, refused := now(), e.Page.Refused.Load()
	e.receive(t, true)
	n := e.inbox.fill(e.Urgent)
	for i := range n {
		d, from := e.inbox.at(i)
		e.take(t, true, d, from)
	}
	return e.Page.Refused.Load() == refused
}

// farewell tells every peer that the parent has ended. One that does not get it finds out by the silence.
func (e *engine) farewell() {
	t := now()
	for i := range e.links[:e.top] {
		if l := &e.links[i]; l.used && l.send && !e.Inside {
			e.sendTo(&l.to, l.out.seal(e.outgoing[:0], kindBye, l.channel, e.body(l, t)))
		}
	}
}

// beat sends what is due. Beats that were missed are not made up for.
func (e *engine) beat(t int64) {
	sent := false
	for i := range e.links[:e.top] {
		l := &e.links[i]
		if !l.used || !l.send || l.due > t {
			continue
		}
		l.beats++
		b := e.body(l, t)
		b.echo, b.stall = l.beats, max(b.stall, t-l.due)
		if l.due += l.interval; l.due <= t {
			l.due = t + l.interval
		}
		e.sendTo(&l.to, l.out.seal(e.outgoing[:0], kindBeat, l.channel, b))
		sent = true
	}
	if sent {
		e.stall = 0
	}
}

func (e *engine) body(l *link, t int64) body {
	return body{interval: l.interval, stall: e.stall, parent: t - e.Page.Touched.Load(), flags: e.flags}
}

// receive takes in every datagram that has come.
func (e *engine) receive(t int64, clean bool) {
	for {
		n := e.inbox.fill(e.Socket)
		for i := range n {
			d, from := e.inbox.at(i)
			e.take(t, clean, d, from)
		}
		if n < inboxSize {
			return
		}
	}
}

// take takes in one datagram; from is nil for one that another node carried here.
func (e *engine) take(t int64, clean bool, d []byte, from *sockaddr) {
	channel, kind, err := channelOf(d)
	if err != nil || channel >= MaxLinks || !e.links[channel].used {
		e.Page.Refused.Add(1)
		return
	}
	l := &e.links[channel]
	b, err := l.in.open(d)
	if err != nil {
		e.Page.Refused.Add(1)
		return
	}
	page := &e.Page.Links[channel]
	page.Seq.Store(l.in.seq)
	switch {
	case from == nil:
		if kind == kindPong && l.echo-b.echo < recentPings {
			page.Relayed.Store(t)
		}
	case kind == kindPing && !e.stopped:
		answer := e.body(l, t)
		answer.echo = b.echo
		e.sendTo(from, l.out.seal(e.outgoing[:0], kindPong, l.channel, answer))
	case !l.watch:
	case kind == kindBye && l.detector.last != 0:
		l.ended = true
		e.publish(channel, l, Ended)
	case kind == kindBeat:
		e.hear(l, page, t, clean, b)
	}
}

// hear takes in a beat.
func (e *engine) hear(l *link, page *LinkPage, t int64, clean bool, b body) {
	lost := l.lost(b.echo)
	l.detector.grain = e.ticks
	l.detector.beat(t, b, lost, clean)
	l.parent, l.ended = b.parent, false
	e.faster(l.detector.interval)
	page.Heard.Store(t)
	page.Beats.Add(1)
	page.Lost.Add(lost)
	if b.stall > page.Stall.Load() {
		page.Stall.Store(b.stall)
	}
}

// lost returns how many beats before the one of a number did not come. One out of order is none.
func (l *link) lost(number uint32) uint64 {
	before := l.heard
	l.heard = number
	if before == 0 || number <= before {
		return 0
	}
	return uint64(number - before - 1)
}

// faster makes rounds so short that a beat of an interval is looked for in time.
func (e *engine) faster(interval int64) {
	e.ticks = min(e.ticks, max(interval/2, shortestTick))
}

// judge publishes the states that changed.
func (e *engine) judge(t int64) {
	counted, fresh := 1, 0 // ourselves
	for i := range e.links[:e.top] {
		l := &e.links[i]
		if !l.used || !l.watch || l.detector.last == 0 || l.ended {
			continue
		}
		if !l.detector.silent(t) {
			l.since = 0
			counted++
			continue
		}
		if l.since == 0 {
			l.since = t
		}
		if t-l.since < panicWindow || l.state == Held {
			counted++
			fresh++
		}
	}
	panicking := counted > 2 && 2*fresh > counted
	e.Page.Panicking.Store(0)
	if panicking {
		e.Page.Panicking.Store(1)
	}
	for i := range e.links[:e.top] {
		l := &e.links[i]
		if l.used && l.watch {
			e.publish(uint32(i), l, l.judged(t, panicking)) //nolint:gosec // below MaxLinks
		}
	}
}

func (l *link) judged(t int64, panicking bool) State {
	switch {
	case l.detector.last == 0:
		return Unheard
	case l.ended:
		return Ended
	case l.since != 0 && panicking && (t-l.since < panicWindow || l.state == Held):
		return Held
	case l.since != 0:
		return Silent
	case l.parent > hungAfter:
		return Hung
	}
	return Alive
}

// publish writes a link's state to the page, and tells the parent when it is new.
func (e *engine) publish(n uint32, l *link, s State) {
	page := &e.Page.Links[n]
	if s != l.state {
		l.state, l.untold = s, true
		page.State.Store(uint32(s))
		page.Changed.Store(now())
		if s == Silent {
			page.Suspicions.Add(1)
		}
		page.Timeout.Store(l.detector.timeout())
	}
	if l.untold {
		l.untold = !e.tell(Report{Link: n, Generation: l.generation, State: s})
	}
}

// tell sends a report, and reports whether the parent had room for it.
func (e *engine) tell(r Report) bool {
	err := unix.Send(e.Control, r.append(e.report[:0]), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	return !errors.Is(err, unix.EAGAIN)
}

// obey does what the parent has asked for.
func (e *engine) obey() error {
	for {
		n, _, err := unix.Recvfrom(e.Control, e.order[:], unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil || n == 0:
			return errEnd
		}
		if o, ok := parseOrder(e.order[:n]); ok {
			e.do(o)
		}
	}
}

func (e *engine) do(o Order) {
	l := &e.links[o.Link]
	if o.Verb != Add && (!l.used || l.generation != o.Generation) {
		return
	}
	switch o.Verb {
	case Add:
		e.add(o)
	case Drop:
		*l = link{}
		e.Page.Links[o.Link].State.Store(uint32(Unwatched))
		e.settleTicks()
	case Pace:
		l.interval = max(int64(o.Interval), shortestInterval)
		l.due = min(l.due, now()+l.interval)
	case Ask:
		l.echo = o.Number
		ping := body{echo: o.Number}
		e.tell(Report{Link: o.Link, Generation: l.generation, State: l.state, Ping: l.out.seal(e.outgoing[:0], kindPing, l.channel, ping)})
	case Carried:
		t := now()
		e.receive(t, true) // what the peer sent before it answered has come before, and counts
		e.take(t, true, o.Datagram, nil)
	}
}

func (e *engine) add(o Order) {
	out, err1 := newAEAD(o.Out)
	in, err2 := newAEAD(o.In)
	if err1 != nil || err2 != nil {
		return // keys have the right size
	}
	t := now()
	e.links[o.Link] = link{
		used: true, send: o.Send, watch: o.Watch, generation: o.Generation, channel: o.Channel, to: newSockaddr(o.Peer, e.ipv6),
		interval: max(int64(o.Interval), shortestInterval), due: t,
	}
	l := &e.links[o.Link]
	l.out.aead, l.in.aead = out, in
	l.out.seq = o.OutSeq
	l.in.resume(o.InSeq)
	e.top = max(e.top, int(o.Link)+1)
	page := &e.Page.Links[o.Link]
	page.Heard.Store(0)
	page.Relayed.Store(0)
	page.Stall.Store(0)
	page.State.Store(uint32(Unwatched))
	page.Generation.Store(o.Generation)
	if l.watch {
		e.publish(o.Link, l, Unheard)
	}
	e.settleTicks()
}

// settleTicks finds anew how often to look.
func (e *engine) settleTicks() {
	e.ticks = longestTick
	for i := range e.links[:e.top] {
		if l := &e.links[i]; l.used && l.watch && l.detector.interval > 0 {
			e.faster(l.detector.interval)
		}
	}
}

// look finds out whether the parent was stopped, which nothing that it does could tell.
func (e *engine) look(t int64) {
	if e.proc < 0 || t-e.looked < lookEvery {
		return
	}
	e.looked = t
	if id := e.Page.Thread.Load(); id != e.told {
		e.told, e.thread = id, openThread(int(id))
	}
	e.stopped = stoppedNow(e.proc, e.order[:])
}
