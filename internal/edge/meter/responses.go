package meter

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// classCount is how many classes of statuses there are: from 1xx to 5xx.
const classCount = 5

// Responses counts answers by the class of their status, and how long they took. The zero value is ready. Observing is two atomic additions.
type Responses struct {
	cells [classCount][len(exposedBounds) + 1]atomic.Uint64
	sums  [classCount]atomic.Uint64 // microseconds
}

// Observe adds an answer. nil takes and forgets it.
func (r *Responses) Observe(status int, took time.Duration) {
	class := status/100 - 1
	if r == nil || class < 0 || class >= classCount {
		return
	}
	us := uint64(max(took.Microseconds(), 0))
	bucket := 0
	for bucket < len(exposedBounds) && us >= exposedBounds[bucket] {
		bucket++
	}
	r.cells[class][bucket].Add(1)
	r.sums[class].Add(us)
}

// Collect sends a histogram in seconds for each class there was an answer of. desc's last label is the class: 2xx.
func (r *Responses) Collect(ch chan<- prometheus.Metric, desc *prometheus.Desc, labels ...string) {
	for class := range r.cells {
		cumulative := make(map[float64]uint64, len(exposedBounds))
		var count uint64
		for i := range r.cells[class] {
			count += r.cells[class][i].Load()
			if i < len(exposedBounds) {
				cumulative[float64(exposedBounds[i])/1e6] = count
			}
		}
		if count == 0 {
			continue
		}
		values := append(append([]string(nil), labels...), strconv.Itoa(class+1)+"xx")
		ch <- prometheus.MustNewConstHistogram(desc, count, float64(r.sums[class].Load())/1e6, cumulative, values...)
	}
}
