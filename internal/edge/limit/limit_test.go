package limit

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

var someone = Address(netip.MustParseAddr("192.0.2.1"))

// allowed returns how many of n requests at a moment are allowed.
func allowed(r *Rule, key Key, at time.Duration, n int) int {
	count := 0
	for range n {
		if r.Allow(key, int64(at)).OK {
			count++
		}
	}
	return count
}

func TestWindowSlides(t *testing.T) {
	t.Parallel()
	r := New().Rule("test", Config{Limit: 100, Window: 10 * time.Second})
	for _, step := range []struct {
		at   time.Duration
		want int
	}{
		{0, 100},
		{9 * time.Second, 0},
		{10 * time.Second, 0},  // the window before still counts whole
		{15 * time.Second, 50}, // … half
		{20 * time.Second, 50}, // 50 of the window before
		{60 * time.Second, 100},
	} {
		if got := allowed(r, someone, step.at, 200); got != step.want {
			t.Errorf("at %v: %d allowed, want %d", step.at, got, step.want)
		}
	}
}

func TestRetrySaysWhenAnotherRequestFits(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]Config{
		"window": {Limit: 100, Window: 10 * time.Second},
		"one":    {Limit: 1, Window: 10 * time.Second},
		"burst":  {Limit: 100, Window: 10 * time.Second, Burst: 5},
	} {
		r := New().Rule("test", c)
		at := 3 * time.Second
		for range 500 {
			v := r.Allow(someone, int64(at))
			if v.OK {
				continue
			}
			if early := at + v.Retry*9/10; v.Retry > 2*time.Millisecond && r.Allow(someone, int64(early)).OK {
				t.Fatalf("%s: at %v told to wait %v, and let through after %v", name, at, v.Retry, early-at)
			}
			at += v.Retry + time.Millisecond
			if !r.Allow(someone, int64(at)).OK {
				t.Fatalf("%s: refused at %v, after the wait it was told", name, at)
			}
		}
	}
}

func TestVerdictCountsDown(t *testing.T) {
	t.Parallel()
	r := New().Rule("test", Config{Limit: 3, Window: 10 * time.Second})
	for want := 2; want >= 0; want-- {
		v := r.Allow(someone, int64(4*time.Second))
		if !v.OK || v.Remaining != uint64(want) || v.Limit != 3 || v.Reset != 6*time.Second {
			t.Errorf("got %+v, want %d remaining", v, want)
		}
	}
	if v := r.Allow(someone, int64(4*time.Second)); v.OK || v.Remaining != 0 || v.Retry <= 0 {
		t.Errorf("over the limit: %+v", v)
	}
	r.Return(someone, int64(4*time.Second))
	if !r.Allow(someone, int64(4*time.Second)).OK {
		t.Error("what was returned is not there again")
	}
}

func TestBurstKeepsThePace(t *testing.T) {
	t.Parallel()
	r := New().Rule("test", Config{Limit: 60, Window: time.Minute, Burst: 5})
	if got := allowed(r, someone, time.Hour, 100); got != 5 {
		t.Errorf("%d at once, want the burst of 5", got)
	}
	if got := allowed(r, someone, time.Hour+3*time.Second, 100); got != 3 {
		t.Errorf("%d after 3 seconds, want one per second", got)
	}
	total := 0
	for s := range 60 {
		total += allowed(r, Key{low: 1}, 2*time.Hour+time.Duration(s)*time.Second, 100)
	}
	if total > 60 || total < 55 {
		t.Errorf("%d in a window, want nearly 60 and no more", total)
	}
}

func TestClientsAreCountedApart(t *testing.T) {
	t.Parallel()
	l := New()
	r, other := l.Rule("test", Config{Limit: 1, Window: time.Hour}), l.Rule("other", Config{Limit: 1, Window: time.Hour})
	for _, test := range []struct {
		addr string
		want int
	}{
		{"192.0.2.1", 1},
		{"192.0.2.2", 1},
		{"::ffff:192.0.2.2", 0}, // the same, mapped
		{"2001:db8::1", 1},
		{"2001:db8::2", 0}, // the same /64
		{"2001:db8:0:1::1", 1},
	} {
		key := Address(netip.MustParseAddr(test.addr))
		if got := allowed(r, key, 0, 1); got != test.want {
			t.Errorf("%s: %d allowed, want %d", test.addr, got, test.want)
		}
	}
	if allowed(other, someone, 0, 2) != 1 || allowed(r, Value([]byte("a")), 0, 2) != 1 || allowed(r, Value([]byte("b")), 0, 2) != 1 {
		t.Error("rules or values share their counts")
	}
	if key, ok := ParseKey(someone.String()); !ok || key != someone {
		t.Errorf("%s was read as %v", someone, key)
	}
}

func TestSetChangesTheLimitAtOnce(t *testing.T) {
	t.Parallel()
	r := New().Rule("test", Config{Limit: 1, Window: time.Hour})
	if got := allowed(r, someone, 0, 1); got != 1 {
		t.Errorf("%d allowed", got)
	}
	r.Set(Config{Limit: 5, Window: time.Hour})
	if got := allowed(r, someone, 0, 10); got != 4 {
		t.Errorf("%d allowed, want 4 more", got)
	}
	r.Set(Config{})
	if got := allowed(r, someone, 0, 1000); got != 1000 {
		t.Errorf("%d of 1000 allowed by the default", got)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	l := New()
	r := l.Rule("test", Config{Limit: 1, Window: time.Hour})
	for i := range MaxClients + MaxClients/8 {
		r.Allow(Key{low: uint64(i)}, 0)
	}
	total, hot := 0, 0
	for i := range l.shards {
		total += len(l.shards[i].entries)
		hot += len(l.shards[i].hot)
	}
	if total > MaxClients || hot > shardCount*shardHot {
		t.Errorf("%d keys remembered, %d in view; want at most %d and %d", total, hot, MaxClients, shardCount*shardHot)
	}
	if n := len(l.Report(0, time.Second)); n > maxUses {
		t.Errorf("%d keys in a report, want at most %d", n, maxUses)
	}
}

// TestAFloodHidesNobody holds that who asks often stays counted, and told to other edges, while strangers flood the table.
func TestAFloodHidesNobody(t *testing.T) {
	t.Parallel()
	l := New()
	r := l.Rule("test", Config{Limit: 50, Window: time.Hour})
	passed := 0
	for i := range MaxClients + MaxClients/4 {
		r.Allow(Key{low: uint64(i)}, 0)
		if i%100 == 0 && r.Allow(someone, 0).OK {
			passed++
		}
	}
	if passed != 50 {
		t.Errorf("%d requests let through, want 50", passed)
	}
	for _, u := range l.Report(0, time.Second) {
		if u.Key == someone && u.Current == 50 {
			return
		}
	}
	t.Error("other edges are not told")
}

func TestAllowDoesNotAllocate(t *testing.T) {
	r := New().Rule("test", Config{Limit: 1000, Window: time.Second, Burst: 10})
	now := int64(0)
	if n := testing.AllocsPerRun(1000, func() {
		now += int64(time.Millisecond)
		r.Allow(someone, now)
		r.Allow(Value([]byte("some key")), now)
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestConns(t *testing.T) {
	t.Parallel()
	c := NewConns(2)
	a, b := Key{low: 1}, Key{low: 2}
	for i, want := range []bool{true, true, false} {
		if c.Enter(a) != want {
			t.Errorf("connection %d of two is let in: %v", i+1, !want)
		}
	}
	if !c.Enter(b) {
		t.Error("another address is refused")
	}
	c.Leave(a)
	for _, want := range []bool{true, false} {
		if c.Enter(a) != want {
			t.Error("not one more after one left")
		}
	}
	c.Set(0)
	if !c.Enter(a) {
		t.Error("refused without a bound")
	}
	for range 3 {
		c.Leave(a)
	}
	c.Leave(b)
	for i := range c.shards {
		if len(c.shards[i].open) > 0 {
			t.Error("keys without connections are remembered")
		}
	}
}

func BenchmarkAllow(b *testing.B) {
	r := New().Rule("test", Config{})
	keys := make([]Key, 1024)
	for i := range keys {
		keys[i] = Address(netip.MustParseAddr(fmt.Sprintf("10.0.%d.%d", i>>8, i&255)))
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			r.Allow(keys[i%len(keys)], int64(i))
		}
	})
}
