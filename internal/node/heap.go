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
	heapRoom   = 160 << 20
	usualGrow  = 100 // per cent, Go's own
	leastGrow  = 15  // per cent: below, collecting costs more than the memory is worth
	liveMetric = "/gc/heap/live:bytes"
)

// boundHeap keeps the heap's growth between collections to heapRoom from now on, by a look at each collection. GOGC in the
// environment has the last word.
func boundHeap() {
	if _, set := os.LookupEnv("GOGC"); set || bounded.Swap(true) {
		return
	}
	afterCollection(usualGrow)
}

// bounded is set once: the heap is the process's, however many nodes run in it.
var bounded atomic.Bool

// afterCollection waits, without a goroutine, for the next collection to find something that nobody needs, and then
// sets how far the heap may grow, which is grow per cent now.
func afterCollection(grow int) {
	unneeded := new([64]byte) // too large to share its memory with what is needed
	runtime.AddCleanup(unneeded, func(grow int) {
		sample := []metrics.Sample{{Name: liveMetric}}
		metrics.Read(sample)
		next := growth(sample[0].Value.Uint64())
		if next != grow {
			debug.SetGCPercent(next)
		}
		afterCollection(next)
	}, grow)
}

// growth is by how many per cent the heap may grow beyond what lives.
func growth(live uint64) int {
	if live <= heapRoom {
		return usualGrow
	}
	return int(max(heapRoom*usualGrow/live, leastGrow))
}
