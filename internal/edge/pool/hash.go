package pool

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"
)

// AddrKey returns the key of a client's address.
func AddrKey(a netip.Addr) uint64 {
	b := a.As16()
	return binary.LittleEndian.Uint64(b[:8])*31 + binary.LittleEndian.Uint64(b[8:])
}

// BytesKey returns the key of a header's or cookie's value, the same on every edge.
func BytesKey[T ~[]byte | ~string](value T) uint64 {
	h := uint64(14695981039346656037) // FNV-1a
	for i := range len(value) {
		h = (h ^ uint64(value[i])) * 1099511628211
	}
	return h
}

// mix spreads a hash's bits evenly (the finalizer of SplitMix64, Steele et al. 2014).
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// ringPoints is how many points each backend has on the ring for one of its weight, and maxRingPoints how many there are at most:
// beyond it every backend keeps half of its points, or a quarter, and so on.
const (
	ringPoints    = 128
	maxRingPoints = 1 << 19
)

// ring is consistent hashing (Karger et al. 1997): a backend that comes or goes moves only the keys next to its points.
type ring struct {
	points []uint64 // in order; the lowest bits say whose it is
	guide  []uint32 // where the points begin whose highest bits are these
	shift  int      // … of a point, to get them

	backends []*Backend // what it was made of, and how many points each has
	counts   []uint64
}

// ownerBits are the bits of a point that say whose it is.
const (
	ownerBits = 20
	ownerMask = 1<<ownerBits - 1
)

// newRing makes the ring of backends. The points of those that an old one has with as many are taken from there, in order as they are: to
// sort all of them anew takes ten times as long.
func newRing(old *ring, backends []*Backend, weights []uint64) *ring {
	r := &ring{backends: backends, counts: ringCounts(weights)}
	owners := r.ownersIn(old)
	kept := make([]bool, len(backends))
	for _, owner := range owners {
		if owner != nobody {
			kept[owner] = true
		}
	}
	var fresh []uint64
	var sum uint64
	for i, b := range backends {
		sum += r.counts[i]
		if kept[i] {
			continue
		}
		name := BytesKey(b.Instance)
		for n := range r.counts[i] {
			fresh = append(fresh, mix(name+n*golden)&^ownerMask|uint64(i)&ownerMask)
		}
	}
	slices.Sort(fresh)
	r.points = make([]uint64, 0, sum)
	if old != nil {
		for _, point := range old.points {
			owner := owners[point&ownerMask]
			if owner == nobody {
				continue
			}
			point = point&^ownerMask | uint64(owner)
			for len(fresh) > 0 && fresh[0] < point {
				r.points = append(r.points, fresh[0])
				fresh = fresh[1:]
			}
			r.points = append(r.points, point)
		}
	}
	r.points = append(r.points, fresh...)
	r.settleTies()
	r.makeGuide()
	return r
}

// nobody is the owner of points that are dropped.
const nobody = ^uint32(0)

// ownersIn returns, for each backend of an old ring, which one of r's keeps its points.
func (r *ring) ownersIn(old *ring) []uint32 {
	if old == nil {
		return nil
	}
	index := make(map[*Backend]uint32, len(r.backends))
	for i, b := range r.backends {
		index[b] = uint32(i)
	}
	owners := make([]uint32, len(old.backends))
	for i, b := range old.backends {
		owners[i] = nobody
		if now, ok := index[b]; ok && r.counts[now] == old.counts[i] {
			owners[i] = now
		}
	}
	return owners
}

// settleTies brings points that fell on one place into an order that does not depend on the one the backends are listed in, or
// came in.
func (r *ring) settleTies() {
	for i := 1; i < len(r.points); i++ {
		if (r.points[i-1]^r.points[i])&^ownerMask != 0 {
			continue
		}
		end := i + 1
		for end < len(r.points) && (r.points[i]^r.points[end])&^ownerMask == 0 {
			end++
		}
		slices.SortFunc(r.points[i-1:end], func(a, b uint64) int {
			return r.backends[a&ownerMask].compare(r.backends[b&ownerMask])
		})
		i = end
	}
}

// makeGuide notes where the points with each of the highest bits begin.
func (r *ring) makeGuide() {
	size := bits.Len(uint(len(r.points)))
	r.shift = 64 - size
	r.guide = make([]uint32, 1<<size)
	for i, point := range slices.Backward(r.points) { // no branch depends on where the points fell: those would cost more than all else
		r.guide[point>>r.shift] = uint32(i) + 1
	}
	first := uint32(len(r.points))
	for i := len(r.guide) - 1; i >= 0; i-- {
		if at := r.guide[i]; at != 0 {
			first = at - 1
		}
		r.guide[i] = first
	}
}

// ringCounts returns how many points each backend has. They depend on its own weight, so that a change of another's moves none of
// its keys, unless there would be too many.
func ringCounts(weights []uint64) []uint64 {
	counts := make([]uint64, len(weights))
	var sum uint64
	for i, weight := range weights {
		counts[i] = ringPoints * weight / fullWeight
		sum += counts[i]
	}
	half := 0
	for sum>>half > maxRingPoints {
		half++
	}
	for i := range counts {
		counts[i] = max(counts[i]>>half, 1)
	}
	return counts
}

func (r *ring) Next(_ []*Backend, key uint64) int {
	key = mix(key) &^ ownerMask
	i := int(r.guide[key>>r.shift])
	for i < len(r.points) && r.points[i] < key {
		i++
	}
	if i == len(r.points) {
		i = 0
	}
	return int(r.points[i] & ownerMask)
}

// The sizes of maglev's table: primes, each at least twenty times the backends it is for, so that shares are off by
// a twentieth at most. A pool that grows over the border has most of its keys moved once.
const (
	maglevSmall  = 65537
	maglevLarge  = 655373
	maglevBorder = maglevSmall / 20
)

// maglev is the lookup table of Maglev (Eisenbud et al., NSDI 2016, 3.4): backends take turns to claim the next free place of
// a permutation of their own. A choice is one look into it, the shares are more even than a ring's, and a backend that comes
// or goes moves its own keys and few others.
type maglev []uint32

func newMaglev(backends []*Backend, weights []uint64) maglev {
	size := uint64(maglevSmall)
	if len(backends) > maglevBorder {
		size = maglevLarge
	}
	table := make(maglev, size)
	claimed := make([]uint64, size/64+1) // bits, which stay near to the processor: most looks are at places that are taken
	heaviest := slices.Max(weights)
	claims := newClaims(backends, weights, heaviest, size)
	for taken := uint64(0); ; {
		for i := range claims {
			c := &claims[i]
			if c.credit += weights[c.owner]; c.credit < heaviest {
				continue
			}
			c.credit -= heaviest
			for claimed[c.next/64]&(1<<(c.next%64)) != 0 {
				c.step(size)
			}
			claimed[c.next/64] |= 1 << (c.next % 64)
			table[c.next] = c.owner
			if taken++; taken == size {
				return table
			}
		}
	}
}

// claim is a backend's way through its permutation of the table's places.
type claim struct {
	next, skip uint64
	credit     uint64 // it claims a place whenever it has saved up the heaviest's weight
	owner      uint32
}

func (c *claim) step(size uint64) {
	if c.next += c.skip; c.next >= size {
		c.next -= size
	}
}

// newClaims returns the backends' claims in an order that does not depend on the one they are listed in.
func newClaims(backends []*Backend, weights []uint64, heaviest, size uint64) []claim {
	claims := make([]claim, len(backends))
	for i, b := range backends {
		name := BytesKey(b.Instance)
		claims[i] = claim{next: mix(name) % size, skip: mix(name+golden)%(size-1) + 1, owner: uint32(i), credit: heaviest - weights[i]}
	}
	slices.SortFunc(claims, func(a, b claim) int { return backends[a.owner].compare(backends[b.owner]) })
	return claims
}

func (m maglev) Next(_ []*Backend, key uint64) int {
	place, _ := bits.Mul64(mix(key), uint64(len(m)))
	return int(m[place])
}
