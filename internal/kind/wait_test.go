package kind

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
)

// TestEachWaiterWakesWithItsRevision: nobody wakes early, nobody is forgotten, and who left is not remembered.
func TestEachWaiterWakesWithItsRevision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w waiters
		const last = 50
		woken := make([]bool, 2*last)
		for _, i := range rand.Perm(2 * last) {
			entry := w.join(int64(i/2+1), func() bool { return false })
			if i%7 == 0 {
				w.leave(entry)
				woken[i] = true // it no longer waits
				continue
			}
			go func() { <-entry.reached; woken[i] = true }()
		}
		for rev := 5; rev <= last; rev += 5 {
			w.wake(int64(rev))
			synctest.Wait()
			for i, is := range woken {
				if is != (i/2+1 <= rev || i%7 == 0) {
					t.Fatalf("at revision %d the waiter for %d: woken %t", rev, i/2+1, is)
				}
			}
		}
		if len(w.queue) != 0 || w.join(1, func() bool { return true }) != nil {
			t.Errorf("%d entries are left", len(w.queue))
		}
	})
}
