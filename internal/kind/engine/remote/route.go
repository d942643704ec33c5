package remote

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"vortex"
)

const (
	firstRedial = 50 * time.Millisecond // before a server that did not answer is tried again; doubled each time, and jittered
	lastRedial  = time.Second
)

// route is the way to the servers: the link in use and a warm one.
type route struct {
	cfg  Config
	poke chan struct{} // one slot: something has to be done

	mu      sync.Mutex
	peers   []*peer
	used    *link         // nil while no server answers
	spare   *link         // nil while there is no other
	changed chan struct{} // closed when another link is used, or none any more
	failed  error         // why the last connection could not be made
}

// peer is a server by its address.
type peer struct {
	addr     string
	link     *link // nil while there is none
	dialing  bool
	failures int
	rest     time.Time // it is not tried before
}

func newRoute(cfg Config) *route {
	r := &route{cfg: cfg, poke: make(chan struct{}, 1), changed: make(chan struct{})}
	r.use(cfg.Servers)
	return r
}

// use replaces the servers. Whoever starts begins with another one, so that they share the load.
func (r *route) use(servers []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var peers []*peer
	for _, addr := range servers {
		at := slices.IndexFunc(r.peers, func(p *peer) bool { return p.addr == addr })
		switch {
		case slices.ContainsFunc(peers, func(p *peer) bool { return p.addr == addr }):
		case at >= 0:
			peers = append(peers, r.peers[at])
		default:
			peers = append(peers, &peer{addr: addr})
		}
	}
	if len(r.peers) == 0 {
		rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
	}
	for _, p := range r.peers {
		if p.link != nil && !slices.Contains(peers, p) {
			p.link.cut(errUnused)
		}
	}
	r.peers = peers
	signal(r.poke)
}

// now returns the link in use, nil while there is none, and what is closed when that changes.
func (r *route) now() (*link, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.used, r.changed
}

// await returns the link in use as soon as there is one.
func (r *route) await(ctx context.Context) (*link, error) {
	for {
		l, changed := r.now()
		if l != nil {
			return l, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-changed:
		}
	}
}

// away is the error while no server answers.
func (r *route) away() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	addrs := make([]string, len(r.peers))
	for i, p := range r.peers {
		addrs[i] = p.addr
	}
	return &vortex.Error{
		Kind: vortex.Unavailable, Err: r.failed,
		Msg: "no server answers at " + strings.Join(addrs, ", ") + ": nothing can be changed until one does; retry",
	}
}

// first waits for the first server that answers. It is no use to wait when all of them refuse us.
func (r *route) first(ctx context.Context) error {
	look := time.NewTicker(firstRedial)
	defer look.Stop()
	for {
		l, changed := r.now()
		if l != nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return r.away()
		case <-changed:
		case <-look.C:
			if err := r.refused(); err != nil {
				return err
			}
		}
	}
}

// refused is what the servers have against us, nil while one of them may still take us.
func (r *route) refused() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	untried := func(p *peer) bool { return p.failures == 0 }
	if r.failed == nil || slices.ContainsFunc(r.peers, untried) {
		return nil
	}
	err := classify(context.Background(), "connect", r.failed)
	if vortex.IsKind(err, vortex.Unauthenticated) || vortex.IsKind(err, vortex.Denied) {
		return err
	}
	return nil
}

// run connects to servers until ctx ends.
func (r *route) run(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	defer r.close()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		due, next := r.due(time.Now())
		for _, p := range due {
			work.Go(func() { r.serve(ctx, p) })
		}
		timer.Reset(next)
		select {
		case <-ctx.Done():
		case <-r.poke:
		case <-timer.C:
		}
	}
}

// due returns the servers to connect to now, and when to look again. While none is in use all are tried at once, and the first that
// answers is; else one more is kept warm.
func (r *route) due(now time.Time) (due []*peer, next time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	wanted := 2
	if r.used == nil {
		wanted = len(r.peers)
	}
	for _, p := range r.peers {
		if p.link != nil || p.dialing {
			wanted--
		}
	}
	next = time.Hour
	for _, p := range r.peers {
		if p.link != nil || p.dialing || wanted <= 0 {
			continue
		}
		if wait := p.rest.Sub(now); wait > 0 {
			next = min(next, wait)
			continue
		}
		p.dialing = true
		wanted--
		due = append(due, p)
	}
	return due, next
}

// serve connects to a server, and tends the connection until it breaks or is not needed.
func (r *route) serve(ctx context.Context, p *peer) {
	l, err := dial(ctx, r.cfg, p.addr)
	if err != nil {
		r.missed(ctx, p, err)
		return
	}
	defer func() { _ = l.conn.Close() }()
	l.ctx, l.cut = context.WithCancelCause(ctx)
	if !r.joined(p, l) {
		l.cut(errUnused)
		return
	}
	err = l.tend(r)
	l.cut(err)
	r.left(ctx, p, l, err)
}

// missed notes that a server could not be connected to.
func (r *route) missed(ctx context.Context, p *peer, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p.dialing = false
	p.later()
	if ctx.Err() == nil {
		r.failed = err
	}
	signal(r.poke)
}

// later puts the next try off. The caller holds the lock.
func (p *peer) later() {
	wait := min(firstRedial<<min(p.failures, 10), lastRedial)
	p.failures++
	p.rest = time.Now().Add(wait/2 + rand.N(wait))
}

// joined takes in a link, unless two are there already.
func (r *route) joined(p *peer, l *link) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	p.dialing = false
	defer signal(r.poke)
	switch {
	case !slices.Contains(r.peers, p):
		return false
	case r.used == nil:
		r.change(l)
	case r.spare == nil && !l.stale.Load() && r.used.stale.Load():
		r.spare = r.used
		r.change(l)
	case r.spare == nil:
		r.spare = l
	default:
		return false
	}
	p.link = l
	return true
}

// change puts another link, or none, in use. The caller holds the lock.
func (r *route) change(l *link) {
	r.used = l
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *route) isSpare(l *link) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.spare == l
}

// left forgets a link that broke.
func (r *route) left(ctx context.Context, p *peer, l *link, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p.link, p.failures = nil, 0 // it answered: it may be back at once
	p.later()
	switch l {
	case r.spare:
		r.spare = nil
	case r.used:
		next := r.spare
		r.spare = nil
		r.change(next)
		if next != nil {
			next.expect()
		}
		if ctx.Err() == nil && !errors.Is(why, errUnused) {
			r.failed = why
			r.cfg.Log.WarnContext(ctx, "Server lost", "server", p.addr, "next", addrOf(next), "err", why)
		}
	}
	signal(r.poke)
}

// late is told that the server of a link has not answered as soon as it uses to. If the other server answers meanwhile, it is
// the one to use; if that is late as well, it may be us who stand still, and nothing changes.
func (r *route) late(l *link) {
	r.mu.Lock()
	spare := r.spare
	r.mu.Unlock()
	if spare == nil || spare == l {
		return
	}
	asked := time.Now()
	go func() {
		ctx, cancel := context.WithTimeoutCause(spare.ctx, r.cfg.Silence, errSilent)
		defer cancel()
		if spare.ping(ctx) == nil && l.heard.Load() < asked.UnixNano() {
			r.prefer(spare, l, errSilent)
		}
	}()
}

// prefer puts the warm link in the place of the one in use, whose connection is given up when why says so.
func (r *route) prefer(spare, used *link, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.used != used || r.spare != spare || spare.ctx.Err() != nil {
		return
	}
	r.spare = nil
	if why == nil {
		r.spare = used
	}
	r.change(spare)
	if why != nil {
		r.cfg.Log.Warn("Server silent", "server", used.addr, "next", spare.addr)
		used.cut(why)
	}
}

// doubtful is told that a server in use cannot reach its own engine: if the other one can, that is used.
func (r *route) doubtful(l *link) {
	r.mu.Lock()
	spare := r.spare
	r.mu.Unlock()
	if spare == nil || spare == l {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeoutCause(spare.ctx, r.cfg.Silence, errSilent)
		defer cancel()
		if spare.ping(ctx) == nil && !spare.stale.Load() {
			r.prefer(spare, l, nil)
		}
	}()
}

// close forgets every link.
func (r *route) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.peers {
		if p.link != nil {
			p.link.cut(errUnused)
		}
	}
}

func addrOf(l *link) string {
	if l == nil {
		return ""
	}
	return l.addr
}
