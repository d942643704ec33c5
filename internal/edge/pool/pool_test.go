package pool

import (
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func endpoints(names ...string) []Endpoint {
	var list []Endpoint
	for _, name := range names {
		list = append(list, Endpoint{Instance: name, Addr: netip.MustParseAddrPort("127.0.0.1:80")})
	}
	return list
}

// web is a fleet of one pool.
type web struct {
	*Fleet

	pool *Pool
}

func newWeb(c Config) web {
	f := NewFleet(c)
	return web{f, f.New("web")}
}

func (w web) fill(balance Balance, names ...string) *Pool {
	w.Fill(w.pool, Settings{Balance: balance}, endpoints(names...))
	return w.pool
}

func TestBalancersSpread(t *testing.T) {
	t.Parallel()
	for _, balance := range []Balance{RoundRobin, LeastRequest, Random, RingHash, "unknown"} {
		p := newWeb(Config{}).fill(balance, "a", "b", "c", "d")
		seen := map[string]int{}
		for key := range uint64(4000) {
			b := p.Pick(key, 0, &Tried{})
			seen[b.Instance]++
			b.Done()
		}
		for _, name := range []string{"a", "b", "c", "d"} {
			if n := seen[name]; n < 600 || n > 1400 {
				t.Errorf("%s gave %s %d of 4000 requests", balance, name, n)
			}
		}
	}
}

func TestLeastRequestAvoidsTheBusy(t *testing.T) {
	t.Parallel()
	p := newWeb(Config{}).fill(LeastRequest, "a", "b")
	first := p.Pick(0, 0, &Tried{})
	for range 50 {
		b := p.Pick(0, 0, &Tried{})
		if b == first {
			t.Fatal("picked the busier of two")
		}
		b.Done()
	}
}

func TestRingHashMovesOnlyWhatItMust(t *testing.T) {
	t.Parallel()
	web := newWeb(Config{})
	p := web.fill(RingHash, "a", "b", "c", "d")
	at := func() []string {
		var list []string
		for key := range uint64(1000) {
			b := p.Pick(key, 0, &Tried{})
			list = append(list, b.Instance)
			b.Done()
		}
		return list
	}
	before := at()
	web.fill(RingHash, "a", "b", "d")
	for key, instance := range at() {
		if before[key] != "c" && before[key] != instance {
			t.Fatalf("key %d moved from %s to %s although only c went", key, before[key], instance)
		}
	}
}

func TestPickSkipsTriedAndDead(t *testing.T) {
	t.Parallel()
	p := newWeb(Config{}).fill(RoundRobin, "a", "b", "c")
	var tried Tried
	first := p.Pick(0, 0, &tried)
	tried.Add(first)
	second := p.Pick(0, 0, &tried)
	second.MarkDead(100)
	third := p.Pick(0, 50, &tried)
	if first == second || third == first || third == second {
		t.Fatalf("picked %s, %s, %s", first.Instance, second.Instance, third.Instance)
	}
	tried.Add(third)
	if b := p.Pick(0, 50, &tried); b != nil {
		t.Errorf("picked %s, which was tried or is dead", b.Instance)
	}
	if b := p.Pick(0, 101, &tried); b != second {
		t.Error("a backend stays dead after its time")
	}
}

func TestHold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		web := newWeb(Config{MaxHeld: 2})
		p := web.fill(RoundRobin)
		begun := time.Now()
		now := func() int64 { return int64(time.Since(begun)) }
		left := make(chan struct{})
		hold := func(left <-chan struct{}) <-chan error {
			result := make(chan error, 1)
			go func() {
				_, err := p.Hold(Waiter{Tried: &Tried{}, Left: left, Now: now}, 5*time.Second)
				result <- err
			}()
			synctest.Wait()
			return result
		}
		first, second, third := hold(nil), hold(left), hold(nil)
		if err := <-third; !errors.Is(err, ErrFull) {
			t.Errorf("the third of two: %v", err)
		}
		close(left)
		if err := <-second; !errors.Is(err, ErrLeft) {
			t.Errorf("the one whose client left: %v", err)
		}
		if err := <-first; !errors.Is(err, ErrTimeout) || time.Since(begun) != 5*time.Second {
			t.Errorf("the patient one: %v after %v", err, time.Since(begun))
		}
		fourth := hold(nil)
		web.fill(RoundRobin, "a")
		if err := <-fourth; err != nil || p.Held() != 0 {
			t.Errorf("when a backend came: %v, %d held", err, p.Held())
		}
		web.fill(RoundRobin)
		fifth := hold(nil)
		web.Retire(web.pool)
		if err := <-fifth; !errors.Is(err, ErrGone) {
			t.Errorf("when the app went: %v", err)
		}
	})
}

func TestHoldTriesDeadBackendAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newWeb(Config{}).fill(RoundRobin, "a")
		begun := time.Now()
		b := p.Pick(0, 0, &Tried{})
		b.MarkDead(int64(time.Second))
		tried := &Tried{}
		tried.Add(b)
		b.Done()
		got, err := p.Hold(Waiter{Tried: tried, Now: func() int64 { return int64(time.Since(begun)) }}, 5*time.Second)
		if err != nil || got != b || time.Since(begun) < time.Second {
			t.Errorf("got %v, %v after %v", got, err, time.Since(begun))
		}
	})
}

// conn counts its closings.
type conn struct{ closed atomic.Int64 }

func (c *conn) Close() error { c.closed.Add(1); return nil }

func TestIdleConnectionsOfARemovedBackendAreClosed(t *testing.T) {
	t.Parallel()
	web := newWeb(Config{})
	p := web.fill(RoundRobin, "a")
	b := p.Pick(0, 0, &Tried{})
	var idle, late, old, young conn
	b.PutIdle(&idle, 0)
	web.fill(RoundRobin)
	b.PutIdle(&late, 0)
	b.Done()
	if idle.closed.Load() != 1 || late.closed.Load() != 1 || b.TakeIdle() != nil {
		t.Errorf("closed %d and %d times", idle.closed.Load(), late.closed.Load())
	}
	web.fill(RoundRobin, "b")
	b = p.Pick(0, 0, &Tried{})
	b.PutIdle(&old, 0)
	b.PutIdle(&young, 50)
	b.CloseOlder(100, 60)
	if old.closed.Load() != 1 || young.closed.Load() != 0 || b.TakeIdle() != Conn(&young) {
		t.Errorf("sweeping closed the old one %d and the young one %d times", old.closed.Load(), young.closed.Load())
	}
}
