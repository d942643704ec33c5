package etcd

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"testing/synctest"

	"vortex"
	"vortex/internal/kind/engine"
)

// line is a send that waits until it is let through, and notes what each round carried.
type line struct {
	through chan error
	carried [][]engine.Txn
}

func (l *line) send(_ context.Context, txns []engine.Txn) ([]engine.Result, error) {
	l.carried = append(l.carried, txns)
	n := int64(len(l.carried))
	if err := <-l.through; err != nil {
		return nil, err
	}
	results := make([]engine.Result, len(txns))
	for i := range results {
		results[i] = engine.Result{Committed: true, Revision: n}
	}
	return results, nil
}

func put(key string) engine.Txn { return engine.Txn{Writes: []engine.Write{{Key: key}}} }

// busy returns groups whose rounds are all under way.
func busy(t *testing.T, l *line) *groups {
	t.Helper()
	g := &groups{send: l.send, room: bounds{operations: 1000, bytes: 1000}}
	for n := range pipelined {
		go func() { _, _ = g.commit(t.Context(), put(fmt.Sprint("first", n))) }()
		synctest.Wait()
	}
	return g
}

func TestThoseWhoWaitShareARound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &line{through: make(chan error)}
		g := busy(t, l)
		revisions := make([]int64, 20)
		for i := range revisions {
			go func() {
				result, err := g.commit(t.Context(), put(strconv.Itoa(i)))
				if err != nil || !result.Committed {
					t.Errorf("%+v, %v", result, err)
				}
				revisions[i] = result.Revision
			}()
		}
		synctest.Wait()
		for range pipelined + 1 {
			l.through <- nil
			synctest.Wait()
		}
		for i, rev := range revisions {
			if rev != pipelined+1 {
				t.Errorf("transaction %d happened at %d; want all in round %d", i, rev, pipelined+1)
			}
		}
		g.wait()
	})
}

func TestALeaverTakesOnlyItselfAlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &line{through: make(chan error)}
		g := busy(t, l)
		ctx, cancel := context.WithCancel(t.Context())
		left, stays := make(chan error, 1), make(chan error, 1)
		go func() { _, err := g.commit(ctx, put("leaves")); left <- err }()
		go func() { _, err := g.commit(t.Context(), put("stays")); stays <- err }()
		synctest.Wait()
		cancel()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("who left: %v", err)
		}
		for range pipelined + 1 {
			l.through <- nil
			synctest.Wait()
		}
		if err := <-stays; err != nil {
			t.Errorf("who stayed: %v", err)
		}
		if last := l.carried[pipelined]; len(last) != 1 || last[0].Writes[0].Key != "stays" {
			t.Errorf("the last round carried %v", last)
		}
	})
}

func TestARefusedRoundIsDoneOneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &line{through: make(chan error)}
		g := busy(t, l)
		outcome := make(chan error, 3)
		for n := range 3 {
			go func() { _, err := g.commit(t.Context(), put(strconv.Itoa(n))); outcome <- err }()
		}
		synctest.Wait()
		refused := vortex.Errorf(vortex.Invalid, "too large")
		for _, answer := range []error{nil, nil, refused, nil, refused, nil} { // the first two, the round, each by itself
			l.through <- answer
			synctest.Wait()
		}
		bad := 0
		for range 3 {
			if err := <-outcome; err != nil {
				bad++
			}
		}
		if bad != 1 {
			t.Errorf("%d of 3 failed; want only the one that is refused by itself", bad)
		}
	})
}
