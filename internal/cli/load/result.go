package load

import (
	"math"
	"slices"
	"time"
)

// Result is what one kind of operation showed.
type Result struct {
	Name               string // the mode, with the operation behind it where there are several
	Operations, Errors int
	Took               time.Duration
	P50, P95, P99, Max time.Duration // of the operations that succeeded
	First              error         // of Errors
}

// Rate is how many operations succeeded in a second.
func (r Result) Rate() float64 {
	if r.Took <= 0 {
		return 0
	}
	return float64(r.Operations) / r.Took.Seconds()
}

// tally is what a client noted of one kind of operation.
type tally struct {
	latencies []time.Duration
	errors    int
	first     error
}

func (t *tally) add(took time.Duration, err error) {
	if err != nil {
		t.fail(1, err)
		return
	}
	t.latencies = append(t.latencies, took)
}

// fail notes n errors.
func (t *tally) fail(n int, err error) {
	if n > 0 && t.first == nil {
		t.first = err
	}
	t.errors += n
}

func (t *tally) merge(other *tally) {
	t.latencies = append(t.latencies, other.latencies...)
	t.fail(other.errors, other.first)
}

// result sums up a tally, which it sorts.
func (t *tally) result(name string, took time.Duration) Result {
	slices.Sort(t.latencies)
	const median, most, nearlyAll = 0.5, 0.95, 0.99
	return Result{
		Name: name, Operations: len(t.latencies), Errors: t.errors, First: t.first, Took: took,
		P50: percentile(t.latencies, median), P95: percentile(t.latencies, most),
		P99: percentile(t.latencies, nearlyAll), Max: percentile(t.latencies, 1),
	}
}

// percentile returns the smallest of the sorted values that a share of them does not exceed; 0 when there are none.
func percentile(sorted []time.Duration, share float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(math.Ceil(share * float64(len(sorted))))
	return sorted[max(rank, 1)-1]
}
