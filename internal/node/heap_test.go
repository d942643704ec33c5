package node

import "testing"

func TestTheHeapMayGrowByABoundedAmount(t *testing.T) {
	for live, want := range map[uint64]int{0: 100, 20 << 20: 100, heapRoom: 100, 2 * heapRoom: 50, 1 << 40: leastGrow} {
		if got := growth(live, heapRoom); got != want {
			t.Errorf("with %d MiB alive: %d per cent; want %d", live>>20, got, want)
		}
	}
}
