// Package limit refuses clients that ask too often, and addresses that open too many connections.
//
// A Rule allows so many requests in any window of time, to each Key: a client's address, the value of a header, or everybody together.
// Its sliding window is made of two fixed ones: the requests counted in the current window plus those of the previous one,
// weighted by how much of it the sliding window still covers. That is the approximation described in "How we built rate
// limiting capable of scaling to millions of domains" (Cloudflare, 2017): exact for even traffic, and never more than twice the limit in any
// window. Two counts also add up over several edges, which the state of a leaky bucket does not. A Rule with a burst is held to an even pace
// besides, by the generic cell rate algorithm (ITU-T I.371, A.1): at most so many requests ahead of it.
//
// Several edges hold one limit together: each says now and then what it let through (Report), and takes in what the others said
// (Learn). Between two reports it takes the others' counts to grow as its own does, in proportion to what each was asked for. So
// every edge spends its share of what is left, however long the news take, and an edge that hears nothing goes on alone.
//
// Memory is bounded: at most MaxClients keys are remembered; when room is needed, ones not seen for two windows and ones with small
// counts go first. IPv6 clients are counted by their /64, which is what one client can freely choose addresses from. A request of a
// key that is remembered allocates nothing.
package limit

import (
	"hash/maphash"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults of Config.
const (
	DefaultLimit  = 500_000_000
	DefaultWindow = 15 * time.Second
)

const maxLimit = 1 << 53 // counts are compared as float64

// MaxClients is how many keys a Limiter remembers.
const MaxClients = shardCount * shardClients

const (
	shardCount   = 64
	shardClients = 4096
	evictSample  = 32
)

// Config is what one key may ask for.
type Config struct {
	Limit  uint64        // requests per window; 0 is DefaultLimit
	Window time.Duration // 0 is DefaultWindow
	Burst  uint64        // requests ahead of an even pace; 0 is as many as Limit
}

func (c Config) orDefault() Config {
	if c.Limit == 0 {
		c.Limit = DefaultLimit
	}
	if c.Window <= 0 {
		c.Window = DefaultWindow
	}
	c.Limit = min(c.Limit, maxLimit)
	c.Burst = min(c.Burst, c.Limit)
	return c
}

// Limiter keeps the counts of any number of rules. Use New.
type Limiter struct {
	seed   maphash.Seed
	shards [shardCount]shard

	mu      sync.Mutex
	rules   map[string]*Rule
	nextID  uint64
	reports map[string]*report // what other edges said last
	told    map[entryKey]bool  // whose others are not zero
}

type shard struct {
	mu      sync.Mutex
	entries map[entryKey]*entry
	hot     []*entry // near their limits
}

// entryKey is a key under a rule.
type entryKey struct {
	rule uint64
	key  Key
}

// entry is what one key did in the current and the previous fixed window.
type entry struct {
	entryKey

	rule              *Rule
	window            int64 // the current window's number
	current, previous uint64
	next              int64 // when the even pace would have the next request

	asked  uint64  // requests since the last report, refused ones too
	demand float64 // requests per second that were asked for lately
	hot    bool    // it is in its shard's list
	gone   bool    // it is no longer in the map
	others others
}

// New returns a Limiter without rules.
func New() *Limiter {
	l := &Limiter{seed: maphash.MakeSeed(), rules: map[string]*Rule{}, reports: map[string]*report{}, told: map[entryKey]bool{}}
	for i := range l.shards {
		l.shards[i].entries = map[entryKey]*entry{}
	}
	return l
}

// Rule is one limit. Its methods may be called at any time.
type Rule struct {
	limiter *Limiter
	id      uint64
	name    string
	config  atomic.Pointer[Config]
}

// Rule returns the rule of a name, which is the same on every edge, with its limit changed to c.
func (l *Limiter) Rule(name string, c Config) *Rule {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.rules[name]
	if r == nil {
		l.nextID++
		r = &Rule{limiter: l, id: l.nextID, name: name}
		l.rules[name] = r
	}
	r.Set(c)
	return r
}

// Drop forgets the rule of a name. Requests that are being counted by it still may be.
func (l *Limiter) Drop(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.rules, name)
}

// Set changes the limit for every request from now on. A window of another length begins with nothing counted.
func (r *Rule) Set(c Config) {
	c = c.orDefault()
	r.config.Store(&c)
}

// Config returns the limit.
func (r *Rule) Config() Config { return *r.config.Load() }

// Verdict is what becomes of a request.
type Verdict struct {
	OK        bool
	Limit     uint64        // requests per Window
	Window    time.Duration // …
	Remaining uint64        // requests that would be let through now
	Reset     time.Duration // until the window ends
	Retry     time.Duration // after which asking again may help, when not OK
}

// Tighter reports whether v leaves less room than o. A zero Verdict is no limit.
func (v Verdict) Tighter(o Verdict) bool {
	return o.Limit == 0 || v.Remaining < o.Remaining
}

// Allow counts one request of a key at now, in nanoseconds since 1970. A request that is over the limit is not counted.
func (r *Rule) Allow(key Key, now int64) Verdict {
	c := r.config.Load()
	length := int64(c.Window)
	window, passed := now/length, now%length
	at := entryKey{r.id, key}
	s := r.limiter.shard(at)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(r, at, window)
	e.asked++
	v := Verdict{Limit: c.Limit, Window: c.Window, Reset: time.Duration(length - passed)}
	v.Retry = max(e.overWindow(c, passed), e.overPace(c, now))
	if v.Retry > 0 {
		return v
	}
	v.OK = true
	e.current++
	v.Remaining = e.left(c, passed)
	if c.Burst > 0 {
		pace := length / int64(c.Limit)
		e.next = max(e.next, now) + pace
		v.Remaining = min(v.Remaining, uint64(max(now+int64(c.Burst)*pace-e.next, 0)/max(pace, 1)))
	}
	if !e.hot && e.warm(c) {
		s.heat(e)
	}
	return v
}

// Return takes back the count of a request that was let through and did not happen.
func (r *Rule) Return(key Key, now int64) {
	c := r.config.Load()
	at := entryKey{r.id, key}
	s := r.limiter.shard(at)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[at]; e != nil && e.window == now/int64(c.Window) && e.current > 0 {
		e.current--
		e.next -= int64(c.Window) / int64(c.Limit)
	}
}

func (l *Limiter) shard(at entryKey) *shard {
	return &l.shards[maphash.Comparable(l.seed, at)%shardCount]
}

// counts returns what was let through in the two windows, by the other edges too.
func (e *entry) counts() (current, previous float64) {
	current, previous = float64(e.current), float64(e.previous)
	return current + e.others.now(e.current), previous + e.others.previous
}

// overWindow returns after how long another request fits into the window; 0 is at once.
func (e *entry) overWindow(c *Config, passed int64) time.Duration {
	current, previous := e.counts()
	length, limit := float64(c.Window), float64(c.Limit)-1
	if previous*(length-float64(passed))/length+current <= limit {
		return 0
	}
	if current <= limit { // when enough of the previous window has slid out
		return atLeast(time.Duration(length*(1-(limit-current)/previous)) - time.Duration(passed))
	}
	wait := length - float64(passed) // in the next window this one is the previous, all of it
	if limit < current {
		wait += length * (1 - limit/current)
	}
	return atLeast(time.Duration(wait))
}

// overPace returns after how long the next request keeps the pace; 0 is at once.
func (e *entry) overPace(c *Config, now int64) time.Duration {
	if c.Burst == 0 {
		return 0
	}
	pace := int64(c.Window) / int64(c.Limit)
	if from := e.next - int64(c.Burst-1)*pace; now < from {
		return time.Duration(from - now)
	}
	return 0
}

func atLeast(d time.Duration) time.Duration { return max(d, time.Millisecond) }

// left returns how many more requests fit into the window.
func (e *entry) left(c *Config, passed int64) uint64 {
	current, previous := e.counts()
	used := previous*float64(int64(c.Window)-passed)/float64(c.Window) + current
	return uint64(max(math.Floor(float64(c.Limit)-used), 0))
}

// find returns a key's counts with its windows moved up to the current one.
func (s *shard) find(r *Rule, at entryKey, window int64) *entry {
	e := s.entries[at]
	if e == nil {
		if len(s.entries) >= shardClients {
			e = s.evict()
		}
		if e == nil {
			e = &entry{}
		}
		*e = entry{entryKey: at, rule: r, window: window}
		s.entries[at] = e
	}
	e.advance(window)
	return e
}

// advance moves the windows up.
func (e *entry) advance(window int64) {
	switch window - e.window {
	case 0:
		return
	case 1:
		e.others.roll(e.current)
		e.previous, e.current = e.current, 0
	default: // long ago, or the window's length or the clock was set
		e.others.forget()
		e.previous, e.current = 0, 0
	}
	e.window = window
}

// evict looks at a few entries, in the map's random order, and drops those of the past; when all of them count, the one with
// the smallest count. Looking at all would let strangers make every request dear. It returns one to use again, or nil.
func (s *shard) evict() (free *entry) {
	var victim *entry
	looked := 0
	for _, e := range s.entries {
		if looked++; looked > evictSample {
			break
		}
		if victim == nil || e.window < victim.window || e.window == victim.window && e.current+e.previous < victim.current+victim.previous {
			victim = e
		}
	}
	delete(s.entries, victim.entryKey)
	if victim.hot { // it is in a list
		victim.gone = true
		return nil
	}
	return victim
}
