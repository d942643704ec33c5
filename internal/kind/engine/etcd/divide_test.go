package etcd

import (
	"fmt"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"vortex/internal/kind/engine"
)

// TestDivide holds what a round promises, for any transactions: each is in exactly one, none meets another, and no round
// but one of a single transaction is larger than it may be.
func TestDivide(t *testing.T) {
	room := bounds{operations: 12, bytes: 60}
	rapid.Check(t, func(t *rapid.T) {
		waiting := make([]*pending, rapid.IntRange(1, 40).Draw(t, "transactions"))
		for i := range waiting {
			waiting[i] = &pending{txn: drawTxn(t)}
		}
		seen := map[*pending]bool{}
		for n, round := range divide(waiting, room) {
			var sum bounds
			for i, p := range round {
				if seen[p] {
					t.Fatalf("a transaction of round %d is in two", n)
				}
				seen[p] = true
				size := sizeOf(p.txn)
				sum.operations += size.operations
				sum.bytes += size.bytes
				for _, other := range round[:i] {
					if meet(p.txn, other.txn) || meet(other.txn, p.txn) {
						t.Fatalf("round %d holds %v and %v", n, p.txn, other.txn)
					}
				}
			}
			if len(round) == 0 || len(round) > 1 && (sum.operations > room.operations || sum.bytes > room.bytes) {
				t.Fatalf("round %d of %d transactions has the size %v", n, len(round), sum)
			}
		}
		if len(seen) != len(waiting) {
			t.Fatalf("%d of %d transactions are in a round", len(seen), len(waiting))
		}
	})
}

// meet reports whether a writes what b writes or compares.
func meet(a, b engine.Txn) bool {
	for _, w := range a.Writes {
		for _, other := range b.Writes {
			if w.Key == other.Key {
				return true
			}
		}
		for _, c := range b.Compares {
			if w.Key == c.Key {
				return true
			}
		}
	}
	return false
}

func drawTxn(t *rapid.T) (txn engine.Txn) {
	keys := rapid.SliceOfNDistinct(rapid.IntRange(0, 30), 1, 4, rapid.ID[int]).Draw(t, "keys")
	for _, k := range keys {
		key := fmt.Sprintf("k%02d", k)
		how := rapid.IntRange(0, 2).Draw(t, "how")
		if how != 0 {
			txn.Compares = append(txn.Compares, engine.Compare{Key: key})
		}
		if how != 1 {
			txn.Writes = append(txn.Writes, engine.Write{Key: key, Value: make([]byte, rapid.IntRange(0, 30).Draw(t, "size"))})
		}
	}
	return txn
}

// TestOneKeyTakesOneRoundEach: writers of one key do not wait for each other's rounds in turn; the log orders them.
func TestOneKeyTakesOneRoundEach(t *testing.T) {
	waiting := make([]*pending, 100)
	for i := range waiting {
		waiting[i] = &pending{txn: engine.Txn{Writes: []engine.Write{{Key: "hot"}, {Key: strconv.Itoa(i)}}}}
	}
	if rounds := divide(waiting, bounds{operations: 1000, bytes: 1000}); len(rounds) != len(waiting) {
		t.Errorf("%d rounds", len(rounds))
	}
}
