package kind

import (
	"testing"

	"vortex/internal/kind/engine"
)

func TestMarksNeverGoBack(t *testing.T) {
	c := clock{}
	txn := engine.Txn{Writes: []engine.Write{{Key: "k"}}}
	const start, hour = int64(1_700_000_000_000), int64(3_600_000)
	for _, step := range []struct {
		what string
		now  int64
		want bool
	}{
		{"the first write", start, true},
		{"at once again", start + 1, false},
		{"under load", start + 99, false},
		{"a tenth of a second later", start + 100, true},
		{"a clock an hour ahead", start + hour, true},
		{"the right clock after it", start + 300, false},
		{"still", start + hour - 1, false},
		{"when it has caught up", start + hour + 100, true},
	} {
		marked, due := c.stamp(txn, step.now)
		if due != step.want {
			t.Fatalf("%s: a mark is due: %t; want %t", step.what, due, step.want)
		}
		if !due {
			continue
		}
		mark := marked.Writes[1]
		if before := c.newest; markTime(mark.Value) < before {
			t.Fatalf("%s: the mark %d is older than %d", step.what, markTime(mark.Value), before)
		}
		c.take(engine.KV{Key: mark.Key, Value: mark.Value, ModRevision: c.revision + 1})
	}
	if _, due := c.stamp(engine.Txn{Compares: []engine.Compare{{Key: "k"}}}, start+9*hour); due {
		t.Fatal("a transaction that only compares brings a mark")
	}
}

func TestMarkThatWasNotTakenInIsTriedAgain(t *testing.T) {
	c := clock{}
	txn := engine.Txn{Writes: []engine.Write{{Key: "k"}}}
	for _, now := range []int64{1000, 1100, 500} { // the clock was set back
		if _, due := c.stamp(txn, now); !due {
			t.Fatalf("at %d no mark is due", now)
		}
	}
}
