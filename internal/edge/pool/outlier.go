package pool

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Defaults of Outlier.
const (
	DefaultConsecutive       = 5
	DefaultOutlierInterval   = 10 * time.Second
	DefaultEjection          = 30 * time.Second
	DefaultMaxEjection       = 5 * time.Minute
	DefaultEjectedPercent    = 10
	DefaultSuccessMinHosts   = 5
	DefaultSuccessMinVolume  = 100
	DefaultSuccessDeviations = 1.9
)

// Outlier is when a backend is left out for a while because of how it answers requests. Zero values are the defaults,
// negative ones switch a rule off.
type Outlier struct {
	Fives    int // this many answers of 500 and above, or attempts without one, in a row
	Failures int // this many attempts without an answer in a row: refused, reset, too late

	// A success rate so many standard deviations below the pool's mean, looked at every Interval, among the backends that had at
	// least MinVolume requests in it, when those are at least MinHosts.
	Deviations float64
	MinHosts   int
	MinVolume  int
	Interval   time.Duration

	Ejection    time.Duration // how long a first ejection takes; the second takes twice as long, and so on
	MaxEjection time.Duration // … up to this
	MaxPercent  int           // of the pool's backends that may be ejected at once; one always may, if another is left
}

// withDefaults returns the settings with nothing left at zero.
func (o Outlier) withDefaults() Outlier {
	orElse(&o.Fives, DefaultConsecutive)
	orElse(&o.Failures, DefaultConsecutive)
	orElse(&o.Deviations, DefaultSuccessDeviations)
	orElse(&o.MinHosts, DefaultSuccessMinHosts)
	orElse(&o.MinVolume, DefaultSuccessMinVolume)
	orElse(&o.Interval, DefaultOutlierInterval)
	orElse(&o.Ejection, DefaultEjection)
	orElse(&o.MaxEjection, DefaultMaxEjection)
	orElse(&o.MaxPercent, DefaultEjectedPercent)
	return o
}

func orElse[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

// Ejection is that a backend is left out for a while.
type Ejection struct {
	App     string
	Backend *Backend
	Reason  string
	For     time.Duration
}

// suspect ejects the backend when it failed too often in a row. 0 is for a row that did not grow.
func (b *Backend) suspect(now int64, fives, failures uint32) {
	p := b.pool.Load()
	if p == nil {
		return
	}
	o := p.health.Load().Outlier
	switch {
	case o == nil:
	case o.Failures > 0 && int64(failures) >= int64(o.Failures):
		p.eject(b, now, o, fmt.Sprintf("%d requests in a row got no answer", failures))
	case o.Fives > 0 && int64(fives) >= int64(o.Fives):
		p.eject(b, now, o, fmt.Sprintf("%d requests in a row failed", fives))
	}
}

// eject leaves a backend out for a while, unless it is already or too many are.
func (p *Pool) eject(b *Backend, now int64, o *Outlier, reason string) {
	var length time.Duration
	p.mu.Lock()
	ok := p.mayEject(b, now, o)
	if ok {
		b.cond.change(func(c *condition) {
			c.ejections++
			length = min(o.Ejection*time.Duration(c.ejections), o.MaxEjection)
			c.ejectedUntil, c.ejectedFor = now+int64(length), reason
			c.returned.Store(c.ejectedUntil)
		})
		p.ejections.Add(1)
	}
	p.mu.Unlock()
	b.cond.fives.Store(0)
	b.cond.failures.Store(0)
	if ok {
		p.assess(now)
		p.replan()
		p.onEject(Ejection{App: p.App, Backend: b, Reason: reason, For: length})
	}
}

// mayEject reports whether one more backend, and this one, may be left out. The pool's mutex is held.
func (p *Pool) mayEject(b *Backend, now int64, o *Outlier) bool {
	backends := p.Backends()
	if !slices.Contains(backends, b) || b.ejectedAt(now) {
		return false
	}
	ejected := 0
	for _, other := range backends {
		if other.ejectedAt(now) {
			ejected++
		}
	}
	return ejected < min(max(len(backends)*o.MaxPercent/100, 1), len(backends)-1)
}

func (b *Backend) ejectedAt(now int64) bool {
	b.cond.mu.Lock()
	defer b.cond.mu.Unlock()
	return b.cond.ejectedUntil > now
}

// rate is how a backend did in the last interval.
type rate struct {
	backend *Backend
	success float64 // 0 to 1
}

// judge ejects the backends whose success rate in the last interval is far below the others', and forgives those that did well.
func (p *Pool) judge(now int64, o *Outlier) {
	rates := p.rates(now, o)
	if o.Deviations < 0 || len(rates) < o.MinHosts {
		return
	}
	mean, deviation := spread(rates)
	least := mean - o.Deviations*deviation
	for _, r := range rates {
		if r.success < least {
			p.eject(r.backend, now, o, fmt.Sprintf("%.1f%% of its requests succeeded, the pool's mean is %.1f%%", 100*r.success, 100*mean))
		}
	}
}

// rates returns how the backends in service with enough requests did since the last call.
func (p *Pool) rates(now int64, o *Outlier) []rate {
	p.mu.Lock()
	defer p.mu.Unlock()
	var rates []rate
	for _, b := range p.Backends() {
		c := &b.cond
		unanswered := b.failed.Load()
		bad := c.errors.Load() + unanswered
		done := b.served.Load() + unanswered // after the failed ones: never fewer than those
		total, fails := done-c.lastDone, bad-c.lastBad
		c.lastDone, c.lastBad = done, bad
		if c.forgive(now) && total > 0 && total >= uint64(max(o.MinVolume, 0)) {
			rates = append(rates, rate{b, 1 - min(1, float64(fails)/float64(total))})
		}
	}
	return rates
}

// forgive shortens the next ejection of a backend that is in service, and reports whether it is.
func (c *condition) forgive(now int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ejectedUntil > now {
		return false
	}
	if c.ejections > 0 && c.ejectedUntil == 0 {
		c.ejections--
	}
	if c.ejectedUntil != 0 { // it is back since the last look: forgiveness begins with the next
		c.ejectedUntil, c.ejectedFor = 0, ""
		c.settle()
	}
	return true
}

// spread returns the mean and the standard deviation of success rates.
func spread(rates []rate) (mean, deviation float64) {
	for _, r := range rates {
		mean += r.success
	}
	mean /= float64(len(rates))
	for _, r := range rates {
		deviation += (r.success - mean) * (r.success - mean)
	}
	return mean, math.Sqrt(deviation / float64(len(rates)))
}

// Ejections returns how often a backend was ejected.
func (p *Pool) Ejections() uint64 { return p.ejections.Load() }
