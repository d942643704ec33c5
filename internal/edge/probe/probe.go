// Package probe checks backends from the edge: whoever answers its checks gets requests, whoever does not gets none.
//
// A Prober makes one check of an address however many pools hold the backend, and tells all of them. It keeps no goroutine for
// each: what is due waits in a heap, and a bounded number of workers, who are there only while there is something to do, take it
// from there. Addresses that do not answer never hold up the checks of those that do: they get at most half of the workers.
//
//	p := probe.New(probe.Config{Log: log})
//	p.Sync([]probe.Want{{Check: check, Backends: pool.Backends()}})
//	err := p.Run(ctx)
//
// It guarantees that probes of one address do not overlap, that intervals differ by up to a tenth so that a thousand backends are not
// asked in the same moment, and that a backend nobody checks any more is believed to be healthy. It never decides what is done with a
// backend that fails: that is for package pool.
package probe

import (
	"cmp"
	"container/heap"
	"context"
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"vortex"
	"vortex/internal/edge/pool"
	"vortex/internal/health"
)

// DefaultWorkers is how many probes are made at the same time at most.
const DefaultWorkers = 256

const (
	jitter     = 0.1                    // of an interval, more or less
	firstDelay = 250 * time.Millisecond // a first probe comes within this, or within a tenth of its interval
	returnGap  = 100 * time.Millisecond // how soon an address where nothing listens is asked again; the gap doubles
)

// Config of a Prober. Zero values are defaults.
type Config struct {
	Workers int
	Log     *slog.Logger // nil discards
}

// Want is a check and the backends it is to be made of. A check without a port is made of the backends' own.
type Want struct {
	Check    vortex.HealthCheck // as HealthCheck.WithDefaults returns it
	Backends []*pool.Backend
}

// Prober is the checker. Use New.
type Prober struct {
	workers int
	log     *slog.Logger
	wake    chan struct{} // one slot: the heap has another first
	ask     func(vortex.HealthCheck, netip.Addr) (asker, error)

	mu      sync.Mutex
	targets map[key]*target
	due     schedule
	ready   []*target // wait for a worker
	slow    []*target // … and may take long: they did when last asked, or were not asked yet
	busy    int       // workers
	lagging int       // … of them with one of the slow
	made    uint64    // probes
	group   sync.WaitGroup
}

// key is an address and a check of it, as JSON.
type key struct {
	addr  netip.AddrPort
	check string
}

// New returns a Prober that does nothing before Run.
func New(c Config) *Prober {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Prober{
		workers: cmp.Or(c.Workers, DefaultWorkers), log: c.Log,
		wake: make(chan struct{}, 1), ask: ask, targets: map[key]*target{},
	}
}

// asker makes one probe.
type asker func(context.Context) health.Result

// ask returns the probe that a check describes of an address.
func ask(check vortex.HealthCheck, addr netip.Addr) (asker, error) {
	p, err := health.NewProbe(check, addr.String(), nil)
	if err != nil {
		return nil, err
	}
	return p.Run, nil
}

// Sync says what is to be checked from now on, instead of what was before. What goes on being checked keeps its state.
func (p *Prober) Sync(wants []Want) {
	p.mu.Lock()
	defer p.mu.Unlock()
	holders := p.holders(wants)
	for k, t := range p.targets {
		if _, wanted := holders[k]; !wanted {
			delete(p.targets, k)
			p.drop(t)
		}
	}
	for k, h := range holders {
		t := p.targets[k]
		for _, b := range t.holders {
			if !slices.Contains(h, b) {
				b.SetChecked(pool.Checked{})
			}
		}
		t.holders = h
		t.tell()
	}
	p.signal()
}

// holders returns the backends of every wanted target, and makes the targets that are missing. The mutex is held.
func (p *Prober) holders(wants []Want) map[key][]*pool.Backend {
	holders := map[key][]*pool.Backend{}
	for _, want := range wants {
		text, err := json.Marshal(want.Check)
		if err != nil {
			p.log.Error("Health check left out", "err", err)
			continue
		}
		for _, b := range want.Backends {
			k := key{askedAt(want.Check, b), string(text)}
			if p.targets[k] == nil && !p.add(k, want.Check, b) {
				break
			}
			holders[k] = append(holders[k], b)
		}
	}
	return holders
}

// askedAt is where a check is made of a backend.
func askedAt(check vortex.HealthCheck, b *pool.Backend) netip.AddrPort {
	if check.Port == nil || *check.Port == 0 {
		return b.Addr
	}
	return netip.AddrPortFrom(b.Addr.Addr(), *check.Port)
}

// add makes a target and reports whether its check can be made.
func (p *Prober) add(k key, check vortex.HealthCheck, b *pool.Backend) bool {
	own := check.Port == nil || *check.Port == 0 || *check.Port == b.Addr.Port()
	if own {
		port := b.Addr.Port()
		check.Port = &port
	}
	ask, err := p.ask(check, b.Addr.Addr())
	if err != nil {
		p.log.Error("Health check left out", "address", k.addr, "err", err)
		return false
	}
	t := &target{addr: k.addr, own: own, ask: ask, schedule: health.ScheduleOf(check), position: -1, slow: true}
	t.next = time.Now().Add(t.schedule.InitialDelay + rand.N(min(firstDelay, t.schedule.Period/10)+1))
	p.targets[k] = t
	heap.Push(&p.due, t)
	return true
}

// drop forgets a target, whose probe may be under way. The mutex is held.
func (p *Prober) drop(t *target) {
	if t.position >= 0 {
		heap.Remove(&p.due, t.position)
	}
	for _, b := range t.holders {
		b.SetChecked(pool.Checked{})
	}
	t.holders, t.dropped = nil, true
}

func (p *Prober) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Run probes until ctx ends, and returns nil once the last probe has.
func (p *Prober) Run(ctx context.Context) error {
	defer p.group.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-p.wake:
		}
		if next, ok := p.dispatch(ctx, time.Now()); ok {
			timer.Reset(time.Until(next))
		}
	}
}

// dispatch hands what is due to workers and returns when the next is.
func (p *Prober) dispatch(ctx context.Context, now time.Time) (next time.Time, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.due) > 0 && !p.due[0].next.After(now) {
		t, _ := heap.Pop(&p.due).(*target)
		if t.slow {
			p.slow = append(p.slow, t)
		} else {
			p.ready = append(p.ready, t)
		}
	}
	for p.busy < p.workers {
		t := p.take()
		if t == nil {
			break
		}
		p.busy++
		p.group.Go(func() { p.work(ctx, t) })
	}
	if len(p.due) == 0 {
		return time.Time{}, false
	}
	return p.due[0].next, true
}

// take returns the target to probe next, nil when there is none for now. The mutex is held.
func (p *Prober) take() *target {
	queue := &p.ready
	if len(p.slow) > 0 && p.lagging < max(p.workers/2, 1) {
		queue = &p.slow
		p.lagging++
	}
	if len(*queue) == 0 {
		return nil
	}
	t := (*queue)[0]
	(*queue)[0] = nil
	*queue = (*queue)[1:]
	t.lagging = queue == &p.slow
	return t
}

// work probes until nothing waits.
func (p *Prober) work(ctx context.Context, t *target) {
	for t != nil {
		var result health.Result
		if !p.isDropped(t) {
			result = t.ask(ctx)
		}
		t = p.finish(ctx, t, result)
	}
}

func (p *Prober) isDropped(t *target) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return t.dropped
}

// finish takes in a result and returns what to probe next.
func (p *Prober) finish(ctx context.Context, t *target, r health.Result) *target {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t.lagging {
		p.lagging--
	}
	if !t.dropped && ctx.Err() == nil {
		p.made++
		if t.judge(r) {
			p.report(t)
		}
		t.tell()
		t.next = time.Now().Add(t.pause())
		heap.Push(&p.due, t)
		if t.position == 0 {
			p.signal()
		}
	}
	if ctx.Err() == nil {
		if next := p.take(); next != nil {
			return next
		}
	}
	p.busy--
	return nil
}

// report tells operators that a backend began or ceased to answer its checks.
func (p *Prober) report(t *target) {
	for _, b := range t.holders {
		if t.state.Failing {
			p.log.Warn("Backend fails its checks", "instance", b.Instance, "address", t.addr, "detail", t.state.Detail)
		} else {
			p.log.Info("Backend passes its checks", "instance", b.Instance, "address", t.addr, "detail", t.state.Detail)
		}
	}
}

// Stats is what a Prober does.
type Stats struct {
	Targets int    // addresses and checks
	Busy    int    // probes under way
	Made    uint64 // probes
}

// Stats returns what the Prober does now.
func (p *Prober) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Stats{Targets: len(p.targets), Busy: p.busy, Made: p.made}
}
