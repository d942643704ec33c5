// Package limit refuses clients that ask too often.
//
// Each client address has a sliding window made of two fixed ones: the requests counted in the current
// window plus those of the previous one, weighted by how much of it the sliding window still covers. The count
// is exact for even traffic and never lets more than twice the limit through in any window.
//
// Memory is bounded: at most MaxClients addresses are remembered; when room is needed, ones not seen
// for two windows and ones with small counts go first. IPv6 clients are counted by their /64, which is what one client can freely choose addresses from.
package limit

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults of Config.
const (
	DefaultLimit  = 500_000_000
	DefaultWindow = 15 * time.Second
)

// MaxClients is how many client addresses a Limiter remembers.
const MaxClients = shardCount * shardClients

const (
	shardCount   = 64
	shardClients = 4096
	evictSample  = 32
)

// Config is what a client may ask for.
type Config struct {
	Limit  uint64        // requests per client address and window; 0 is DefaultLimit
	Window time.Duration // 0 is DefaultWindow
}

func (c Config) orDefault() Config {
	if c.Limit == 0 {
		c.Limit = DefaultLimit
	}
	if c.Window <= 0 {
		c.Window = DefaultWindow
	}
	return c
}

// Limiter counts requests by client address. Use New.
type Limiter struct {
	config atomic.Pointer[Config]
	seed   maphash.Seed
	shards [shardCount]shard
}

type shard struct {
	mu      sync.Mutex
	clients map[netip.Addr]*client
}

// client is what one address did in the current and the previous fixed window.
type client struct {
	window            int64 // the current window's number
	current, previous uint64
}

// New returns a Limiter with nothing counted.
func New(c Config) *Limiter {
	l := &Limiter{seed: maphash.MakeSeed()}
	for i := range l.shards {
		l.shards[i].clients = map[netip.Addr]*client{}
	}
	l.Set(c)
	return l
}

// Set changes the limit for every request from now on. Changing the window's length forgets what was counted.
func (l *Limiter) Set(c Config) {
	c = c.orDefault()
	old := l.config.Swap(&c)
	if old == nil || old.Window == c.Window {
		return
	}
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		clear(s.clients)
		s.mu.Unlock()
	}
}

// Allow counts one request of a client at now, in nanoseconds of any clock that does not go back. When the
// client is over its limit the request is not counted, and retry tells after how long asking again may help.
func (l *Limiter) Allow(addr netip.Addr, now int64) (ok bool, retry time.Duration) {
	c := l.config.Load()
	addr = keyOf(addr)
	s := &l.shards[maphash.Comparable(l.seed, addr)%shardCount]
	s.mu.Lock()
	defer s.mu.Unlock()
	length := int64(c.Window)
	window := now / length
	left := float64(length-now%length) / float64(length)
	who := s.find(addr, window)
	if float64(who.previous)*left+float64(who.current)+1 > float64(c.Limit) {
		return false, max(time.Duration(length-now%length), time.Second)
	}
	who.current++
	return true, 0
}

// keyOf returns what an address is counted under.
func keyOf(addr netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	if addr.Is4() {
		return addr
	}
	prefix, err := addr.Prefix(64)
	if err != nil {
		return addr // the zero address: all who have none share it
	}
	return prefix.Addr()
}

// find returns an address' counts with its windows moved up to the current one.
func (s *shard) find(addr netip.Addr, window int64) *client {
	who := s.clients[addr]
	if who == nil {
		if len(s.clients) >= shardClients {
			s.evict(window)
		}
		who = &client{window: window}
		s.clients[addr] = who
	}
	switch window - who.window {
	case 0:
	case 1:
		who.previous, who.current = who.current, 0
	default:
		who.previous, who.current = 0, 0
	}
	who.window = window
	return who
}

// evict looks at a few addresses, in the map's random order, and drops those that no longer count; when all of
// them do, the one with the smallest count. Looking at all would let strangers make every request dear.
func (s *shard) evict(window int64) {
	var victim netip.Addr
	least, looked := ^uint64(0), 0
	for addr, who := range s.clients {
		if looked++; looked > evictSample {
			break
		}
		if window-who.window > 1 {
			delete(s.clients, addr)
			continue
		}
		if n := who.current + who.previous; n < least {
			victim, least = addr, n
		}
	}
	if len(s.clients) >= shardClients {
		delete(s.clients, victim)
	}
}
