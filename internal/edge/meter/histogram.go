package meter

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// A histogram's buckets are log-linear: every doubling of the duration is cut into eight equal steps, so a
// quantile read from it is at most about six percent off.
const (
	stepBits    = 3
	steps       = 1 << stepBits
	firstOctave = 6                  // 2^6 µs: everything shorter falls into the first bucket
	octaves     = 21                 // up to 2^27 µs, 134 seconds
	bucketCount = octaves*steps + 2  // one below and one above
	overflow    = bucketCount - 1    //
	minimum     = 1 << firstOctave   // µs
	maximum     = minimum << octaves // µs
)

// counts are how many durations fell into each bucket.
type counts [bucketCount]uint64

// Histogram collects durations. The zero value is ready. Observing neither locks nor allocates.
type Histogram struct {
	buckets [bucketCount]atomic.Uint64
	sum     atomic.Uint64 // microseconds
}

// Observe adds one duration.
func (h *Histogram) Observe(d time.Duration) {
	us := uint64(max(d.Microseconds(), 0))
	h.buckets[bucketOf(us)].Add(1)
	h.sum.Add(us)
}

// bucketOf returns the bucket of a duration in microseconds.
func bucketOf(us uint64) int {
	switch {
	case us < minimum:
		return 0
	case us >= maximum:
		return overflow
	}
	octave := bits.Len64(us) - 1
	step := us >> (octave - stepBits) & (steps - 1)
	return 1 + (octave-firstOctave)*steps + int(step)
}

// upperBound returns the duration, in microseconds, that every duration in a bucket is below.
func upperBound(bucket int) uint64 {
	switch bucket {
	case 0:
		return minimum
	case overflow:
		return maximum * 2
	}
	octave := (bucket-1)/steps + firstOctave
	step := uint64((bucket - 1) % steps)
	return (steps + step + 1) << (octave - stepBits)
}

// snapshot copies the counts. Observations made meanwhile may or may not be in it.
func (h *Histogram) snapshot() *counts {
	c := new(counts)
	for i := range h.buckets {
		c[i] = h.buckets[i].Load()
	}
	return c
}

// since returns the counts that came after an earlier snapshot; nil stands for the beginning.
func (c *counts) since(earlier *counts) *counts {
	if earlier == nil {
		return c
	}
	d := new(counts)
	for i := range c {
		d[i] = c[i] - earlier[i]
	}
	return d
}

func (c *counts) total() uint64 {
	var n uint64
	for _, v := range c {
		n += v
	}
	return n
}

// quantile returns, in milliseconds, the middle of the bucket that holds the q-quantile; 0 of no durations.
func (c *counts) quantile(q float64) float64 {
	total := c.total()
	if total == 0 {
		return 0
	}
	rank := uint64(q * float64(total-1))
	var seen uint64
	for i, n := range c {
		seen += n
		if n > 0 && seen > rank {
			return middle(i)
		}
	}
	return 0
}

func middle(bucket int) float64 {
	lower := uint64(0)
	if bucket > 0 {
		lower = upperBound(bucket - 1)
	}
	return float64(lower+upperBound(bucket)) / 2 / 1000
}
