package probe

import (
	"context"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"vortex"
	"vortex/internal/edge/pool"
	"vortex/internal/health"
)

// fleet makes pools of one backend per address.
type fleet struct {
	*pool.Fleet
}

func newFleet() fleet { return fleet{pool.NewFleet(pool.Config{})} }

func (f fleet) pool(name string, addrs ...netip.AddrPort) *pool.Pool {
	p := f.New(name)
	f.fill(p, addrs...)
	return p
}

func (f fleet) fill(p *pool.Pool, addrs ...netip.AddrPort) {
	var list []pool.Endpoint
	for _, addr := range addrs {
		list = append(list, pool.Endpoint{Instance: p.App + "-" + addr.String(), Addr: addr})
	}
	f.Fill(p, pool.Settings{}, list)
}

// failing is how many of the pool's backends fail their checks.
func failing(p *pool.Pool) (n int) {
	for _, b := range p.Backends() {
		if b.Counts(0).Out == pool.OutCheck {
			n++
		}
	}
	return n
}

// numbered are n addresses nobody is at.
func numbered(n int) []netip.AddrPort {
	addrs := make([]netip.AddrPort, n)
	for i := range addrs {
		addrs[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 80)
	}
	return addrs
}

func check(change func(*vortex.HealthCheck)) vortex.HealthCheck {
	c := vortex.HealthCheck{}
	if change != nil {
		change(&c)
	}
	return c.WithDefaults(0)
}

// bubble runs a Prober in fake time. answer is what an address answers, and after how long.
func bubble(t *testing.T, c Config, answer func(addr netip.Addr) (health.Result, time.Duration), test func(*Prober)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := New(c)
		p.ask = func(check vortex.HealthCheck, addr netip.Addr) (asker, error) {
			timeout := health.ScheduleOf(check).Timeout
			return func(ctx context.Context) health.Result {
				r, took := answer(addr)
				if took > timeout {
					r, took = health.Result{Detail: "no answer"}, timeout
				}
				select {
				case <-ctx.Done():
				case <-time.After(took):
				}
				r.Took = took
				return r
			}, nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- p.Run(ctx) }()
		test(p)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

var (
	good    = health.Result{Healthy: true}
	bad     = health.Result{Detail: "503"}
	refused = health.Result{Absent: true, Detail: "refused"}
)

func TestThresholdsDecide(t *testing.T) {
	t.Parallel()
	var now atomic.Pointer[health.Result]
	now.Store(&good)
	answer := func(netip.Addr) (health.Result, time.Duration) { return *now.Load(), 0 }
	bubble(t, Config{}, answer, func(p *Prober) {
		web := newFleet().pool("web", numbered(1)...)
		c := check(func(c *vortex.HealthCheck) {
			three, two, period := uint32(3), uint32(2), 1.0
			c.FailureThreshold, c.SuccessThreshold, c.PeriodSeconds = &three, &two, &period
		})
		p.Sync([]Want{{c, web.Backends()}})
		after := func(d time.Duration, r *health.Result, want int) {
			t.Helper()
			now.Store(r)
			time.Sleep(d)
			if got := failing(web); got != want {
				t.Errorf("%d backends fail after %v of %+v, want %d", got, d, *r, want)
			}
		}
		after(5*time.Second, &good, 0)
		after(1700*time.Millisecond, &bad, 0) // at most two
		after(2*time.Second, &bad, 1)
		after(850*time.Millisecond, &good, 1)
		after(2*time.Second, &good, 0)
		after(1150*time.Millisecond, &refused, 1) // nothing listens: no second look
		after(2500*time.Millisecond, &good, 0)
	})
}

func TestOneProbeForManyPools(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	answer := func(netip.Addr) (health.Result, time.Duration) { asked.Add(1); return bad, 0 }
	bubble(t, Config{}, answer, func(p *Prober) {
		f := newFleet()
		var wants []Want
		var pools []*pool.Pool
		for i := range 10 {
			pools = append(pools, f.pool(fmt.Sprint("p", i), numbered(3)...))
			wants = append(wants, Want{check(nil), pools[i].Backends()})
		}
		p.Sync(wants)
		time.Sleep(6 * time.Second)
		if n := asked.Load(); n != 6 || p.Stats().Targets != 3 {
			t.Errorf("asked %d times in two rounds of %d targets, want 6 and 3", n, p.Stats().Targets)
		}
		time.Sleep(10 * time.Second)
		for i := range pools {
			if n := failing(pools[i]); n != 3 {
				t.Errorf("pool %d knows of %d of 3", i, n)
			}
		}
		p.Sync(wants[:1]) // the others are checked no more
		if failing(pools[1]) != 0 || failing(pools[0]) != 3 {
			t.Errorf("%d of a pool that is not checked any more fail, and %d of one that is", failing(pools[1]), failing(pools[0]))
		}
		late := f.pool("late", numbered(3)...)
		p.Sync(append(wants[:1:1], Want{check(nil), late.Backends()}))
		if failing(late) != 3 {
			t.Error("a pool that comes later is not told what is known")
		}
		other := check(func(c *vortex.HealthCheck) { c.Path = "/other" })
		p.Sync(append(wants[:1:1], Want{other, late.Backends()}))
		if p.Stats().Targets != 6 || failing(late) != 0 {
			t.Errorf("another check of the same addresses makes %d targets, want 6", p.Stats().Targets)
		}
		p.Sync(nil)
		before := asked.Load()
		time.Sleep(time.Minute)
		if asked.Load() != before || p.Stats().Targets != 0 {
			t.Error("probes go on when nothing is to be checked")
		}
	})
}

func TestThousandsOfBackendsNeedFewGoroutines(t *testing.T) { // alone, because it counts goroutines
	const backends, workers = 2000, 64
	var asked, at, most atomic.Int64
	var mu sync.Mutex
	last := map[netip.Addr]time.Time{}
	var longest time.Duration
	answer := func(addr netip.Addr) (health.Result, time.Duration) {
		asked.Add(1)
		most.Store(max(most.Load(), at.Add(1)))
		time.AfterFunc(4*time.Millisecond, func() { at.Add(-1) })
		mu.Lock()
		defer mu.Unlock()
		if since, ok := last[addr]; ok {
			longest = max(longest, time.Since(since))
		}
		last[addr] = time.Now()
		return good, 5 * time.Millisecond
	}
	bubble(t, Config{Workers: workers}, answer, func(p *Prober) {
		web := newFleet().pool("web", numbered(backends)...)
		before := runtime.NumGoroutine()
		p.Sync([]Want{{check(nil), web.Backends()}})
		grown := 0
		for range 600 {
			time.Sleep(100 * time.Millisecond)
			grown = max(grown, runtime.NumGoroutine()-before)
		}
		if n := asked.Load(); n < 12*backends*9/10 || n > 14*backends {
			t.Errorf("asked %d times in a minute, want each of %d every 5 s", n, backends)
		}
		if most.Load() > workers || grown > workers+1 {
			t.Errorf("%d probes at once and %d goroutines more, want at most %d workers", most.Load(), grown, workers)
		}
		mu.Lock()
		defer mu.Unlock()
		if longest > 6*time.Second {
			t.Errorf("%v between two probes of one backend", longest)
		}
	})
}

func TestProbesAreSpreadOverTime(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	counts := map[int64]int{}
	answer := func(netip.Addr) (health.Result, time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		counts[time.Now().UnixMilli()/100]++
		return good, 0
	}
	bubble(t, Config{}, answer, func(p *Prober) {
		web := newFleet().pool("web", numbered(1000)...)
		p.Sync([]Want{{check(nil), web.Backends()}})
		time.Sleep(50 * time.Second)
		mu.Lock()
		clear(counts)
		mu.Unlock()
		time.Sleep(5 * time.Second)
	})
	var most float64
	for _, n := range counts {
		most = math.Max(most, float64(n))
	}
	if most > 150 {
		t.Errorf("%v of 1000 probes came in the same tenth of a second of five", most)
	}
}

func TestHangingBackendsDoNotDelayTheOthers(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	last := map[netip.Addr]time.Time{}
	var longest time.Duration
	answer := func(addr netip.Addr) (health.Result, time.Duration) {
		if addr.As4()[3] >= 10 { // 190 of 200
			return good, time.Hour
		}
		mu.Lock()
		defer mu.Unlock()
		if since, ok := last[addr]; ok {
			longest = max(longest, time.Since(since))
		}
		last[addr] = time.Now()
		return good, time.Millisecond
	}
	bubble(t, Config{Workers: 8}, answer, func(p *Prober) {
		web := newFleet().pool("web", numbered(200)...)
		p.Sync([]Want{{check(nil), web.Backends()}})
		time.Sleep(60 * time.Second) // until each was asked once
		mu.Lock()
		clear(last)
		longest = 0
		mu.Unlock()
		time.Sleep(10 * time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if longest > 6*time.Second {
			t.Errorf("a backend that answers was not asked for %v while others hang", longest)
		}
		if n := failing(web); n != 190 {
			t.Errorf("%d fail, want the 190 that hang", n)
		}
	})
}

func TestARevivedBackendIsToldAgain(t *testing.T) {
	t.Parallel()
	answer := func(netip.Addr) (health.Result, time.Duration) { return bad, 0 }
	bubble(t, Config{}, answer, func(p *Prober) {
		f := newFleet()
		addrs := numbered(1)
		web := f.pool("web", addrs...)
		b := web.Pick(0, 0, &pool.Tried{})
		defer b.Done()
		p.Sync([]Want{{check(nil), web.Backends()}})
		time.Sleep(time.Minute)
		f.fill(web)
		f.fill(web, addrs...) // the same backend comes back, with nothing known of it
		if web.Backends()[0] != b || failing(web) != 0 {
			t.Fatal("the backend was not revived")
		}
		time.Sleep(6 * time.Second)
		if failing(web) != 1 {
			t.Error("it is not told what its checks say")
		}
	})
}

func TestCheckThatCannotBeMadeIsLeftOut(t *testing.T) {
	t.Parallel()
	p := New(Config{})
	web := newFleet().pool("web", numbered(2)...)
	p.Sync([]Want{{vortex.HealthCheck{Protocol: vortex.ProbeProtocolPUSH}, web.Backends()}})
	if n := p.Stats().Targets; n != 0 {
		t.Errorf("%d targets", n)
	}
}

// Real servers: one that answers, one that answers 500, one that hangs, one that resets, one that is not there and comes back.
func TestRealServers(t *testing.T) {
	t.Parallel()
	var status atomic.Int64
	status.Store(200)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(int(status.Load())) }))
	defer server.Close()
	hanging := serve(t, "127.0.0.1:0", func(net.Conn) bool { return true })
	resetting := serve(t, "127.0.0.1:0", func(c net.Conn) bool {
		_ = c.(*net.TCPConn).SetLinger(0) //nolint:forcetypeassert // it is one
		return false
	})
	gone := serve(t, "127.0.0.1:0", func(net.Conn) bool { return false })
	_ = gone.Close()
	addr := func(l net.Listener) netip.AddrPort { return netip.MustParseAddrPort(l.Addr().String()) }
	web := newFleet().pool("web", addr(server.Listener), addr(hanging), addr(resetting), addr(gone))
	c := check(func(c *vortex.HealthCheck) {
		period, timeout, two := 0.05, 0.1, uint32(2)
		c.PeriodSeconds, c.TimeoutSeconds, c.FailureThreshold = &period, &timeout, &two
	})
	p := New(Config{})
	p.Sync([]Want{{c, web.Backends()}})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- p.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	wants := func(when string, out ...bool) {
		t.Helper()
		var got []bool
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			got = nil
			for _, b := range web.Backends() {
				got = append(got, b.Counts(0).Out == pool.OutCheck)
			}
			if fmt.Sprint(got) == fmt.Sprint(out) {
				return
			}
		}
		t.Errorf("%s: out are %v, want %v", when, got, out)
	}
	wants("at first", false, true, true, true)
	status.Store(500)
	wants("when the first answers 500", true, true, true, true)
	status.Store(204)
	wants("when it has recovered", false, true, true, true)
	again, err := new(net.ListenConfig).Listen(t.Context(), "tcp", gone.Addr().String())
	if err != nil {
		t.Skip("the port was taken meanwhile:", err)
	}
	back := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), ReadHeaderTimeout: time.Second}
	go func() { _ = back.Serve(again) }()
	defer func() { _ = back.Close() }()
	wants("when the last came back", false, true, true, false)
}

// serve gives each connection to handle, which says whether to keep it open.
func serve(t *testing.T, at string, handle func(net.Conn) bool) net.Listener {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if handle(c) {
				defer func() { _ = c.Close() }()
			} else {
				_ = c.Close()
			}
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l
}
