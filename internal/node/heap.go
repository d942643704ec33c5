package node

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
)

const (
	// heapRoom is how far the heap may grow beyond what lives before the next collection. Go would let it grow by as
	// much as lives, which is right while that is little; a store of a million records would take twice its memory.
	heapRoom = 160 << 20
	// loadRoom is the same while the store is read from disk: then nearly all of what is allocated stays, and each
	// collection is in vain.
	loadRoom   = 400 << 20
	usualGrow  = 100 // per cent, Go's own
	leastGrow  = 15  // per cent: below, collecting costs more than the memory is worth
	liveMetric = "/gc/heap/live:bytes"
)

// room is how far the heap may grow now; 0 as long as nobody bounds it. The heap is the process's, however many nodes run in it.
var room atomic.Uint64

// boundHeap keeps the heap's growth between collections to loadRoom from now on, by a look at each collection, and
// settleHeap to heapRoom. GOGC in the environment has the last word.
func boundHeap() {
	if _, set := os.LookupEnv("GOGC"); !set && room.Swap(loadRoom) == 0 {
		afterCollection(usualGrow)
	}
}

// settleHeap is called when the store is loaded. It gives back what loading took beyond what stays, where that is much.
func settleHeap() {
	if room.Load() != 0 {
		room.Store(heapRoom)
	}
	if live() > heapRoom {
		debug.FreeOSMemory()
	}
}

// live is how many bytes the last collection found in use.
func live() uint64 {
	sample := []metrics.Sample{{Name: liveMetric}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// afterCollection waits, without a goroutine, for the next collection to find something that nobody needs, and then
// sets how far the heap may grow, which is grow per cent now.
func afterCollection(grow int) {
	unneeded := new([64]byte) // too large to share its memory with what is needed
	runtime.AddCleanup(unneeded, func(grow int) {
		next := growth(live(), room.Load())
		if next != grow {
			debug.SetGCPercent(next)
		}
		afterCollection(next)
	}, grow)
}

// growth is by how many per cent the heap may grow beyond what lives.
func growth(live, room uint64) int {
	if live <= room {
		return usualGrow
	}
	return int(max(room*usualGrow/live, leastGrow))
}
