package enginetest

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"vortex/internal/kind/engine"
)

// testAnyBytes holds that keys and values are bytes, not text, and that keys are in the order of their bytes.
func testAnyBytes(t *testing.T, e engine.Engine) {
	t.Helper()
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	values := []string{"", "\x00", "\xff\xfe", "a\x00b", string(every), strings.Repeat("\x00", 100_000)}
	keys := []string{"\x00", "\x00\x00", "\x00a", "A", "Z", "_", "a", "a\x00", "a\x00b", "a b", "ab", "z", "é", "ÿ", "\xc3", "\xff", "\xff\xff"}
	keys = append(keys, strings.Repeat("k", 1024))
	order := func(n int) string { return keys[(n*7)%len(keys)] } // 7 and 18 share no factor: each once, not in order
	var from int64
	for n := range keys {
		if rev := Commit(t, e, Put(order(n), values[n%len(values)])); from == 0 {
			from = rev
		}
	}
	w := Watch(t, e, from)
	for n := range keys {
		_, changes := w.Next()
		equal(t, "what a watch tells", changes, []string{order(n) + "=" + values[n%len(values)]})
	}
	last := ""
	for i, record := range now(t, e, "", "") {
		key, _, _ := strings.Cut(record, "=")
		if i > 0 && key <= last {
			t.Errorf("key %q after %q", key, last)
		}
		last = key
	}
	equal(t, "keys", len(now(t, e, "", "")), len(keys))
	equal(t, "a range with bytes above text", len(now(t, e, "\xc3", "\xff\xff")), 4)
}

// testOneWinner lets many ask for the same key at once: exactly one gets it.
func testOneWinner(t *testing.T, e engine.Engine) {
	t.Helper()
	const rivals, rounds = 16, 10
	for round := range rounds {
		key := fmt.Sprintf("prize%d", round)
		var won atomic.Int32
		var winner atomic.Value
		var wg sync.WaitGroup
		for n := range rivals {
			wg.Go(func() {
				mine := strconv.Itoa(n)
				result, err := e.Commit(t.Context(), engine.Txn{
					Compares: []engine.Compare{{Key: key}}, Writes: []engine.Write{Put(key, mine), Put(key+"/mark"+mine, "")},
				})
				if err != nil {
					t.Errorf("commit: %v", err)
				}
				if result.Committed {
					won.Add(1)
					winner.Store(mine)
				}
			})
		}
		wg.Wait()
		equal(t, "winners", won.Load(), 1)
		equal(t, "what is there", now(t, e, key, key+"0"), []string{
			fmt.Sprintf("%s=%v", key, winner.Load()), fmt.Sprintf("%s/mark%v=", key, winner.Load()),
		})
	}
}

// testLostBesideWon commits many at once of which every other one must lose: each has its own outcome and revision.
func testLostBesideWon(t *testing.T, e engine.Engine) {
	t.Helper()
	const writers, rounds = 12, 10
	from := Commit(t, e, Put("taken", "x")) + 1
	var mu sync.Mutex
	at := map[string]int64{}
	var wg sync.WaitGroup
	for n := range writers {
		wg.Go(func() {
			for round := range rounds {
				key := fmt.Sprintf("k%d-%d", n, round)
				txn := engine.Txn{Writes: []engine.Write{Put(key, "v")}}
				if n%2 == 1 {
					txn.Compares = []engine.Compare{{Key: "taken"}}
				}
				result, err := e.Commit(t.Context(), txn)
				if err != nil || result.Committed == (n%2 == 1) {
					t.Errorf("%s: %+v, %v", key, result, err)
				}
				mu.Lock()
				at[key] = result.Revision
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	w := Watch(t, e, from)
	for seen := 0; seen < writers/2*rounds; {
		rev, changes := w.Next()
		for _, change := range changes {
			key := strings.TrimSuffix(change, "=v")
			equal(t, "revision of "+key, at[key], rev)
			seen++
		}
	}
	equal(t, "keys", len(now(t, e, "k", "l")), writers/2*rounds)
}
