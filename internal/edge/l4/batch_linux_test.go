package l4

import (
	"fmt"
	"testing"
)

// TestBatchGathersWhatWaits lets more datagrams wait than one system call receives.
func TestBatchGathersWhatWaits(t *testing.T) {
	from, to := pair(t)
	const waiting = 2*batchSize + 5
	for i := range waiting {
		if _, err := fmt.Fprintf(from, "datagram %d", i); err != nil {
			t.Fatal(err)
		}
	}
	var b batch
	if err := b.init(gatherSlots); err != nil {
		t.Fatal(err)
	}
	defer b.free()
	fd := descriptor(t, to)
	if got := b.gather(fd); got != waiting {
		t.Fatalf("gathered %d of %d datagrams", got, waiting)
	}
	for i := range waiting {
		if got, want := string(b.bytes(i)), fmt.Sprintf("datagram %d", i); got != want {
			t.Fatalf("slot %d holds %q, want %q", i, got, want)
		}
	}
	if got := b.gather(fd); got != 0 {
		t.Errorf("gathered %d datagrams of none", got)
	}
	if _, err := fmt.Fprint(from, "one more"); err != nil {
		t.Fatal(err)
	}
	if got := b.gather(fd); got != 1 || string(b.bytes(0)) != "one more" {
		t.Errorf("gathered %d, the first is %q", got, b.bytes(0))
	}
}
