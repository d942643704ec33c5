package pool

import "slices"

// plan is how a pool's backends share its requests: it is made whenever the backends, their weights or the zones' capacities
// change, and never by a request.
type plan struct {
	parts []part // those that have backends
	wheel wheel  // which part a draw belongs to; unused for one part
	turn  *turn  // draws parts; nil where the key decides

	warming bool   // a backend has not got its whole weight yet
	returns int64  // when the first of the ejected backends comes back, to grow warm again; 0 is that none is
	zoned   bool   // requests go to one zone or another by how much of each is usable …
	out     uint64 // … when these were not: see outOf
}

// part is what answers a share of the requests: the backends of one release, or all of a pool's.
type part struct {
	id     int // its index in Settings.Split
	weight uint64
	near   share // the backends of the Fleet's own zone; all of them where zones do not matter
	far    share // the others
	border uint64
	turn   *turn // draws between near and far; nil where the key decides
}

// share is backends that differ by nothing but their weights.
type share struct {
	backends []*Backend
	weights  []uint64
	balancer Balancer
}

// redraws is how often a Balancer is asked for a usable backend before the next one in order is taken: often enough that the
// share of one that is not usable falls on all others.
const redraws = 4

// Keys decide about the part, the zone and the backend independently of each other.
const (
	partSalt = 0x51afd7ed558ccd
	zoneSalt = 0x2545f4914f6cdd1d
)

// first returns which part a request goes to.
func (p *plan) first(w Want) int {
	if len(p.parts) == 1 {
		return 0
	}
	if w.pin > 0 {
		for i := range p.parts {
			if p.parts[i].id == w.pin-1 {
				return i
			}
		}
	}
	if p.turn == nil {
		return p.wheel.at(mix(w.Key ^ partSalt))
	}
	return p.wheel.at(p.turn.point())
}

// pick is stale when it met a backend that was removed after the plan was made.
func (p *part) pick(key uint64, now int64, tried *Tried) (b *Backend, stale bool) {
	first, second := &p.near, &p.far
	if len(second.backends) > 0 && !p.stays(key) {
		first, second = second, first
	}
	b, stale = first.pick(key, now, tried)
	if b == nil && len(second.backends) > 0 {
		var met bool
		b, met = second.pick(key, now, tried)
		stale = stale || met
	}
	return b, stale
}

// stays reports whether a request is answered in its own zone.
func (p *part) stays(key uint64) bool {
	switch {
	case len(p.near.backends) == 0:
		return false
	case p.turn == nil:
		return mix(key^zoneSalt) < p.border
	}
	return p.turn.point() < p.border
}

func (s *share) pick(key uint64, now int64, tried *Tried) (b *Backend, stale bool) {
	n := len(s.backends)
	if n == 0 {
		return nil, false
	}
	i := 0
	for draw := range uint64(redraws) {
		i = s.balancer.Next(s.backends, key+draw*golden)
		switch b := s.backends[i]; b.take(now, tried) {
		case admitted:
			return b, false
		case removed:
			stale = true
		case full:
		}
	}
	for range n {
		if i++; i >= n {
			i = 0
		}
		switch b := s.backends[i]; b.take(now, tried) {
		case admitted:
			return b, false
		case removed:
			stale = true
		case full:
		}
	}
	return nil, stale
}

// take counts a request that tried others in flight on the backend, if it may go there. A backend that is no use to it is as
// good as full.
func (b *Backend) take(now int64, tried *Tried) admission {
	if tried.has(b) || b.deadAt(now) {
		return full
	}
	return b.acquire()
}

// outOf returns a number for which of the backends requests must not be sent to at now.
func outOf(backends []*Backend, now int64) uint64 {
	var sum uint64
	for i, b := range backends {
		if b.deadAt(now) {
			sum += mix(uint64(i) + 1)
		}
	}
	return sum
}

// fullWeight is a backend's weight of one, when it has been there for long enough.
const fullWeight = 1000

// planner makes plans.
type planner struct {
	settings *Settings
	zone     string
	now      int64 // the engine's clock
	turns    map[turnKey]*turn
	old      *plan // its tables are used again where nothing changed
}

// turnKey names a turn: it goes on when plans change.
type turnKey struct {
	part int
	use  turnUse
}

type turnUse uint8

const (
	turnParts turnUse = iota
	turnZones
	turnNear
	turnFar
)

func (l *planner) turn(part int, use turnUse) *turn {
	key := turnKey{part, use}
	t := l.turns[key]
	if t == nil {
		t = &turn{}
		l.turns[key] = t
	}
	return t
}

// make returns the plan for backends.
func (l *planner) make(backends []*Backend) plan {
	byPart := make([][]*Backend, len(l.settings.Split)+1)
	for _, b := range backends {
		id := l.settings.partOf(b.Release)
		byPart[id] = append(byPart[id], b)
	}
	p := plan{out: outOf(backends, l.now), returns: l.returns(backends)}
	var weights []uint64
	for id, list := range byPart {
		if len(list) == 0 {
			continue
		}
		next, warming := l.part(id, list)
		p.parts = append(p.parts, next)
		p.warming = p.warming || warming
		p.zoned = p.zoned || len(next.near.backends) > 0 && len(next.far.backends) > 0
		weights = append(weights, next.weight)
	}
	if len(p.parts) > 1 {
		p.wheel = newWheel(weights)
		if !l.settings.hashes() {
			p.turn = l.turn(0, turnParts)
		}
	}
	return p
}

func (l *planner) part(id int, backends []*Backend) (p part, warming bool) {
	p = part{id: id}
	if id < len(l.settings.Split) {
		p.weight = uint64(l.settings.Split[id].Weight)
	}
	near, far := l.zones(backends)
	var warmingFar bool
	p.near, warming = l.share(id, turnNear, near)
	p.far, warmingFar = l.share(id, turnFar, far)
	p.border = l.border(near, far)
	if !l.settings.hashes() {
		p.turn = l.turn(id, turnZones)
	}
	return p, warming || warmingFar
}

// zones parts the backends of the Fleet's zone from the others.
func (l *planner) zones(backends []*Backend) (near, far []*Backend) {
	if !l.settings.Zone.Prefer || l.zone == "" {
		return backends, nil
	}
	for _, b := range backends {
		if b.Zone == l.zone {
			near = append(near, b)
		} else {
			far = append(far, b)
		}
	}
	return near, far
}

// border returns which part of the requests is answered in the Fleet's own zone.
func (l *planner) border(near, far []*Backend) uint64 {
	var own, others uint64
	zones := map[string]bool{l.zone: true}
	for _, b := range near {
		if !b.deadAt(l.now) {
			own += uint64(b.Weight())
		}
	}
	for _, b := range far {
		if !b.deadAt(l.now) {
			others += uint64(b.Weight())
			zones[b.Zone] = true
		}
	}
	enough := l.settings.Zone.Enough * float64(own+others) / float64(len(zones))
	if float64(own) >= enough {
		return ^uint64(0)
	}
	return uint64(float64(own) / enough * (1 << 63) * 2)
}

// share makes a share of a part. It is warming while a backend has not got its whole weight.
func (l *planner) share(id int, use turnUse, backends []*Backend) (s share, warming bool) {
	if len(backends) == 0 {
		return share{}, false
	}
	s = share{backends: backends, weights: make([]uint64, len(backends))}
	for i, b := range backends {
		warm := l.warmth(b)
		s.weights[i] = max(uint64(float64(b.Weight())*fullWeight*warm), 1)
		warming = warming || warm < 1 && len(backends) > 1 && b.cond.returned.Load() <= l.now
	}
	if l.settings.hashes() {
		if b := l.tables(&s); b != nil {
			s.balancer = b
			return s, false
		}
	}
	s.balancer = newBalancer(l.settings.Balance, s.backends, s.weights, l.turn(id, use), l.before(id, use))
	return s, warming
}

// tables returns the Balancer of the old plan that was made for the same backends, if there is one.
func (l *planner) tables(s *share) Balancer {
	if l.old == nil {
		return nil
	}
	for i := range l.old.parts {
		for _, old := range []*share{&l.old.parts[i].near, &l.old.parts[i].far} {
			if slices.Equal(old.backends, s.backends) && slices.Equal(old.weights, s.weights) {
				return old.balancer
			}
		}
	}
	return nil
}

// before returns the Balancer that a share had in the old plan.
func (l *planner) before(id int, use turnUse) Balancer {
	if l.old == nil {
		return nil
	}
	for i := range l.old.parts {
		switch p := &l.old.parts[i]; {
		case p.id != id:
		case use == turnFar:
			return p.far.balancer
		default:
			return p.near.balancer
		}
	}
	return nil
}

// coldWeight is what a new backend has of its weight at once, so that it gets requests to grow warm with.
const coldWeight = 0.1

// warmth returns how much of its weight a backend has: it grows from when it was new, and again from when an ejection ended.
func (l *planner) warmth(b *Backend) float64 {
	if !l.settings.warms() {
		return 1
	}
	age := float64(l.now-max(b.since, b.cond.returned.Load())) / float64(l.settings.SlowStart)
	return min(max(age, coldWeight), 1)
}

// returns is when the first of the backends that are ejected comes back.
func (l *planner) returns(backends []*Backend) (first int64) {
	if !l.settings.warms() {
		return 0
	}
	for _, b := range backends {
		if at := b.cond.returned.Load(); at > l.now && (first == 0 || at < first) {
			first = at
		}
	}
	return first
}
