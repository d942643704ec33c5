package node

import "testing"

// TestProgramGoesOnAfterItsPagesWereGivenBack is done in the midst of all that runs.
func TestProgramGoesOnAfterItsPagesWereGivenBack(t *testing.T) {
	ranges := 0
	for from, to := range programPages() {
		if ranges++; from >= to {
			t.Errorf("a range from %x to %x", from, to)
		}
	}
	if ranges < 2 { // its code and its constants
		t.Errorf("%d ranges of memory are the program's", ranges)
	}
	leanAfterStart()
}
