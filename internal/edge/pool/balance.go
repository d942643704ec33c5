package pool

import (
	"encoding/binary"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"sort"
	"sync/atomic"
)

// Balance names a way to spread requests over a pool's backends.
type Balance string

// The ways to balance. Anything else is RoundRobin.
const (
	RoundRobin   Balance = "round-robin"
	LeastRequest Balance = "least-request"
	Random       Balance = "random"
	RingHash     Balance = "ring-hash"
)

// Balancer chooses where a pool begins to look for a usable backend; the pool goes on from there in order.
type Balancer interface {
	// Next returns an index into backends, which is never empty. key is the hash of what should stick to a backend.
	Next(backends []*Backend, key uint64) int
}

// newBalancer returns the Balancer for backends that stay as they are. turn outlives it: it is where
// round-robin goes on after the backends changed.
func newBalancer(b Balance, backends []*Backend, turn *atomic.Uint64) Balancer {
	switch b {
	case LeastRequest:
		return leastRequest{}
	case Random:
		return random{}
	case RingHash:
		return newRing(backends)
	default:
		return roundRobin{turn}
	}
}

type roundRobin struct{ turn *atomic.Uint64 }

func (r roundRobin) Next(backends []*Backend, _ uint64) int {
	return int(r.turn.Add(1) % uint64(len(backends)))
}

type random struct{}

func (random) Next(backends []*Backend, _ uint64) int { return rand.IntN(len(backends)) }

// leastRequest takes the one with fewer requests in flight of two chosen at random, which is nearly as even
// as taking the least of all and does not stampede to one backend.
type leastRequest struct{}

func (leastRequest) Next(backends []*Backend, _ uint64) int {
	n := len(backends)
	if n == 1 {
		return 0
	}
	i := rand.IntN(n)
	j := (i + 1 + rand.IntN(n-1)) % n
	if backends[j].InFlight() < backends[i].InFlight() {
		return j
	}
	return i
}

// ringPoints is how many points each backend has on the ring.
const ringPoints = 128

// ring is consistent hashing: a backend that comes or goes moves only the keys next to its points.
type ring struct{ points []ringPoint }

type ringPoint struct {
	hash  uint64
	index int
}

func newRing(backends []*Backend) ring {
	points := make([]ringPoint, 0, len(backends)*ringPoints)
	for i, b := range backends {
		for n := range uint32(ringPoints) {
			points = append(points, ringPoint{pointHash(b.Instance, n), i})
		}
	}
	slices.SortFunc(points, func(a, b ringPoint) int {
		switch {
		case a.hash < b.hash:
			return -1
		case a.hash > b.hash:
			return 1
		}
		return a.index - b.index
	})
	return ring{points}
}

func (r ring) Next(_ []*Backend, key uint64) int {
	key = mix(key)
	i := sort.Search(len(r.points), func(i int) bool { return r.points[i].hash >= key })
	if i == len(r.points) {
		i = 0
	}
	return r.points[i].index
}

func pointHash(instance string, n uint32) uint64 {
	h := fnv.New64a()
	h.Write([]byte(instance))
	h.Write(binary.LittleEndian.AppendUint32(nil, n))
	return mix(h.Sum64())
}

// mix spreads a hash's bits evenly (the finalizer of SplitMix64, Steele et al. 2014).
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}
