package meter

import (
	"sync/atomic"
	"time"
)

const (
	slotLength = 100 * time.Millisecond
	slotCount  = 16 // a power of two above the slots of one second and the one being filled
	slotsShown = int64(time.Second / slotLength)
)

// Window counts what happened in the last second. It slides in steps of a tenth of a second, with the oldest
// tenth weighted by how much of it still counts. The zero value is ready. Adding neither locks nor allocates.
type Window struct {
	slots [slotCount]atomic.Uint64 // the tenth's number since the epoch in the upper half, its count in the lower
}

// Add counts one happening at now, in nanoseconds of the clock that Count is asked with.
func (w *Window) Add(now int64) {
	tenth := uint64(now/int64(slotLength)) & 0xffffffff
	slot := &w.slots[tenth%slotCount]
	for {
		old := slot.Load()
		next := tenth<<32 | 1
		if old>>32 == tenth {
			next = old + 1
		}
		if slot.CompareAndSwap(old, next) {
			return
		}
	}
}

// Count returns how many happenings the second before now saw.
func (w *Window) Count(now int64) uint32 {
	current := now / int64(slotLength)
	var sum float64
	for i := range slotsShown {
		sum += float64(w.slot(current - i))
	}
	elapsed := float64(now%int64(slotLength)) / float64(slotLength)
	sum += float64(w.slot(current-slotsShown)) * (1 - elapsed)
	return uint32(sum + 0.5)
}

func (w *Window) slot(number int64) uint32 {
	tenth := uint64(number) & 0xffffffff
	value := w.slots[tenth%slotCount].Load()
	if value>>32 != tenth {
		return 0
	}
	return uint32(value)
}
