package limit

import (
	"strconv"
	"testing"
	"time"
)

// fleet is edges that ask each other now and then.
type fleet struct {
	limiters []*Limiter
	rules    []*Rule
}

func newFleet(n int, c Config) *fleet {
	f := &fleet{}
	for range n {
		l := New()
		f.limiters = append(f.limiters, l)
		f.rules = append(f.rules, l.Rule("test", c))
	}
	return f
}

// run lets every edge be asked at its own even rate, per second, for some seconds, and returns how many requests each second let through.
// The edges report once a second, each at its own moment, and are heard 30 ms later.
func (f *fleet) run(from, seconds int, rates ...int) (perSecond []int) {
	const steps = 1000
	debts := make([]int, len(rates))
	type letter struct {
		at   int64
		from int
		uses []Use
	}
	var mail []letter
	for second := from; second < from+seconds; second++ {
		passed := 0
		for step := range steps {
			now := int64(second)*int64(time.Second) + int64(step)*int64(time.Second)/steps
			for len(mail) > 0 && mail[0].at <= now {
				for i, l := range f.limiters {
					if i != mail[0].from {
						l.Learn(strconv.Itoa(mail[0].from), mail[0].uses, now)
					}
				}
				mail = mail[1:]
			}
			for i, rate := range rates {
				if step == i*steps/len(rates) {
					mail = append(mail, letter{now + int64(30*time.Millisecond), i, f.limiters[i].Report(now, time.Second)})
				}
				for debts[i] += rate; debts[i] >= steps; debts[i] -= steps {
					if f.rules[i].Allow(Key{}, now).OK {
						passed++
					}
				}
			}
		}
		perSecond = append(perSecond, passed)
	}
	return perSecond
}

func sum(list []int) (n int) {
	for _, v := range list {
		n += v
	}
	return n
}

func TestEdgesHoldALimitTogether(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		window time.Duration
		rates  []int
	}{
		{10 * time.Second, []int{500, 500}},
		{10 * time.Second, []int{400, 300, 200}},
		{10 * time.Second, []int{2000, 20}},
		{time.Minute, []int{500, 500, 500}},
		{5 * time.Second, []int{300, 300, 300, 300, 300}},
		{time.Second, []int{500, 400}},
		{10 * time.Second, []int{80, 60}}, // a little over the limit of 100 per second
	} {
		windows := int(test.window / time.Second)
		f := newFleet(len(test.rates), Config{Limit: uint64(100 * windows), Window: test.window})
		f.run(0, 4*windows+10, test.rates...)
		from := 4*windows + 10
		total := sum(f.run(from, 4*windows, test.rates...))
		want := 400 * windows
		t.Logf("window %v, rates %v: %d of %d, %+.1f %%", test.window, test.rates, total, want, 100*float64(total-want)/float64(want))
		if total > want*103/100 || total < want*95/100 {
			t.Errorf("window %v, rates %v: %d requests let through, want %d", test.window, test.rates, total, want)
		}
	}
}

func TestBelowTheLimitNobodyIsRefused(t *testing.T) {
	t.Parallel()
	f := newFleet(3, Config{Limit: 1000, Window: 10 * time.Second})
	f.run(0, 20, 30, 30, 30) // until they know each other's demand
	if got := sum(f.run(20, 60, 30, 30, 30)); got < 60*90 {
		t.Errorf("%d of %d let through", got, 60*90)
	}
}

func TestAnEdgeGoesOnAlone(t *testing.T) {
	t.Parallel()
	f := newFleet(2, Config{Limit: 1000, Window: 10 * time.Second})
	f.run(0, 40, 500, 500)
	alone := &fleet{f.limiters[:1], f.rules[:1]}
	now := int64(40 * time.Second)
	for range 30 { // the other says nothing more
		now += int64(time.Second)
		alone.limiters[0].Settle(now)
		alone.run(int(now/int64(time.Second)), 1, 500)
	}
	if got := sum(alone.run(71, 20, 500)); got < 1950 || got > 2050 {
		t.Errorf("%d let through in two windows, want the whole limit of 2000", got)
	}
	f.limiters[0].Learn("1", nil, int64(91*time.Second))
	if len(f.limiters[0].told) > 0 {
		t.Error("what an edge said that is gone still counts")
	}
}

func TestNewsOfOddContentsAreHarmless(t *testing.T) {
	t.Parallel()
	f := newFleet(1, Config{Limit: 10, Window: 10 * time.Second})
	now := int64(time.Hour)
	f.limiters[0].Learn("other", []Use{
		{Rule: "unknown", Window: now / int64(10*time.Second), Current: 10},
		{Rule: "test", Window: 1, Current: 1 << 60},
		{Rule: "test", Window: 1 << 60, Current: 1 << 60, Demand: -1},
		{Rule: "test", Key: Key{low: 2}, Window: now / int64(10*time.Second), Current: 1 << 63, Demand: 1e300},
	}, now)
	if got := allowed(f.rules[0], Key{}, time.Hour, 20); got != 10 {
		t.Errorf("%d allowed, want 10", got)
	}
	if got := allowed(f.rules[0], Key{low: 2}, time.Hour, 20); got != 0 {
		t.Errorf("%d allowed of what was used up elsewhere", got)
	}
}
