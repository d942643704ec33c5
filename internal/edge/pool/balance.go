package pool

import (
	"math/bits"
	"math/rand/v2"
	"slices"
	"sync/atomic"
)

// Balance names a way to spread requests over a pool's backends.
type Balance string

// The ways to balance. Each of them follows the backends' weights. Anything else is RoundRobin.
const (
	RoundRobin   Balance = "round-robin"
	Weighted     Balance = "weighted" // RoundRobin by the name that says what it does where weights differ
	LeastRequest Balance = "least-request"
	Random       Balance = "random"
	RingHash     Balance = "ring-hash"
	Maglev       Balance = "maglev"
)

// Balancer chooses a backend; where that one is not usable the pool asks again, and then goes on from there in order.
type Balancer interface {
	// Next returns an index into backends, which is never empty and always what the Balancer was made for. key is the hash
	// of what should stick to a backend.
	Next(backends []*Backend, key uint64) int
}

// newBalancer returns the Balancer for backends that stay as they are, and as they weigh. turn outlives it: it is
// where round-robin goes on after the backends changed. old is what the same share of them had before; nil is nothing.
func newBalancer(b Balance, backends []*Backend, weights []uint64, turn *turn, old Balancer) Balancer {
	even := !slices.ContainsFunc(weights, func(w uint64) bool { return w != weights[0] })
	switch {
	case b == RingHash:
		before, _ := old.(*ring)
		return newRing(before, backends, weights)
	case b == Maglev:
		return newMaglev(backends, weights)
	case b == LeastRequest && even:
		return leastRequest{}
	case b == LeastRequest:
		return leastWeighted{newWheel(weights), weights}
	case b == Random && even:
		return random{}
	case b == Random:
		return randomWeighted{newWheel(weights)}
	case even:
		return roundRobin{turn}
	default:
		return weighted{newWheel(weights), turn}
	}
}

// turn counts what was drawn. It fills a cache line, so that those who draw from others are not slowed down.
type turn struct {
	n atomic.Uint64
	_ [56]byte
}

// golden is 2^64 divided by the golden ratio.
const golden = 0x9e3779b97f4a7c15

// point returns the next point on the line of 2^64. The multiples of the golden ratio fall more evenly on any stretch of
// the line than chance would (Knuth, The Art of Computer Programming 3, 6.4, theorem S): of n points a stretch
// gets its share of n give or take a few, and at most three different distances lie between one point in it and the next.
func (t *turn) point() uint64 { return t.n.Add(1) * golden }

type roundRobin struct{ turn *turn }

func (r roundRobin) Next(backends []*Backend, _ uint64) int {
	return int(r.turn.n.Add(1) % uint64(len(backends)))
}

// weighted is round-robin for weights that differ: it comes back to each backend at nearly even intervals, without a state
// that picks would have to lock.
type weighted struct {
	wheel wheel
	turn  *turn
}

func (w weighted) Next([]*Backend, uint64) int { return w.wheel.at(w.turn.point()) }

type random struct{}

func (random) Next(backends []*Backend, _ uint64) int { return rand.IntN(len(backends)) }

type randomWeighted struct{ wheel wheel }

func (r randomWeighted) Next([]*Backend, uint64) int { return r.wheel.at(rand.Uint64()) }

// leastRequest takes the one with fewer requests in flight of two chosen at random, which is nearly as even
// as taking the least of all and does not stampede to one backend (Mitzenmacher 2001).
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

// leastWeighted chooses both by their weights, and takes the one with fewer requests in flight for its weight.
type leastWeighted struct {
	wheel   wheel
	weights []uint64
}

func (l leastWeighted) Next(backends []*Backend, _ uint64) int {
	i, j := l.wheel.at(rand.Uint64()), l.wheel.at(rand.Uint64())
	if i == j {
		j = (i + 1) % len(backends)
	}
	if uint64(backends[j].InFlight())*l.weights[i] < uint64(backends[i].InFlight())*l.weights[j] {
		return j
	}
	return i
}

// wheel divides the line of 2^64 points by weight: it holds the ends of the stretches.
type wheel []uint64

func newWheel(weights []uint64) wheel {
	w := make(wheel, len(weights))
	var sum, end uint64
	for _, weight := range weights {
		sum += weight
	}
	for i, weight := range weights {
		end += weight
		w[i] = fraction(end, sum)
	}
	return w
}

// fraction returns where part of whole ends on the line of 2^64 points.
func fraction(part, whole uint64) uint64 {
	if part >= whole {
		return ^uint64(0)
	}
	point, _ := bits.Div64(part, 0, whole)
	return point
}

// at returns whose stretch a point lies in.
func (w wheel) at(point uint64) int {
	low, high := 0, len(w)-1
	for low < high {
		middle := (low + high) / 2
		if w[middle] > point {
			high = middle
		} else {
			low = middle + 1
		}
	}
	return low
}
