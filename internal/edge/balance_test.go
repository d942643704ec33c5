package edge_test

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vortex"
	"vortex/internal/edge"
)

// group returns n backends that answer with their names.
func group(t *testing.T, prefix string, n int) []*backend {
	t.Helper()
	list := make([]*backend, n)
	for i := range list {
		name := fmt.Sprintf("%s%d", prefix, i)
		list[i] = newBackend(t, name, named(name))
	}
	return list
}

// answers asks n times, with header fields name, value, …, and counts who answers.
func (h *harness) answers(t *testing.T, c *http.Client, n int, fields ...string) map[string]int {
	t.Helper()
	seen := map[string]int{}
	for range n {
		name, _ := h.ask(t, c, fields...)
		seen[name]++
	}
	return seen
}

// ask returns who answers a request to web with these header fields, and the cookies that are set.
func (h *harness) ask(t *testing.T, c *http.Client, fields ...string) (string, []*http.Cookie) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+h.addr+"/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "web.localhost"
	for i := 0; i < len(fields); i += 2 {
		req.Header.Add(fields[i], fields[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	name, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %q, %v", resp.Status, name, err)
	}
	return string(name), resp.Cookies()
}

func TestWeightsAreFollowed(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	for _, balance := range []vortex.BalancePolicy{"", vortex.BalancePolicyWeighted} {
		r := router("web", group(t, "b", 4)...)
		r.Balance = balance
		r.Backends[1].Weight, r.Backends[2].Weight, r.Backends[3].Weight = new(uint32(2)), new(uint32(5)), new(uint32(0))
		h.apply(t, r)
		seen := h.answers(t, client(t), 160)
		for i, want := range []int{20, 40, 100, 0} {
			if got := seen[r.Backends[i].Instance]; math.Abs(float64(got-want)) > 4 {
				t.Errorf("%q: %s answered %d of 160 requests, want %d", balance, r.Backends[i].Instance, got, want)
			}
		}
	}
}

func TestHashKeepsWhatBelongsTogether(t *testing.T) {
	t.Parallel()
	h := start(t, func(c *edge.Config) { c.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} })
	for what, r := range map[string]vortex.RouterRecord{
		"X-User":          {Balance: vortex.BalancePolicyRingHash, Hash: &vortex.HashKey{Header: "x-user"}},
		"Cookie":          {Balance: vortex.BalancePolicyMaglev, Hash: &vortex.HashKey{Cookie: "sid"}},
		"X-Forwarded-For": {Balance: vortex.BalancePolicyMaglev, Hash: &vortex.HashKey{Address: new(true)}},
	} {
		rec := router("web", group(t, "b", 5)...)
		rec.Balance, rec.Hash = r.Balance, r.Hash
		h.apply(t, rec)
		who := map[string]bool{}
		for i := range 40 {
			value := fmt.Sprintf("192.0.2.%d", i)
			if what == "Cookie" {
				value = "a=b; sid=" + value
			}
			seen := h.answers(t, client(t), 3, what, value)
			if len(seen) != 1 {
				t.Fatalf("%s %s went to %v", what, value, seen)
			}
			for name := range seen {
				who[name] = true
			}
		}
		if len(who) != 5 {
			t.Errorf("%s: only %d of 5 backends answered", what, len(who))
		}
	}
}

func TestSessionSurvivesChangesAndFallsBack(t *testing.T) {
	t.Parallel()
	h, other := start(t, nil), start(t, nil)
	backends := group(t, "b", 4)
	record := func(list ...*backend) vortex.RouterRecord {
		r := router("web", list...)
		r.Sticky, r.StickyKey = &vortex.Sticky{TTLSeconds: new(uint32(600))}, []byte(strings.Repeat("k", 32))
		return r
	}
	h.apply(t, record(backends...))
	name, cookies := h.ask(t, client(t))
	if len(cookies) != 1 || cookies[0].Name != "vortex-web" || cookies[0].Path != "/" || !cookies[0].HttpOnly || cookies[0].MaxAge != 600 {
		t.Fatalf("the session's cookie is %v", cookies)
	}
	pair := cookies[0].Name + "=" + cookies[0].Value
	stays := func(h *harness, what string) {
		t.Helper()
		for range 8 {
			got, set := h.ask(t, client(t), "Cookie", "theme=dark; "+pair)
			if got != name || len(set) != 0 {
				t.Fatalf("%s: %s answered, not %s, and set %v", what, got, name, set)
			}
		}
	}
	stays(h, "at first")
	var mine *backend
	var others []*backend
	for _, b := range backends {
		if b.name == name {
			mine = b
		} else {
			others = append(others, b)
		}
	}
	h.apply(t, record(append(group(t, "new", 3), mine)...))
	stays(h, "with other backends")
	other.apply(t, record(append(others, mine)...))
	stays(other, "at another edge")

	h.apply(t, record(others...))
	next, set := h.ask(t, client(t), "Cookie", pair)
	if next == name || len(set) != 1 {
		t.Fatalf("without its backend %s answered and set %v", next, set)
	}
	if again, set := h.ask(t, client(t), "Cookie", "vortex-web="+set[0].Value); again != next || len(set) != 0 {
		t.Errorf("the new session went to %s, not %s", again, next)
	}
}

func TestSplitByReleaseAndPin(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	r := router("web", append(group(t, "old", 3), group(t, "new", 1)...)...)
	for i := range r.Backends {
		r.Backends[i].Release = new(uint64(1))
	}
	r.Backends[3].Release = new(uint64(2))
	r.Split = []vortex.SplitPart{
		{Release: new(uint64(2)), Weight: 20, Header: &vortex.Header{Name: "X-Release", Value: "new"}, Cookie: &vortex.Header{Name: "beta", Value: "1"}},
		{Weight: 80},
	}
	h.apply(t, r)
	c := client(t)
	if n := h.answers(t, c, 200)["new0"]; n < 36 || n > 44 {
		t.Errorf("the new release answered %d of 200 requests, want 40", n)
	}
	for _, pin := range [][]string{{"x-release", "new"}, {"Cookie", "beta=1"}} {
		if n := h.answers(t, c, 20, pin...)["new0"]; n != 20 {
			t.Errorf("pinned by %v, it answered %d of 20", pin, n)
		}
	}
	r.Split[0].Weight = 0
	h.apply(t, r)
	if n := h.answers(t, c, 50)["new0"]; n != 0 {
		t.Errorf("without a weight it answered %d", n)
	}
	if n := h.answers(t, c, 20, "X-Release", "new")["new0"]; n != 20 {
		t.Errorf("without a weight but pinned it answered %d of 20", n)
	}
}

func TestOwnZoneIsPreferred(t *testing.T) {
	t.Parallel()
	h := start(t, func(c *edge.Config) { c.Zone = "east" })
	east, west := group(t, "e", 2), group(t, "w", 2)
	r := router("web", append(east, west...)...)
	for i := range r.Backends {
		r.Backends[i].Zone = map[byte]string{'e': "east", 'w': "west"}[r.Backends[i].Instance[0]]
	}
	r.Zone = &vortex.ZonePreference{}
	h.apply(t, r)
	c := client(t)
	for name := range h.answers(t, c, 40) {
		if name[0] != 'e' {
			t.Errorf("%s answered for the edge in east", name)
		}
	}
	for _, b := range east {
		b.server.Close()
	}
	for name := range h.answers(t, c, 40) {
		if name[0] != 'w' {
			t.Errorf("%s answered although it is closed", name)
		}
	}
}

func TestSlowStartIsFollowed(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	backends := group(t, "b", 2)
	r := router("web", backends[0])
	r.SlowStartSeconds = new(3600.0)
	h.apply(t, r)
	r = router("web", backends...)
	r.SlowStartSeconds = new(0.3)
	h.apply(t, r)
	c := client(t)
	eventually(t, "the new one to get its full share", func() bool { return h.answers(t, c, 20)["b1"] == 10 })
}

func TestMirrorCopiesRequestsAndThrowsAnswersAway(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	var mu sync.Mutex
	copies := map[string]int{}
	shadow := newBackend(t, "shadow", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		copies[r.Method+" "+r.Host+r.URL.String()+" "+r.Header.Get("X-Test")+" "+string(body)]++
		mu.Unlock()
		w.Header().Set("Set-Cookie", "from=shadow")
		w.WriteHeader(http.StatusTeapot)
		io.WriteString(w, strings.Repeat("thrown away ", 10_000))
	})
	h.apply(t, router("shadow", shadow))
	r := router("web", newBackend(t, "b", named("b")))
	r.Mirror = &vortex.Mirror{App: "shadow", Percent: 100}
	h.apply(t, r)
	c := client(t)
	for i := range 20 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, fmt.Sprintf("http://%s/%d?q=1", h.addr, i%2), strings.NewReader("a body"))
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "web.localhost"
		req.Header.Set("X-Test", "yes")
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(body) != "b" || resp.Header.Get("Set-Cookie") != "" {
			t.Fatalf("the answer is %q, %v", body, resp.Header)
		}
	}
	eventually(t, "every request to be mirrored", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return copies["POST web.localhost/0?q=1 yes a body"] == 10 && copies["POST web.localhost/1?q=1 yes a body"] == 10
	})
	h.remove("shadow")
	eventually(t, "the mirror to end", func() bool { return len(h.edge.Status().Apps) == 1 })
	h.ask(t, c)
	h.apply(t, router("shadow", shadow))
	h.ask(t, c)
	eventually(t, "the mirror to go on when its app is back", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return copies["GET web.localhost/  "] == 1
	})
}

func TestMirrorNeverDelays(t *testing.T) {
	t.Parallel()
	h := start(t, nil)
	release := make(chan struct{})
	var asked atomic.Int64
	hangs := newBackend(t, "hangs", func(http.ResponseWriter, *http.Request) {
		asked.Add(1)
		<-release
	})
	t.Cleanup(func() { close(release) })
	h.apply(t, router("shadow", hangs))
	r := router("web", newBackend(t, "b", named("b")))
	r.Mirror = &vortex.Mirror{App: "shadow", Percent: 100}
	h.apply(t, r)
	c := client(t)
	begun := time.Now()
	h.answers(t, c, 500)
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("500 requests took %v while the mirror hung", took)
	}
	if n := asked.Load(); n > 128 {
		t.Errorf("%d copies were on their way at the same time", n)
	}
	refuses := newBackend(t, "refuses", nil)
	refuses.server.Close()
	revision := h.apply(t, router("shadow", refuses))
	h.awaitDrain(t, revision, "hangs") // copies count as requests in flight
	h.answers(t, c, 50)
}
