package pool

import (
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// clock is an engine's.
type testClock struct{ at int64 }

func (c *testClock) now() int64 { return c.at }

// site is a fleet of one pool in zone east, with a clock of its own.
type site struct {
	*Fleet

	pool  *Pool
	clock *testClock
}

func newSite() site {
	clock := &testClock{at: 1}
	f := NewFleet(Config{Zone: "east", Now: clock.now})
	return site{f, f.New("web"), clock}
}

// in returns endpoints of a zone and a release.
func in(zone string, release uint64, names ...string) []Endpoint {
	list := endpoints(names...)
	for i := range list {
		list[i].Zone, list[i].Release = zone, release
	}
	return list
}

// shares returns which part of n picks each first letter of an instance gets.
func (s site) shares(n int, want Want) map[string]float64 {
	got := map[string]float64{}
	for range n {
		b := s.pool.Choose(want, s.clock.at, &Tried{})
		if b == nil {
			got["none"] += 1 / float64(n)
			continue
		}
		got[b.Instance[:1]] += 1 / float64(n)
		b.Done()
	}
	return got
}

func expectShares(t *testing.T, what string, got, want map[string]float64) {
	t.Helper()
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s: %s got %.3f of the requests, want none", what, name, got[name])
		}
	}
	for name, share := range want {
		if math.Abs(got[name]-share) > 0.01 {
			t.Errorf("%s: %s got %.3f of the requests, want %.3f", what, name, got[name], share)
		}
	}
}

func TestOwnZoneAnswersWhileItCan(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name       string
		east, west int
		enough     float64
		own        float64
	}{
		{"as many as the others", 4, 4, 0, 1},
		{"a little fewer", 3, 5, 0, 1},              // 3 of a fair 4 are more than 70%
		{"too few", 1, 3, 0, 1 / (2 * 0.7)},         // 1 of a fair 2
		{"too few, strictly", 3, 5, 1, 3. / 4},      // 3 of a fair 4
		{"too few, loosely", 1, 7, 0.5, 1. / 4 * 2}, // 1 of a fair 4, and half of that is enough
		{"none", 0, 3, 0, 0},
		{"only its own", 3, 0, 0, 1},
	} {
		s := newSite()
		names := []string{"e1", "e2", "e3", "e4"}
		others := []string{"w1", "w2", "w3", "w4", "w5", "w6", "w7"}
		s.Fill(s.pool, Settings{Zone: Zone{Prefer: true, Enough: tc.enough}}, append(in("east", 0, names[:tc.east]...), in("west", 0, others[:tc.west]...)...))
		want := map[string]float64{}
		if tc.own > 0 {
			want["e"] = tc.own
		}
		if tc.own < 1 {
			want["w"] = 1 - tc.own
		}
		expectShares(t, tc.name, s.shares(10000, Want{}), want)
	}
}

func TestZoneGivesWayToOthersWhenItsBackendsDie(t *testing.T) {
	t.Parallel()
	s := newSite()
	all := append(in("east", 0, "e1", "e2", "e3", "e4"), in("west", 0, "w1", "w2", "w3", "w4")...)
	s.Fill(s.pool, Settings{Zone: Zone{Prefer: true}}, all)
	if !s.Rebalance() {
		t.Fatal("zones are not looked at again")
	}
	for _, b := range s.pool.Backends()[:3] {
		b.MarkDead(1000)
	}
	s.Rebalance()
	// One of a fair 2.5, of which 70% would be enough.
	expectShares(t, "three of four dead", s.shares(10000, Want{}), map[string]float64{"e": 1 / (2.5 * 0.7), "w": 1 - 1/(2.5*0.7)})
	s.pool.Backends()[3].MarkDead(1000)
	expectShares(t, "all dead, not yet looked at", s.shares(1000, Want{}), map[string]float64{"w": 1})
	s.clock.at = 1000
	s.Rebalance()
	expectShares(t, "alive again", s.shares(1000, Want{}), map[string]float64{"e": 1})
	s.Fill(s.pool, Settings{Zone: Zone{Prefer: true}}, all[:4])
	if s.Rebalance() {
		t.Error("zones are looked at although there is but one")
	}
}

func TestHashingStaysInItsZoneByKey(t *testing.T) {
	t.Parallel()
	s := newSite()
	s.Fill(s.pool, Settings{Balance: Maglev, Zone: Zone{Prefer: true}}, append(in("east", 0, "e1"), in("west", 0, "w1", "w2", "w3")...))
	at := map[uint64]*Backend{}
	for range 3 {
		for key := range uint64(500) {
			b := s.pool.Pick(key, s.clock.at, &Tried{})
			b.Done()
			if at[key] != nil && at[key] != b {
				t.Fatalf("key %d went to %s and to %s", key, at[key].Instance, b.Instance)
			}
			at[key] = b
		}
	}
}

func TestNewBackendGrowsWarm(t *testing.T) {
	t.Parallel()
	for _, balance := range []Balance{RoundRobin, LeastRequest, Random} {
		s := newSite()
		settings := Settings{Balance: balance, SlowStart: 100 * time.Second}
		s.Fill(s.pool, settings, in("", 0, "a"))
		s.clock.at = int64(200 * time.Second)
		s.Fill(s.pool, settings, in("", 0, "a", "b"))
		for _, step := range []struct {
			age    time.Duration
			weight float64
		}{{0, 0.1}, {5 * time.Second, 0.1}, {50 * time.Second, 0.5}, {100 * time.Second, 1}} {
			s.clock.at = int64(200*time.Second + step.age)
			if again := s.Rebalance(); again != (step.weight < 1) {
				t.Errorf("%s after %v: looked at again: %t", balance, step.age, again)
			}
			n := 1000
			if balance != RoundRobin {
				n = 100_000
			}
			want := step.weight / (1 + step.weight)
			expectShares(t, string(balance)+" after "+step.age.String(), s.shares(n, Want{}), map[string]float64{"a": 1 - want, "b": want})
		}
	}
}

func TestBackendGrowsWarmAfterAnEjection(t *testing.T) {
	t.Parallel()
	s := newSite()
	s.pool.SetHealth(Health{Outlier: &Outlier{Failures: 1, Ejection: 10 * time.Second, MaxPercent: 50}})
	s.Fill(s.pool, Settings{SlowStart: 100 * time.Second}, in("", 0, "a", "b"))
	const ejected = 200 * time.Second
	s.clock.at = int64(ejected)
	for s.Rebalance() {
		t.Fatal("two old backends are looked at again")
	}
	i := slices.IndexFunc(s.pool.Backends(), func(b *Backend) bool { return b.Instance == "b" })
	s.pool.Backends()[i].Failed(s.clock.at)
	for _, step := range []struct {
		after  time.Duration
		weight float64
	}{{0, 0}, {9 * time.Second, 0}, {10 * time.Second, 0.1}, {60 * time.Second, 0.5}, {110 * time.Second, 1}} {
		s.clock.at = int64(ejected + step.after)
		if again := s.Rebalance(); again != (step.weight < 1) {
			t.Errorf("after %v: looked at again: %t", step.after, again)
		}
		want := map[string]float64{"a": 1 / (1 + step.weight)}
		if step.weight > 0 {
			want["b"] = 1 - want["a"]
		}
		expectShares(t, "after "+step.after.String(), s.shares(1000, Want{}), want)
	}
}

func TestBackendsThatAreNewTogetherShareEvenly(t *testing.T) {
	t.Parallel()
	s := newSite()
	s.Fill(s.pool, Settings{SlowStart: time.Minute}, in("", 0, "a", "b"))
	s.clock.at = int64(20 * time.Second)
	s.Rebalance()
	expectShares(t, "a third warm", s.shares(1000, Want{}), map[string]float64{"a": 0.5, "b": 0.5})
}

// asked is what a request with these fields wants: name, value, name, value, …
func (s site) asked(fields ...string) Want {
	ask := s.pool.Ask()
	if ask.Hashes() {
		ask.Client(netip.MustParseAddr("192.0.2.1"))
	}
	for i := 0; ask.Reads() && i < len(fields); i += 2 {
		ask.Field([]byte(fields[i]), []byte(fields[i+1]))
	}
	return ask.Want()
}

func TestSplitByRelease(t *testing.T) {
	t.Parallel()
	s := newSite()
	settings := Settings{Split: []Part{
		{Release: 2, Weight: 10, Header: Pin{"X-Release", "new"}, Cookie: Pin{"release", "new"}},
		{Weight: 90, Header: Pin{"X-Release", "old"}},
	}}
	s.Fill(s.pool, settings, append(in("", 1, "old1", "old2", "old3"), in("", 2, "new1")...))
	expectShares(t, "unpinned", s.shares(10000, s.asked("X-Release", "other")), map[string]float64{"o": 0.9, "n": 0.1})
	for _, fields := range [][]string{
		{"x-release", "new"}, {"Cookie", "a=b; release=new"}, {"Cookie", `release="new";c=d`}, {"X-Release", "new", "X-Release", "old"},
	} {
		expectShares(t, strings.Join(fields, " "), s.shares(100, s.asked(fields...)), map[string]float64{"n": 1})
	}
	expectShares(t, "pinned to the rest", s.shares(100, s.asked("X-RELEASE", "old")), map[string]float64{"o": 1})
	s.pool.Backends()[3].MarkDead(forever - 1)
	expectShares(t, "pinned to a dead one", s.shares(100, s.asked("X-Release", "new")), map[string]float64{"o": 1})
	s.Fill(s.pool, settings, in("", 1, "old1"))
	expectShares(t, "pinned to none", s.shares(100, s.asked("X-Release", "new")), map[string]float64{"o": 1})
	expectShares(t, "with one release", s.shares(100, Want{}), map[string]float64{"o": 1})
}

func TestPartWithoutWeightIsForThePinnedAlone(t *testing.T) {
	t.Parallel()
	s := newSite()
	s.Fill(s.pool, Settings{Split: []Part{{Release: 2, Header: Pin{"X-Release", "new"}}, {Release: 1, Weight: 1}}},
		append(append(in("", 1, "old"), in("", 2, "new")...), in("", 3, "unnamed")...))
	expectShares(t, "unpinned", s.shares(1000, Want{}), map[string]float64{"o": 1})
	expectShares(t, "pinned", s.shares(1000, s.asked("X-Release", "new")), map[string]float64{"n": 1})
	s.Fill(s.pool, Settings{Split: []Part{{Release: 2}, {Release: 1, Weight: 1}}}, in("", 3, "unnamed"))
	expectShares(t, "nothing else is left", s.shares(100, Want{}), map[string]float64{"u": 1})
}

func TestHashKeyOfHeaderOrCookieOrClient(t *testing.T) {
	t.Parallel()
	s := newSite()
	names := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	key := func(fields ...string) uint64 { return s.asked(fields...).Key }
	s.Fill(s.pool, Settings{Balance: Maglev, Hash: HashKey{Header: "X-User"}}, endpoints(names...))
	if key("x-user", "ada") != BytesKey("ada") || key("X-User", "ada", "X-User", "bob") != BytesKey("ada") {
		t.Error("the header does not decide")
	}
	if key("X-Other", "ada") != AddrKey(netip.MustParseAddr("192.0.2.1")) {
		t.Error("without the header the client's address does not decide")
	}
	s.Fill(s.pool, Settings{Balance: RingHash, Hash: HashKey{Cookie: "sid"}}, endpoints(names...))
	if key("Cookie", "a=1;sid=ada; sid=bob") != BytesKey("ada") || key("Cookie", "SID=ada") == BytesKey("ada") {
		t.Error("the cookie does not decide")
	}
}

// session returns the Set-Cookie of a pick's answer, "" for none.
func (s site) session(w Want, b *Backend) string {
	field := string(s.pool.AppendCookie(nil, w, b, false))
	return strings.TrimSuffix(strings.TrimPrefix(field, "Set-Cookie: "), "\r\n")
}

func TestSessionStaysAtItsBackend(t *testing.T) {
	t.Parallel()
	s := newSite()
	settings := Settings{Sticky: &Sticky{TTL: time.Hour, Key: []byte("a key")}}
	s.Fill(s.pool, settings, endpoints("a", "b", "c"))
	first := s.pool.Choose(s.asked(), 1, &Tried{})
	first.Done()
	set := s.session(Want{}, first)
	pair, attributes, _ := strings.Cut(set, "; ")
	if name, value, _ := strings.Cut(pair, "="); name != "vortex-web" || len(value) != 22 {
		t.Fatalf("the cookie is %q", set)
	}
	if attributes != "Path=/; Max-Age=3600; HttpOnly; SameSite=Lax" {
		t.Errorf("the cookie's attributes are %q", attributes)
	}
	if secure := string(s.pool.AppendCookie(nil, Want{}, first, true)); !strings.HasSuffix(secure, "; Secure\r\n") {
		t.Errorf("over TLS the field is %q", secure)
	}
	stays := func(what string) {
		t.Helper()
		for range 20 {
			w := s.asked("Cookie", "x=y; "+pair)
			b := s.pool.Choose(w, s.clock.at, &Tried{})
			b.Done()
			if b.Instance != first.Instance || s.session(w, b) != "" {
				t.Fatalf("%s: it went to %s, and the cookie was set to %q", what, b.Instance, s.session(w, b))
			}
		}
	}
	stays("at first")
	s.Fill(s.pool, settings, endpoints("d", first.Instance, "e", "f"))
	stays("after the others changed")
	s.Fill(s.pool, Settings{Balance: Maglev, Sticky: settings.Sticky}, endpoints("d", first.Instance))
	stays("after the balance changed")

	other := newSite() // another edge, or this one after a restart
	other.Fill(other.pool, settings, endpoints("d", "e", first.Instance))
	s = other
	stays("at another edge")

	for _, b := range s.pool.Backends() {
		if b.Instance == first.Instance {
			b.MarkDead(100)
		}
	}
	w := s.asked("Cookie", pair)
	b := s.pool.Choose(w, s.clock.at, &Tried{})
	b.Done()
	if b.Instance == first.Instance || !strings.HasPrefix(s.session(w, b), "vortex-web=") {
		t.Errorf("when it was dead the request went to %s, with the cookie %q", b.Instance, s.session(w, b))
	}
	for _, forged := range []string{"vortex-web=" + first.Instance, "vortex-web=", "vortex-web", "vortex-web=" + strings.Repeat("A", 22)} {
		if w := s.asked("Cookie", forged); w.stuck != nil {
			t.Errorf("the forged cookie %q chose %s", forged, w.stuck.Instance)
		}
	}
}

func TestSessionKeysDiffer(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, key := range []string{"", "one", "two"} {
		for _, name := range []string{"web", "api"} {
			f := NewFleet(Config{})
			p := f.New(name)
			f.Fill(p, Settings{Sticky: &Sticky{Cookie: "sid", Key: []byte(key)}}, endpoints("a"))
			field := string(p.AppendCookie(nil, Want{}, p.Backends()[0], false))
			if other := seen[field]; other != "" {
				t.Errorf("%s with key %q has the cookie of %s", name, key, other)
			}
			seen[field] = name
		}
	}
}

func TestPinOutranksSession(t *testing.T) {
	t.Parallel()
	s := newSite()
	settings := Settings{
		Sticky: &Sticky{Cookie: "sid"},
		Split:  []Part{{Release: 2, Weight: 1, Header: Pin{"X-Release", "new"}}, {Weight: 1}},
	}
	all := append(in("", 1, "old"), in("", 2, "new")...)
	s.Fill(s.pool, settings, all)
	cookie := func(b *Backend) string {
		pair, _, _ := strings.Cut(s.session(Want{}, b), ";")
		return pair
	}
	old, next := cookie(s.pool.Backends()[0]), cookie(s.pool.Backends()[1])
	expectShares(t, "a session with the old one", s.shares(100, s.asked("Cookie", old)), map[string]float64{"o": 1})
	expectShares(t, "pinned to the new one", s.shares(100, s.asked("Cookie", old, "X-Release", "new")), map[string]float64{"n": 1})
	settings.Split[0].Weight = 0
	s.Fill(s.pool, settings, all)
	expectShares(t, "a session with what nobody is sent to any more", s.shares(100, s.asked("Cookie", next)), map[string]float64{"o": 1})
}

func TestMirrorTakesItsShare(t *testing.T) {
	t.Parallel()
	f := NewFleet(Config{})
	web, shadow := f.New("web"), f.New("shadow")
	for _, share := range []float64{0, 0.01, 0.5, 1} {
		web.Mirror(shadow, share)
		n := 0
		for range 10000 {
			if web.Mirrored() == shadow {
				n++
			}
		}
		if math.Abs(float64(n)-10000*share) > 5 {
			t.Errorf("%d of 10000 requests were mirrored, want %v of all", n, share)
		}
	}
	web.Mirror(nil, 1)
	if web.Mirrored() != nil {
		t.Error("mirrored to nowhere")
	}
}
