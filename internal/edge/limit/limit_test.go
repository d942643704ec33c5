package limit

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

var someone = netip.MustParseAddr("192.0.2.1")

// allowed returns how many of n requests at a moment are allowed.
func allowed(l *Limiter, addr netip.Addr, at time.Duration, n int) int {
	count := 0
	for range n {
		if ok, _ := l.Allow(addr, int64(at)); ok {
			count++
		}
	}
	return count
}

func TestWindowSlides(t *testing.T) {
	t.Parallel()
	l := New(Config{Limit: 100, Window: 10 * time.Second})
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
		if got := allowed(l, someone, step.at, 200); got != step.want {
			t.Errorf("at %v: %d allowed, want %d", step.at, got, step.want)
		}
	}
	if ok, retry := l.Allow(someone, int64(61*time.Second)); ok || retry != 9*time.Second {
		t.Errorf("over the limit: %v, retry after %v", ok, retry)
	}
}

func TestClientsAreCountedApart(t *testing.T) {
	t.Parallel()
	l := New(Config{Limit: 1, Window: time.Hour})
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
		if got := allowed(l, netip.MustParseAddr(test.addr), 0, 1); got != test.want {
			t.Errorf("%s: %d allowed, want %d", test.addr, got, test.want)
		}
	}
}

func TestSetChangesTheLimitAtOnce(t *testing.T) {
	t.Parallel()
	l := New(Config{Limit: 1, Window: time.Hour})
	allowed(l, someone, 0, 1)
	l.Set(Config{Limit: 5, Window: time.Hour})
	if got := allowed(l, someone, 0, 10); got != 4 {
		t.Errorf("%d allowed, want 4 more", got)
	}
	l.Set(Config{})
	if got := allowed(l, someone, 0, 1000); got != 1000 {
		t.Errorf("%d of 1000 allowed by the default", got)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	l := New(Config{Limit: 1, Window: time.Hour})
	for i := range MaxClients + MaxClients/8 {
		l.Allow(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 0)
	}
	total := 0
	for i := range l.shards {
		total += len(l.shards[i].clients)
	}
	if total > MaxClients {
		t.Errorf("%d clients remembered, want at most %d", total, MaxClients)
	}
}

func BenchmarkAllow(b *testing.B) {
	l := New(Config{})
	addrs := make([]netip.Addr, 1024)
	for i := range addrs {
		addrs[i] = netip.MustParseAddr(fmt.Sprintf("10.0.%d.%d", i>>8, i&255))
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			l.Allow(addrs[i%len(addrs)], int64(i))
		}
	})
}
