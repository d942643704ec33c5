package limit

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	// maxUses is how many keys a report names, those nearest to their limits first.
	maxUses = 256
	// shardHot is how many keys near their limits a shard keeps in view.
	shardHot = 64
	// warmShare is from what share of its limit on a key is near it.
	warmShare = 100
	// staleAfter is for how long an edge that says nothing more is taken to go on as before.
	staleAfter = 5 * time.Second
	// maxRatio is how many requests elsewhere may be taken to come with each one here.
	maxRatio = 32
	// idleDemand is how few requests per second are none.
	idleDemand = 1e-3
)

// Use is what one edge let through of one key under one rule.
type Use struct {
	Rule              string
	Key               Key
	Window            int64 // the number of the current window since 1970
	Current, Previous uint64
	Demand            float64 // requests per second it was asked for lately, refused ones too
}

// report is what another edge said last.
type report struct {
	at   int64
	uses []seen
}

// seen is a use as it was taken in.
type seen struct {
	Use

	own uint64 // what this edge had let through in the same window by then
}

// others is what the other edges let through of a key, as far as it is known, and how it grows.
type others struct {
	base     float64 // in the current window, were nothing let through here
	ratio    float64 // … and that with each request let through here
	previous float64 // in the previous window
}

func (o *others) now(own uint64) float64 { return max(o.base+o.ratio*float64(own), 0) }

// roll begins a new window after one in which own requests were let through here.
func (o *others) roll(own uint64) { o.previous, o.base = o.now(own), 0 }

func (o *others) forget() { o.previous, o.base = 0, 0 }

// warm reports whether enough of a limit is used for others to know.
func (e *entry) warm(c *Config) bool {
	n := e.current + e.previous
	return n > 0 && n >= c.Limit/warmShare
}

// usedShare is how much of its limit a key has used.
func (e *entry) usedShare() float64 {
	return float64(e.current+e.previous) / float64(e.rule.config.Load().Limit)
}

// heat puts an entry into view. When there is no room it takes the place of one chosen at random, if that used less of its limit: who asks
// often gets in soon, however many others there are.
func (s *shard) heat(e *entry) {
	if len(s.hot) < shardHot {
		s.hot, e.hot, e.asked = append(s.hot, e), true, 1
		return
	}
	at := rand.IntN(len(s.hot)) //nolint:gosec // no secret
	if old := s.hot[at]; old.usedShare() < e.usedShare() {
		old.hot, s.hot[at], e.hot, e.asked = false, e, true, 1
	}
}

// Report returns what was let through of the keys near their limits, for the other edges. passed is the time since the last report.
func (l *Limiter) Report(now int64, passed time.Duration) []Use {
	type ranked struct {
		Use
		share float64
	}
	var list []ranked
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		s.hot = slices.DeleteFunc(s.hot, func(e *entry) bool {
			c := e.rule.config.Load()
			e.advance(now / int64(c.Window))
			e.measure(c, passed)
			if e.gone || !e.warm(c) && e.demand < idleDemand {
				e.hot = false
				return true
			}
			list = append(list, ranked{Use{e.rule.name, e.key, e.window, e.current, e.previous, e.demand}, e.usedShare()})
			return false
		})
		s.mu.Unlock()
	}
	slices.SortFunc(list, func(a, b ranked) int { return cmp.Compare(b.share, a.share) })
	uses := make([]Use, 0, min(len(list), maxUses))
	for _, r := range list[:min(len(list), maxUses)] {
		uses = append(uses, r.Use)
	}
	return uses
}

// measure brings demand up to date: an average over about a quarter of the window, so that it follows short windows at once and is steady for
// long ones.
func (e *entry) measure(c *Config, passed time.Duration) {
	if passed <= 0 {
		return
	}
	lately := float64(e.asked) / passed.Seconds()
	weight := 1 - math.Exp(-4*float64(passed)/float64(c.Window))
	e.demand += weight * (lately - e.demand)
	e.asked = 0
}

// Learn takes in what another edge let through, in place of what it said before. Nothing is what an edge says that is gone.
func (l *Limiter) Learn(edge string, uses []Use, now int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(uses) == 0 {
		delete(l.reports, edge)
		l.apply(now)
		return
	}
	r := &report{at: now}
	for _, u := range uses {
		u, ok := l.current(u, now)
		if !ok {
			continue
		}
		taken := seen{Use: u}
		l.with(u, now, func(e *entry) { taken.own = e.current })
		r.uses = append(r.uses, taken)
	}
	l.reports[edge] = r
	l.apply(now)
}

// Settle takes in that time has passed: edges that say nothing more no longer grow.
func (l *Limiter) Settle(now int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.apply(now)
}

// current brings a use to the window of now. One with an unknown rule, or of long ago, is none.
func (l *Limiter) current(u Use, now int64) (Use, bool) {
	r := l.rules[u.Rule]
	if r == nil || u.Demand < 0 || math.IsNaN(u.Demand) || math.IsInf(u.Demand, 0) {
		return u, false
	}
	window := now / int64(r.config.Load().Window)
	switch u.Window - window {
	case 0:
	case 1: // its clock is ahead
		u.Current, u.Previous = u.Current+u.Previous, 0
	case -1:
		u.Previous, u.Current = u.Current, 0
	default:
		u.Previous, u.Current = 0, 0
	}
	u.Window = window
	return u, true
}

// with calls f with a use's entry, whose shard is locked meanwhile. There is none when there is no room for it.
func (l *Limiter) with(u Use, now int64, f func(*entry)) {
	r := l.rules[u.Rule]
	if r == nil {
		return
	}
	at := entryKey{r.id, u.Key}
	s := l.shard(at)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries[at] == nil && len(s.entries) >= shardClients {
		return
	}
	f(s.find(r, at, now/int64(r.config.Load().Window)))
}

// apply works out of all reports what the others let through of each key.
func (l *Limiter) apply(now int64) {
	sums := make(map[entryKey]others, len(l.told))
	for at := range l.told {
		sums[at] = others{}
	}
	for _, r := range l.reports {
		stale := now-r.at > int64(staleAfter)
		for i := range r.uses {
			u := &r.uses[i]
			l.with(u.Use, now, func(e *entry) {
				o := sums[e.entryKey]
				o.add(u, e, stale)
				sums[e.entryKey] = o
			})
		}
	}
	clear(l.told)
	for at, o := range sums {
		s := l.shard(at)
		s.mu.Lock()
		if e := s.entries[at]; e != nil {
			e.others = o
		}
		s.mu.Unlock()
		if o != (others{}) {
			l.told[at] = true
		}
	}
}

// add counts one edge's use of a key in. The key's shard is locked.
func (o *others) add(u *seen, e *entry, stale bool) {
	ratio := 0.0
	if !stale && u.Demand >= idleDemand {
		ratio = min(u.Demand/max(e.demand, idleDemand), maxRatio)
	}
	switch e.window - u.Window {
	case 0:
		o.base += float64(u.Current) - ratio*float64(u.own)
		o.ratio += ratio
		o.previous += float64(u.Previous)
	case 1:
		o.ratio += ratio
		o.previous += float64(u.Current) + ratio*float64(e.previous-min(u.own, e.previous))
	}
}
