package kind_test

import (
	"strconv"
	"sync"
	"testing"
	"time"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
)

func TestTxnTakesExpiredRecordsForAbsent(t *testing.T) {
	store := kindtest.Open(t) // nobody sweeps: what has expired is still in the engine
	rev, err := store.Put(t.Context(), "lease", []byte("old"), 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	kindtest.Eventually(t, "the lease expires", func() bool { _, err := store.Get("lease"); return err != nil })
	for what, c := range map[string]kind.Condition{
		"its revision": kind.IfRevision("lease", rev), "its value": kind.IfValue("lease", []byte("old")),
	} {
		_, err := store.Commit(t.Context(), kind.Txn{If: []kind.Condition{c}, Ops: []kind.Op{{Key: "x", Value: []byte("1")}}})
		if !vortex.IsKind(err, vortex.Conflict) {
			t.Errorf("a compare with %s after it expired: %v; want Conflict", what, err)
		}
	}
	if _, err := store.Get("x"); !vortex.IsKind(err, vortex.NotFound) {
		t.Errorf("a transaction that lost wrote: %v", err)
	}
	absent := []kind.Condition{kind.IfRevision("lease", 0), kind.IfValue("lease", nil), kind.IfRevision("never", 0)}
	if _, err = store.Commit(t.Context(), kind.Txn{If: absent, Ops: []kind.Op{{Key: "lease", Value: []byte("new"), TTL: time.Hour}}}); err != nil {
		t.Errorf("a compare with absence: %v", err)
	}
	if rec, err := store.Get("lease"); err != nil || string(rec.Value) != "new" || rec.ExpiresAt == 0 {
		t.Errorf("the new lease: %+v, %v", rec, err)
	}
}

// TestTxnsMoveMoneyBetweenAccounts lets writers move amounts between two records; nothing may appear or vanish, and every
// reader sees both sides of a transfer or none.
func TestTxnsMoveMoneyBetweenAccounts(t *testing.T) {
	store := kindtest.Open(t)
	const total, writers, rounds = 100, 6, 25
	put(t, store, "a", strconv.Itoa(total))
	put(t, store, "b", "0")
	balances := func() (a, b int, conditions []kind.Condition) {
		store.View(func(v kind.View) {
			for key, to := range map[string]*int{"a": &a, "b": &b} {
				rec, _ := v.Get(key)
				*to, _ = strconv.Atoi(string(rec.Value))
				conditions = append(conditions, kind.IfRevision(key, rec.ModRevision))
			}
		})
		return a, b, conditions
	}
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for done := 0; done < rounds; {
				a, b, conditions := balances()
				if a+b != total {
					t.Errorf("a reader sees %d and %d", a, b)
					return
				}
				_, err := store.Commit(t.Context(), kind.Txn{If: conditions, Ops: []kind.Op{
					{Key: "a", Value: []byte(strconv.Itoa(a - 1))}, {Key: "b", Value: []byte(strconv.Itoa(b + 1))},
				}})
				switch {
				case err == nil:
					done++
				case !vortex.IsKind(err, vortex.Conflict):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if a, b, _ := balances(); b != writers*rounds || a != total-b {
		t.Errorf("%d and %d are left; want %d moved", a, b, writers*rounds)
	}
}
