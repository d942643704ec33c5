package load

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestResultsAreSummedUp(t *testing.T) {
	var all tally
	for ms := 100; ms > 0; ms-- {
		all.add(time.Duration(ms)*time.Millisecond, nil)
	}
	broken := errors.New("broken")
	all.merge(&tally{errors: 2, first: broken})
	all.merge(&tally{errors: 1, first: errors.New("later")})
	got := all.result("put", 2*time.Second)
	want := Result{
		Name: "put", Operations: 100, Errors: 3, First: broken, Took: 2 * time.Second,
		P50: 50 * time.Millisecond, P95: 95 * time.Millisecond, P99: 99 * time.Millisecond, Max: 100 * time.Millisecond,
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateErrors()); diff != "" || got.Rate() != 50 {
		t.Errorf("%v a second (-want +got):\n%s", got.Rate(), diff)
	}
	if none := new(tally).result("get", 0); none.Max != 0 || none.Rate() != 0 {
		t.Errorf("of nothing: %+v", none)
	}
}

func TestWhatDoesNotArriveIsAnError(t *testing.T) {
	due := time.Now()
	sent := map[uint64]time.Time{1: due, 2: due.Add(time.Second)}
	dropped := errors.New("dropped")
	watchers := []watcher{
		{seen: []arrival{{1, due.Add(3)}, {2, due.Add(time.Second + 5)}}},
		{seen: []arrival{{1, due.Add(7)}, {99, due}}, err: dropped},
	}
	total := delays(sent, watchers, false)
	if diff := cmp.Diff([]time.Duration{3, 5, 7}, total.latencies); diff != "" || total.errors != 1 || !errors.Is(total.first, dropped) {
		t.Errorf("%d errors, %v (-want +got):\n%s", total.errors, total.first, diff)
	}
	if stopped := delays(sent, watchers, true); stopped.errors != 0 {
		t.Errorf("an interrupt is no failure of the store: %v", stopped.first)
	}
}

func TestValuesHaveTheirSize(t *testing.T) {
	for _, size := range []int{1, 2, 300} {
		l := Load{Size: size}
		if got := len(l.value(12345)); got != size {
			t.Errorf("%d bytes; want %d", got, size)
		}
	}
}
