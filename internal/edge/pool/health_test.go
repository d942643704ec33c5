package pool

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// clock is an engine's clock that stands until it is set.
type clock struct{ at int64 }

func (c *clock) now() int64 { return c.at }

// judged is a pool with a clock, and what it told.
type judged struct {
	web

	clock   clock
	panics  []Panic
	ejected []Ejection
}

func newJudged(h Health, names ...string) *judged {
	j := &judged{}
	j.web = newWeb(Config{
		Now: j.clock.now, Panicked: func(p Panic) { j.panics = append(j.panics, p) },
		Ejected: func(e Ejection) { j.ejected = append(j.ejected, e) },
	})
	j.pool.SetHealth(h)
	j.fill(RoundRobin, names...)
	return j
}

// served returns which backends get requests now, in order.
func (j *judged) served() []string {
	var names []string
	for range 4 * len(j.pool.Backends()) {
		b := j.pool.Pick(0, j.clock.at, &Tried{})
		if b == nil {
			return nil
		}
		names = append(names, b.Instance)
		b.Done()
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// advance lets time pass, with a review each second.
func (j *judged) advance(d time.Duration) {
	for end := j.clock.at + int64(d); j.clock.at < end; {
		j.clock.at = min(end, j.clock.at+int64(time.Second))
		j.pool.Review(j.clock.at)
	}
}

func (j *judged) wants(t *testing.T, when string, names ...string) {
	t.Helper()
	if got := j.served(); !slices.Equal(got, names) {
		t.Errorf("%s: requests go to %v, want %v", when, got, names)
	}
}

func (j *judged) backend(name string) *Backend {
	i := slices.IndexFunc(j.pool.Backends(), func(b *Backend) bool { return b.Instance == name })
	return j.pool.Backends()[i]
}

func TestFailedChecksTakeABackendOut(t *testing.T) {
	t.Parallel()
	j := newJudged(Health{}, "a", "b", "c")
	j.backend("b").SetChecked(Checked{Failing: true, Detail: "GET /: 503"})
	j.wants(t, "after b failed its check", "a", "c")
	if c := j.backend("b").Counts(0); c.Out != OutCheck || c.OutDetail != "GET /: 503" {
		t.Errorf("b is said to be out for %q, %q", c.Out, c.OutDetail)
	}
	j.backend("b").Served(0, 200)
	j.wants(t, "an answer does not outweigh a check", "a", "c")
	j.backend("b").SetChecked(Checked{})
	j.wants(t, "after b passed", "a", "b", "c")
}

func TestRefusedConnectionIsForgottenByAnAnswer(t *testing.T) {
	t.Parallel()
	j := newJudged(Health{}, "a", "b")
	j.backend("a").MarkDead(100)
	j.wants(t, "after a refused", "b")
	j.backend("a").Served(50, 500)
	j.wants(t, "after a answered", "a", "b")
}

func TestNodeGoneTakesItsBackendsOut(t *testing.T) {
	t.Parallel()
	j := newJudged(Health{})
	on := func(node, name string) Endpoint {
		e := endpoints(name)[0]
		e.Node = node
		return e
	}
	all := []Endpoint{on("n1", "a"), on("n1", "b"), on("n2", "c")}
	j.Fill(j.pool, Settings{}, all)
	pools := []*Pool{j.pool}
	j.SetNodes(map[string]bool{"n1": true}, false, pools)
	j.wants(t, "with n1 gone, which no panic doubts", "c")
	j.Fill(j.pool, Settings{}, append(all, on("n1", "d")))
	j.wants(t, "with a new backend on the node that is gone", "c")
	j.SetNodes(map[string]bool{"n2": true}, true, pools)
	j.wants(t, "after a reset that names n2 alone", "a", "b", "d")
	j.SetNodes(map[string]bool{"n2": false}, false, pools)
	j.wants(t, "with n2 back", "a", "b", "c", "d")
	if len(j.panics) > 0 {
		t.Errorf("panicked: %v", j.panics)
	}
}

func TestPanicUsesAllWhenFewAreHealthy(t *testing.T) {
	t.Parallel()
	j := newJudged(Health{PanicPercent: 50}, "a", "b", "c", "d")
	failing := Checked{Failing: true}
	j.backend("a").SetChecked(failing)
	j.backend("b").SetChecked(failing)
	j.wants(t, "with half of them healthy", "c", "d")
	j.backend("c").SetChecked(failing)
	j.wants(t, "with a quarter", "a", "b", "c", "d")
	j.backend("d").SetChecked(failing)
	j.wants(t, "with none", "a", "b", "c", "d")
	j.backend("a").MarkDead(100)
	j.wants(t, "a refused connection is no opinion", "b", "c", "d")
	j.backend("a").Served(0, 200)
	j.backend("a").SetChecked(Checked{Failing: true, Absent: true})
	j.wants(t, "nor is a port nobody listens on", "b", "c", "d")
	if !j.pool.Panicking(0) || j.pool.Panics() != 1 || len(j.panics) != 1 || !j.panics[0].Begins {
		t.Errorf("panicked %d times and told %+v", j.pool.Panics(), j.panics)
	}
	j.backend("c").SetChecked(Checked{})
	j.backend("d").SetChecked(Checked{})
	j.wants(t, "calm again", "c", "d")
	if len(j.panics) != 2 || j.panics[1].Begins {
		t.Errorf("told %+v", j.panics)
	}
	j.pool.SetHealth(Health{PanicPercent: -1})
	j.backend("c").SetChecked(failing)
	j.wants(t, "without panic", "d")
}

func TestFailuresInARowEject(t *testing.T) {
	t.Parallel()
	outlier := &Outlier{Fives: 3, Failures: 2, Ejection: 10 * time.Second, MaxEjection: 25 * time.Second, MaxPercent: 50, Interval: time.Hour}
	j := newJudged(Health{Outlier: outlier}, "a", "b", "c", "d")
	a := j.backend("a")
	a.Served(0, 500)
	a.Served(0, 503)
	a.Served(0, 200)
	a.Served(0, 500)
	a.Served(0, 500)
	j.wants(t, "after two and two of 500", "a", "b", "c", "d")
	a.Served(0, 500)
	j.wants(t, "after three in a row", "b", "c", "d")
	j.backend("b").Failed(0)
	j.backend("b").Failed(0)
	j.wants(t, "after b gave no answer twice", "c", "d")
	for range 5 {
		j.backend("c").Failed(0)
	}
	j.wants(t, "half of the pool is out already", "c", "d")
	j.advance(9 * time.Second)
	j.wants(t, "after 9 s", "c", "d")
	j.advance(time.Second)
	j.wants(t, "after 10 s", "a", "b", "c", "d")
	for i, length := range []time.Duration{20 * time.Second, 25 * time.Second, 25 * time.Second} {
		for range 3 {
			a.Served(j.clock.at, 500)
		}
		if got := j.ejected[len(j.ejected)-1]; got.Backend != a || got.For != length {
			t.Errorf("ejection %d of a takes %v, want %v", i+2, got.For, length)
		}
		j.advance(length)
	}
	if j.pool.Ejections() != uint64(len(j.ejected)) || len(j.ejected) != 5 {
		t.Errorf("counted %d ejections, told %d, want 5", j.pool.Ejections(), len(j.ejected))
	}
}

func TestLastBackendIsNotEjected(t *testing.T) {
	t.Parallel()
	j := newJudged(Health{Outlier: &Outlier{}}, "a")
	for range 20 {
		j.backend("a").Failed(0)
	}
	j.wants(t, "after 20 failures", "a")
}

func TestGoodConductShortensTheNextEjection(t *testing.T) {
	t.Parallel()
	j := newJudged(Health{Outlier: &Outlier{Failures: 1, Ejection: 10 * time.Second, Interval: 5 * time.Second}}, "a", "b")
	fail := func() time.Duration {
		j.backend("a").Failed(j.clock.at)
		return j.ejected[len(j.ejected)-1].For
	}
	fail()
	j.advance(11 * time.Second)
	if got := fail(); got != 20*time.Second {
		t.Errorf("the second ejection takes %v", got)
	}
	j.advance(60 * time.Second)
	if got := fail(); got != 10*time.Second {
		t.Errorf("one after a minute of good conduct takes %v", got)
	}
}

func TestSuccessRateFarBelowTheMeanEjects(t *testing.T) {
	t.Parallel()
	names := []string{"a", "b", "c", "d", "e", "f"}
	run := func(volume, hosts int) *judged {
		j := newJudged(Health{Outlier: &Outlier{Fives: -1, Failures: -1, MaxPercent: 50}}, names[:hosts]...)
		for i := range volume {
			for _, b := range j.pool.Backends() {
				status := 200
				if b.Instance == "c" && i%10 < 3 || i%100 == 0 {
					status = 500
				}
				b.Served(j.clock.at, status)
			}
		}
		j.advance(10 * time.Second)
		return j
	}
	run(200, 6).wants(t, "with 30% of c's requests failing", "a", "b", "d", "e", "f")
	run(90, 6).wants(t, "with too few requests to judge by", names...)
	run(200, 4).wants(t, "with too few backends to judge by", names[:4]...)
}

func TestEjectionCountsInPanic(t *testing.T) {
	t.Parallel()
	j := newJudged(Health{PanicPercent: 60, Outlier: &Outlier{Failures: 1, Ejection: time.Minute, MaxPercent: 100}}, "a", "b", "c")
	j.backend("a").Failed(0)
	j.wants(t, "with one of three ejected", "b", "c")
	j.backend("b").Failed(0)
	j.wants(t, "with two", "a", "b", "c")
	j.advance(61 * time.Second)
	j.wants(t, "after both ejections", "a", "b", "c")
	if j.pool.Panicking(j.clock.at) || len(j.panics) != 2 {
		t.Errorf("panics still, told %+v", j.panics)
	}
}

// However checks, nodes, refusals and failures come, what pick does follows from what is known of each backend.
func TestPickFollowsWhatIsKnown(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		percent := rapid.SampledFrom([]int{-1, 30, 50, 100}).Draw(t, "percent")
		n := rapid.IntRange(1, 8).Draw(t, "backends")
		var names []string
		for i := range n {
			names = append(names, strconv.Itoa(i))
		}
		j := newJudged(Health{PanicPercent: percent}, names...)
		dead, failing := make([]bool, n), make([]bool, n)
		for range rapid.IntRange(0, 20).Draw(t, "steps") {
			i := rapid.IntRange(0, n-1).Draw(t, "which")
			b, on := j.backend(names[i]), rapid.Bool().Draw(t, "on")
			if rapid.Bool().Draw(t, "check") {
				failing[i] = on
				b.SetChecked(Checked{Failing: on})
			} else if dead[i] = on; on {
				b.MarkDead(1000)
			} else {
				b.Served(0, 200)
			}
		}
		usable, healthy := 0, 0
		for i := range n {
			if !dead[i] {
				usable++
				if !failing[i] {
					healthy++
				}
			}
		}
		var want []string
		for i := range n {
			if !dead[i] && (!failing[i] || healthy*100 < percent*usable) {
				want = append(want, names[i])
			}
		}
		if got := j.served(); !slices.Equal(got, want) {
			t.Fatalf("dead %v, failing %v: requests go to %v, want %v", dead, failing, got, want)
		}
	})
}

func TestCircuitBoundsThePool(t *testing.T) {
	t.Parallel()
	j := newJudged(Health{Circuit: &Circuit{Requests: 10, Connections: 8, Retries: 1, Pending: -1}}, "a")
	for _, test := range []struct {
		inFlight int64
		want     error
	}{{8, nil}, {9, ErrConnections}, {10, ErrConnections}, {11, ErrRequests}} {
		if err := j.pool.Admit(test.inFlight); !errors.Is(err, test.want) {
			t.Errorf("the request number %d: %v, want %v", test.inFlight, err, test.want)
		}
	}
	if err := j.pool.BeginRetry(); err != nil {
		t.Error(err)
	}
	if err := j.pool.BeginRetry(); !errors.Is(err, ErrRetries) {
		t.Errorf("a second retry: %v", err)
	}
	j.pool.EndRetry()
	if err := j.pool.BeginRetry(); err != nil {
		t.Errorf("after the first retry has ended: %v", err)
	}
	j.backend("a").MarkDead(1000)
	if _, err := j.pool.Hold(Waiter{Tried: &Tried{}, Now: j.clock.now}, time.Second); !errors.Is(err, ErrFull) {
		t.Errorf("a request that may not wait: %v", err)
	}
	var got []string
	for limit, n := range j.pool.Refused {
		got = append(got, fmt.Sprint(string(limit), n))
	}
	if fmt.Sprint(got) != "[connections2 requests1 retries1 pending1]" {
		t.Errorf("refused %v", got)
	}
}

func TestFullBackendsMakeRequestsWaitInTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := newJudged(Health{Circuit: &Circuit{BackendRequests: 2}}, "a", "b")
		var busy []*Backend
		for range 4 {
			busy = append(busy, j.pool.Pick(0, 0, &Tried{}))
		}
		if b := j.pool.Pick(0, 0, &Tried{}); b != nil || j.backend("a").InFlight() != 2 || j.backend("b").InFlight() != 2 {
			t.Fatalf("picked %v beyond the limit", b)
		}
		begun := time.Now()
		got := make(chan error, 10)
		for range 3 {
			go func() {
				b, err := j.pool.Hold(Waiter{Tried: &Tried{}, Now: j.clock.now}, 5*time.Second)
				if err == nil {
					time.Sleep(time.Second)
					b.Done()
				}
				got <- err
			}()
		}
		synctest.Wait()
		time.Sleep(time.Second)
		busy[0].Done()
		for i, want := range []time.Duration{2 * time.Second, 3 * time.Second, 4 * time.Second} {
			if err := <-got; err != nil || time.Since(begun) != want {
				t.Errorf("request %d that waited: %v after %v, want %v", i+1, err, time.Since(begun), want)
			}
		}
		busy[0] = j.pool.Pick(0, 0, &Tried{})
		_, err := j.pool.Hold(Waiter{Tried: &Tried{}, Now: j.clock.now}, time.Second)
		if !errors.Is(err, ErrBusy) {
			t.Errorf("one that waited for nothing: %v", err)
		}
		for _, b := range busy {
			b.Done()
		}
	})
}

func TestIdleConnectionsCountAsABackendsConnections(t *testing.T) {
	t.Parallel()
	j := newJudged(Health{Circuit: &Circuit{BackendConnections: 2}}, "a")
	var conns [3]conn
	for i := range conns {
		j.backend("a").PutIdle(&conns[i], 0)
	}
	if conns[0].closed.Load()+conns[1].closed.Load() != 0 || conns[2].closed.Load() != 1 {
		t.Error("more idle connections are kept than the backend may have")
	}
}

func TestRecoveryWakesARequestThatWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		now := func() int64 { return int64(time.Since(begun)) + 1 }
		w := newWeb(Config{Now: now})
		w.pool.SetHealth(Health{PanicPercent: -1})
		w.fill(RoundRobin, "a", "b")
		for _, b := range w.pool.Backends() {
			b.SetChecked(Checked{Failing: true})
		}
		time.AfterFunc(2*time.Second, func() { w.pool.Backends()[1].SetChecked(Checked{}) })
		b, err := w.pool.Hold(Waiter{Tried: &Tried{}, Now: now}, 5*time.Second)
		if err != nil || b.Instance != "b" || time.Since(begun) != 2*time.Second {
			t.Errorf("got %v, %v after %v", b, err, time.Since(begun))
		}
	})
}

func TestJudgingCostsAPickNothing(t *testing.T) {
	j := newJudged(Health{Outlier: &Outlier{}, Circuit: &Circuit{Requests: 100, BackendRequests: 10}}, "a", "b", "c")
	j.backend("a").SetChecked(Checked{Failing: true})
	var tried Tried
	if n := testing.AllocsPerRun(1000, func() {
		if err := j.pool.Admit(1); err != nil {
			t.Fatal(err)
		}
		b := j.pool.Pick(0, 0, &tried)
		b.Served(0, 200)
		b.Done()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
