package route

import (
	"bytes"
	"fmt"
	"math"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"vortex/internal/edge/pool"
)

func endpoints(names ...string) []pool.Endpoint {
	var list []pool.Endpoint
	for _, name := range names {
		list = append(list, pool.Endpoint{Instance: name, Addr: netip.MustParseAddrPort("127.0.0.1:80")})
	}
	return list
}

func app(name string, hosts, paths []string) App {
	return App{Name: name, HTTP: true, Hosts: hosts, Paths: paths, Backends: endpoints(name + "-1")}
}

func TestMatch(t *testing.T) {
	t.Parallel()
	table := NewTable(Config{})
	table.Update([]Change{}, 0)
	for _, a := range []App{
		app("shop", []string{"shop.example", "*.shop.example."}, nil),
		app("api", []string{"SHOP.example"}, []string{"/api/", "/v1"}),
		app("eu", []string{"*.eu.shop.example"}, []string{"/only"}),
		app("blog", nil, nil),
		app("docs", nil, []string{"/docs"}),
		{Name: "db", Hosts: []string{"db.example"}},
	} {
		table.Apply(a, 1)
	}
	for _, test := range []struct{ host, path, app, strip string }{
		{"shop.example", "/", "shop", ""},
		{"shop.example", "/api", "api", ""},
		{"shop.example", "/api/x", "api", ""},
		{"shop.example", "/apix", "shop", ""},
		{"shop.example", "/v1/", "api", ""},
		{"a.shop.example", "/api", "shop", ""},
		{"a.b.shop.example", "/", "shop", ""},
		{"x.eu.shop.example", "/only", "eu", ""},
		{"x.eu.shop.example", "/other", "shop", ""},
		{"eu.shop.example", "/only", "shop", ""},
		{"shop.localhost", "/x", "shop", ""},
		{"api.localhost", "/v1/x", "api", ""},
		{"api.localhost", "/blog/", "", ""},
		{"blog.localhost", "/docs/docs", "blog", ""},
		{"a.blog.localhost", "/", "", ""},
		{"elsewhere", "/blog/x", "blog", "/blog"},
		{"elsewhere", "/blog", "blog", "redirect"},
		{"elsewhere", "/blogx", "", ""},
		{"elsewhere", "/docs/docs/x", "docs", "/docs"},
		{"elsewhere", "/docs/x", "", ""},
		{"elsewhere", "/shop/", "", ""},
		{"elsewhere", "/", "", ""},
		{"db.example", "/", "", ""},
		{"db.localhost", "/", "", ""},
		{"", "/blog/", "blog", "/blog"},
		{"", "", "", ""},
	} {
		m := table.Match([]byte(test.host), []byte(test.path))
		got, strip := "", test.path[:m.Strip]
		if m.Pool != nil {
			got = m.Pool.App
		}
		if m.Redirect {
			strip = "redirect"
		}
		if got != test.app || strip != test.strip {
			t.Errorf("%s%s goes to %q without %q, want %q without %q", test.host, test.path, got, strip, test.app, test.strip)
		}
	}
}

func TestOnlyAppAnswersEverywhere(t *testing.T) {
	t.Parallel()
	table := NewTable(Config{})
	table.Apply(app("web", nil, nil), 1)
	table.Apply(App{Name: "queue"}, 2)
	if m := table.Match([]byte("x"), []byte("/any")); m.Pool == nil || m.Claimed {
		t.Errorf("the only HTTP app does not answer: %+v", m)
	}
	table.Apply(app("second", nil, nil), 3)
	if m := table.Match([]byte("x"), []byte("/any")); m.Pool != nil {
		t.Errorf("one of two apps answers everything: %+v", m)
	}
	table.Remove("second", 4)
	if m := table.Match([]byte("x"), []byte("/any")); m.Pool == nil {
		t.Error("the app that is alone again does not answer")
	}
}

func TestFirstNameKeepsAContestedRoute(t *testing.T) {
	t.Parallel()
	for _, order := range [][]string{{"a", "b"}, {"b", "a"}} {
		table := NewTable(Config{})
		for _, name := range order {
			table.Apply(app(name, []string{"x"}, nil), 1)
		}
		if m := table.Match([]byte("x"), []byte("/")); m.Pool.App != "a" {
			t.Errorf("applied in order %v the route is %s's", order, m.Pool.App)
		}
	}
}

func TestUnnamedAppsAnswerEverywhere(t *testing.T) {
	t.Parallel()
	table := NewTable(Config{})
	rest := app("rest", nil, nil)
	site := app("site", []string{"site.example"}, []string{"/a"})
	rest.Unnamed, site.Unnamed = true, true
	table.Reset([]App{rest, site, app("blog", nil, nil)}, 1)
	for _, test := range []struct{ host, path, app string }{
		{"site.example", "/a/b", "site"},
		{"site.example", "/b", "rest"},
		{"other.example", "/", "rest"},
		{"site.localhost", "/", "rest"},
		{"blog.localhost", "/", "blog"},
		{"other.example", "/site/", "rest"},
	} {
		m := table.Match([]byte(test.host), []byte(test.path))
		if m.Pool == nil || m.Pool.App != test.app || !m.Claimed || m.Strip > 0 {
			t.Errorf("%s%s: %+v, want %s", test.host, test.path, m, test.app)
		}
	}
}

func TestAppsOfListeners(t *testing.T) {
	t.Parallel()
	var told []Contest
	table := NewTable(Config{Contested: func(c Contest) { told = append(told, c) }})
	inner, outer := app("inner", []string{"x"}, nil), app("outer", []string{"x"}, nil)
	inner.Listeners, outer.Listeners = []string{"private"}, []string{"public", "other"}
	table.Reset([]App{inner, outer, app("all", []string{"y"}, nil)}, 1)
	for listener, want := range map[string]string{"private": "inner", "public": "outer", "other": "outer", "fourth": "", "": ""} {
		got := ""
		if m := table.MatchOn(listener, []byte("x"), []byte("/"), nil); m.Pool != nil {
			got = m.Pool.App
		}
		if m := table.MatchOn(listener, []byte("y"), []byte("/"), nil); got != want || m.Pool.App != "all" {
			t.Errorf("on %q got %q and %+v, want %q", listener, got, m, want)
		}
	}
	if len(told) > 0 {
		t.Errorf("contested: %v", told)
	}
	table.Apply(app("one", []string{"x"}, nil), 2)
	if want := []Contest{{Host: "x", Path: "/", Winner: "inner", Loser: "one"}, {Host: "x", Path: "/", Winner: "one", Loser: "outer"}}; len(told) != 2 {
		t.Errorf("contested: %v, want %v", told, want)
	}
}

func TestAppsShareAPool(t *testing.T) {
	t.Parallel()
	table := NewTable(Config{})
	a, b := app("a", []string{"a"}, nil), app("b", []string{"b"}, nil)
	a.Pool, b.Pool = "both", "both"
	a.Backends, b.Backends = endpoints("1"), endpoints("1")
	table.Reset([]App{a, b}, 1)
	first, second := table.Match([]byte("a"), []byte("/")).Pool, table.Match([]byte("b"), []byte("/")).Pool
	if first != second || first.App != "both" || len(table.Pools()) != 1 {
		t.Fatalf("pools %p %p, all %v", first, second, table.Pools())
	}
	backend := first.Pick(0, 0, &pool.Tried{})
	table.Remove("a", 2)
	if backend.Removed() {
		t.Error("the backend is gone though b has it")
	}
	b.Pool = ""
	table.Apply(b, 3)
	if m := table.Match([]byte("b"), []byte("/")); m.Pool == first || m.Pool.App != "b" {
		t.Errorf("b still has %+v", m.Pool)
	}
	if _, busy := table.Drain(); !backend.Removed() || !slices.Equal(busy, nil) && busy[0] != "1" {
		t.Errorf("the pool nobody has keeps its backend: busy %v", busy)
	}
	backend.Done()
}

// TestPoolLingersEachTime changes an app's pool back and forth, the second time just before the first time's wait has passed: who was on the way then
// has a whole wait of their own.
func TestPoolLingersEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const linger = 2 * time.Second
		table := NewTable(Config{Linger: linger})
		point := func(at string) {
			a := app("web", nil, nil)
			a.Pool, a.Backends = at, endpoints(at)
			table.Reset([]App{a}, 1)
		}
		answered := func(p *pool.Pool) bool {
			b := p.Pick(0, 0, &pool.Tried{})
			if b != nil {
				b.Done()
			}
			return b != nil
		}
		point("one")
		point("two")
		time.Sleep(linger - time.Millisecond)
		point("one")
		onTheWay := table.Match([]byte("web"), []byte("/")).Pool
		point("two")
		time.Sleep(linger - time.Millisecond)
		if !answered(onTheWay) {
			t.Error("a request that was on the way to a pool finds nobody there before the wait has passed")
		}
		time.Sleep(2 * time.Millisecond)
		if answered(onTheWay) {
			t.Error("a pool that nobody has any more still answers")
		}
		if names := table.Pools(); len(names) != 1 || names[0].App != "two" {
			t.Errorf("there are %d pools", len(names))
		}
	})
}

func TestContestedRoutesAreToldOnce(t *testing.T) {
	t.Parallel()
	var told []Contest
	table := NewTable(Config{Contested: func(c Contest) { told = append(told, c) }})
	table.Apply(app("b", []string{"x", "y"}, []string{"/api/"}), 1)
	table.Apply(app("a", []string{"X"}, []string{"/api"}), 2)
	table.Apply(app("c", []string{"x"}, []string{"/"}), 3)
	want := []Contest{{Host: "x", Path: "/api/", Winner: "a", Loser: "b"}}
	if !slices.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
	table.Remove("a", 4)
	table.Apply(app("a", []string{"x"}, []string{"/api"}), 5)
	if len(told) != 2 {
		t.Errorf("told %d times, want again when it begins again", len(told))
	}
}

// serving returns the pool of an app with these backends.
func serving(table *Table, balance pool.Balance, names ...string) *pool.Pool {
	table.Apply(App{Name: "web", HTTP: true, Settings: pool.Settings{Balance: balance}, Backends: endpoints(names...)}, 1)
	return table.Match(nil, []byte("/")).Pool
}

func TestDrainIsExact(t *testing.T) {
	t.Parallel()
	var signals atomic.Int64
	table := NewTable(Config{Config: pool.Config{Drained: func() { signals.Add(1) }}})
	p := serving(table, pool.RoundRobin, "a", "b")
	var busy *pool.Backend
	for busy == nil || busy.Instance != "a" {
		if busy != nil {
			busy.Done()
		}
		busy = p.Pick(0, 0, &pool.Tried{})
	}
	serving(table, pool.RoundRobin, "b")
	table.Update(nil, 7)
	check := func(want ...string) {
		t.Helper()
		if revision, got := table.Drain(); revision != 7 || !slices.Equal(got, want) {
			t.Errorf("drain is at %d with %v, want 7 with %v", revision, got, want)
		}
	}
	check("a")
	before := signals.Load()
	busy.Done()
	if signals.Load() == before {
		t.Error("the end of the last request was not signalled")
	}
	check()
}

func TestInstanceThatComesBackIsNotBusy(t *testing.T) {
	t.Parallel()
	table := NewTable(Config{})
	p := serving(table, pool.RoundRobin, "a")
	b := p.Pick(0, 0, &pool.Tried{})
	serving(table, pool.RoundRobin)
	if _, busy := table.Drain(); !slices.Equal(busy, []string{"a"}) {
		t.Errorf("busy %v", busy)
	}
	serving(table, pool.RoundRobin, "a")
	if again := p.Pick(0, 0, &pool.Tried{}); again != b || b.InFlight() != 2 {
		t.Error("the backend that came back is another")
	}
	if _, busy := table.Drain(); busy != nil {
		t.Errorf("busy %v although it serves", busy)
	}
}

// TestNoPickAfterPublishedRemoval is the proof that what Drain returns is exact: pickers race with removals, and no
// request may be on an instance once Drain said that it is removed and not busy.
func TestNoPickAfterPublishedRemoval(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string]pool.Settings{
		"round-robin":   {},
		"least-request": {Balance: pool.LeastRequest},
		"random":        {Balance: pool.Random},
		"ring-hash":     {Balance: pool.RingHash},
		"maglev":        {Balance: pool.Maglev},
		"sessions":      {Sticky: &pool.Sticky{Cookie: "sid", Key: []byte("key")}},
		"everything": {
			SlowStart: time.Hour, Zone: pool.Zone{Prefer: true}, Sticky: &pool.Sticky{Cookie: "sid"},
			Split: []pool.Part{{Release: 1, Weight: 1}, {Weight: 2}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			raceRemovals(t, settings)
		})
	}
}

func raceRemovals(t *testing.T, settings pool.Settings) {
	t.Helper()
	table := NewTable(Config{Config: pool.Config{Zone: "east"}})
	apply := func(i int) {
		app := App{Name: "web", HTTP: true, Settings: settings, Backends: endpoints(fmt.Sprintf("i%d", i), fmt.Sprintf("i%d", i+1))}
		for n := range app.Backends {
			e := &app.Backends[n]
			e.Weight, e.Release, e.Zone = uint32(i+n)%3, uint64(i+n)%2, []string{"east", "west"}[(i+n)/2%2]
		}
		table.Apply(app, uint64(i+1))
	}
	apply(0)
	p := table.Pools()[0]
	var stopped sync.Map // instances that may be stopped now
	var picks atomic.Int64
	done := make(chan struct{})
	running := func() bool {
		select {
		case <-done:
			return false
		default:
			return true
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for running() {
			table.Rebalance()
			runtime.Gosched()
		}
	})
	for range 4 {
		wg.Go(func() {
			var cookie []byte
			for key := uint64(0); running(); key++ {
				ask := p.Ask()
				ask.Field([]byte("Cookie"), cookie)
				want := ask.Want()
				want.Key = key
				b := p.Choose(want, 0, &pool.Tried{})
				if b == nil {
					t.Error("no backend although there always is one")
					return
				}
				if _, ok := stopped.Load(b.Instance); ok {
					t.Errorf("picked %s, which is stopped", b.Instance)
				}
				if set := p.AppendCookie(nil, want, b, false); len(set) > 0 {
					cookie = bytes.TrimPrefix(set[:bytes.IndexByte(set, ';')], []byte("Set-Cookie: "))
				}
				b.Done()
				if picks.Add(1)%32 == 0 {
					runtime.Gosched()
				}
			}
		})
	}
	steps := 60
	if settings.Balance == pool.Maglev {
		steps = 15 // making its tables takes long under the race detector
	}
	for i := range steps {
		for before := picks.Load(); picks.Load() < before+50 && !t.Failed(); {
			runtime.Gosched()
		}
		apply(i + 1)
		old := fmt.Sprintf("i%d", i)
		for {
			at, busy := table.Drain()
			if at >= uint64(i+2) && !slices.Contains(busy, old) {
				break
			}
		}
		stopped.Store(old, true)
	}
	close(done)
	wg.Wait()
	t.Logf("%d picks", picks.Load())
}

func TestManyAppsAreTakenInAtOnce(t *testing.T) {
	t.Parallel()
	table := NewTable(Config{})
	apps := make([]App, 5_000)
	for i := range apps {
		apps[i] = app(fmt.Sprintf("app-%d", i), []string{fmt.Sprintf("h%d.example", i)}, nil)
	}
	table.Reset(apps, 5)
	if m := table.Match([]byte("h4999.example"), []byte("/")); m.Pool == nil {
		t.Error("the last app does not answer")
	}
	table.Reset(apps[:1], 6)
	if m := table.Match([]byte("h4999.example"), []byte("/")); m.Pool != nil {
		t.Error("an app the new state does not have answers")
	}
	if revision, busy := table.Drain(); revision != 6 || busy != nil || len(table.Pools()) != 1 {
		t.Errorf("at %d with %v and %d pools", revision, busy, len(table.Pools()))
	}
}

func benchTable() *Table {
	table := NewTable(Config{})
	for i := range 1000 {
		table.Apply(App{
			Name: fmt.Sprintf("app-%d", i), HTTP: true, Hosts: []string{fmt.Sprintf("h%d.example", i), fmt.Sprintf("*.w%d.example", i)},
			Paths: []string{"/", "/api"}, Backends: endpoints("a", "b", "c"), Settings: pool.Settings{Balance: []pool.Balance{pool.RoundRobin, pool.LeastRequest, pool.Random, pool.RingHash}[i%4]},
		}, uint64(i))
	}
	return table
}

func TestMatchAndPickDoNotAllocate(t *testing.T) {
	table := benchTable()
	for _, host := range []string{"h4.example", "h5.example", "h6.example", "h7.example", "a.b.w8.example", "app-9.localhost"} {
		host, path := []byte(host), []byte("/api/users")
		n := testing.AllocsPerRun(1000, func() {
			var tried pool.Tried
			m := table.Match(host, path)
			m.Pool.Pick(math.MaxUint64, 0, &tried).Done()
		})
		if n != 0 {
			t.Errorf("%s: %v allocations", host, n)
		}
	}
}

func BenchmarkMatchAndPick(b *testing.B) {
	table := benchTable()
	host, path := []byte("h500.example"), []byte("/api/users/7")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			var tried pool.Tried
			m := table.Match(host, path)
			m.Pool.Pick(0, 0, &tried).Done()
		}
	})
}
