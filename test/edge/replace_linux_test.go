package edge

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"time"

	"vortex"
)

// proof is an edge with backends under load.
type proof struct {
	*edge

	load     *load
	backends []*backend
	started  int
	before   usage
}

// prove starts an edge and n backends, and loads it.
func prove(t *testing.T, n int) *proof {
	t.Helper()
	p := &proof{edge: startEdge(t)}
	warm := p.more(t, 1)
	p.put(t, router("web", warm...))
	p.awaitServing(t)
	p.awaitDrained(t, p.remove(t, "web"), warm[0].name)
	p.before = p.settled(t)
	p.backends = append(warm, p.more(t, n-1)...)
	p.put(t, router("web", p.backends...))
	p.awaitServing(t)
	p.load = startLoad(p.edge, mixed)
	return p
}

// more starts n more backends.
func (p *proof) more(t *testing.T, n int) (started []*backend) {
	t.Helper()
	for range n {
		p.started++
		started = append(started, startBackend(t, fmt.Sprintf("web-%d", p.started)))
	}
	return started
}

// awaitServing waits until the edge answers from a backend.
func (p *proof) awaitServing(t *testing.T) {
	t.Helper()
	eventually(t, "an answer of a backend", func() bool {
		req, err := http.NewRequest(http.MethodGet, "http://"+p.addr+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host, req.Close = "web.example", true
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.Header.Get("X-Backend") != ""
	})
}

// serve makes these the backends, waits for the drain of those that are not among them any more, and kills those at once: whatever
// the edge had still sent them would be lost.
func (p *proof) serve(t *testing.T, backends ...*backend) {
	t.Helper()
	revision := p.put(t, router("web", backends...))
	var gone []*backend
	for _, b := range p.backends {
		if !slices.Contains(backends, b) {
			gone = append(gone, b)
		}
	}
	for _, b := range gone {
		p.awaitDrained(t, revision, b.name)
		b.kill()
	}
	p.backends = backends
}

// finish ends the load and the routers, and wants the edge to hold what it held at first.
func (p *proof) finish(t *testing.T) {
	t.Helper()
	p.load.stop()
	p.remove(t, "web")
	p.returnsTo(t, p.before)
}

func TestRollingReplacementLosesNothing(t *testing.T) {
	t.Parallel()
	p := prove(t, 5)
	replaced := 0
	for end := time.Now().Add(loaded()); time.Now().Before(end); replaced++ {
		p.serve(t, append(slices.Clone(p.backends[1:]), p.more(t, 1)...)...)
	}
	p.finish(t)
	p.load.lostNothing(t)
	t.Logf("%d backends were replaced", replaced)
	if replaced < 5 || len(p.load.by) < 5 {
		t.Errorf("%d backends were replaced and %d answered", replaced, len(p.load.by))
	}
}

func TestScalingDownAndUpLosesNothing(t *testing.T) {
	t.Parallel()
	p := prove(t, 5)
	scaled := 0
	for end := time.Now().Add(loaded()); time.Now().Before(end); scaled++ {
		p.serve(t, p.backends[rand.IntN(5)])
		p.serve(t, append(slices.Clone(p.backends), p.more(t, 4)...)...)
	}
	p.finish(t)
	p.load.lostNothing(t)
	t.Logf("scaled 5 → 1 → 5 %d times", scaled)
}

func TestConfigurationChangesLoseNothing(t *testing.T) {
	t.Parallel()
	p := prove(t, 3)
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	changes := 0
	for end := time.Now().Add(loaded()); time.Now().Before(end); changes++ {
		<-ticker.C
		p.put(t, changed(p.backends, changes)...)
	}
	for i := range others {
		p.remove(t, fmt.Sprintf("other-%d", i))
	}
	p.finish(t)
	p.load.lostNothing(t)
	t.Logf("the configuration was changed %d times", changes)
}

const others = 7 // apps beside the one that is asked

// changed is a configuration that serves the same requests in another way, beside another app that comes or changes.
func changed(backends []*backend, n int) []vortex.RouterRecord {
	r := router("web", backends...)
	rand.Shuffle(len(r.Backends), func(i, k int) { r.Backends[i], r.Backends[k] = r.Backends[k], r.Backends[i] })
	balances := vortex.BalancePolicy("").Values()
	r.Balance = balances[n%len(balances)]
	if n%2 == 0 {
		r.Hosts = append(r.Hosts, fmt.Sprintf("h%d.example", n), "*.web.example")
	}
	if n%3 == 0 {
		r.Paths = []string{"/", "/other"}
	}
	other := router(fmt.Sprintf("other-%d", n%others), backends[n%len(backends)])
	other.Hosts = append(other.Hosts, fmt.Sprintf("o%d.example", n))
	return []vortex.RouterRecord{r, other}
}

// A request that was sent to a backend that died may be lost when it must not be sent twice. No other may.
func TestKilledBackendLosesOnlyWhatMayNotBeSentTwice(t *testing.T) {
	t.Parallel()
	p := prove(t, 3)
	const apart = 700 * time.Millisecond
	type death struct{ began, over time.Time }
	var deaths []death
	for end := time.Now().Add(loaded()); time.Now().Before(end); {
		time.Sleep(apart) // of steady load
		victim, left := p.backends[0], slices.Clone(p.backends[1:])
		d := death{began: time.Now()}
		victim.kill()
		d.over = time.Now()
		deaths = append(deaths, d)
		time.Sleep(apart) // the edge has to find out by itself
		p.backends = append(left, p.more(t, 1)...)
		p.put(t, router("web", p.backends...))
	}
	p.finish(t)
	p.load.report(t)
	t.Logf("%d backends were killed", len(deaths))
	for _, f := range p.load.failures {
		excused := slices.ContainsFunc(deaths, func(d death) bool {
			return f.method == http.MethodPost && f.sent.Before(d.over) && f.at.After(d.began)
		})
		if !excused {
			t.Errorf("request %d, %s %s: %v", f.n, f.method, f.path, f.err)
		}
	}
}
