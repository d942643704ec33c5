package pool

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// crowd returns endpoints with the given weights.
func crowd(weights ...uint32) []Endpoint {
	list := make([]Endpoint, len(weights))
	for i, weight := range weights {
		list[i] = Endpoint{
			Instance: fmt.Sprintf("i-%04d", i), Weight: weight,
			Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 80),
		}
	}
	return list
}

// count picks n times, with keys 0, 1, … and counts by instance. Requests end at once.
func count(p *Pool, n int) map[string]int {
	seen := map[string]int{}
	for key := range uint64(n) {
		b := p.Pick(key, 0, &Tried{})
		seen[b.Instance]++
		b.Done()
	}
	return seen
}

// What each way to balance promises: how far from its share of n picks a backend may be.
var promises = map[Balance]func(n int, share float64) float64{
	RoundRobin:   func(n int, _ float64) float64 { return 2 + math.Log(float64(n)) },
	Weighted:     func(n int, _ float64) float64 { return 2 + math.Log(float64(n)) },
	LeastRequest: chance,
	Random:       chance,
	Maglev:       func(n int, share float64) float64 { return chance(n, share) + 0.02*share*float64(n) + float64(n)/1000 },
	RingHash:     func(n int, share float64) float64 { return chance(n, share) + 0.45*share*float64(n) },
}

// chance is six standard deviations of a share of n draws.
func chance(n int, share float64) float64 { return 1 + 6*math.Sqrt(float64(n)*share*(1-share)) }

func TestEveryBackendGetsItsShare(t *testing.T) {
	t.Parallel()
	for balance, promise := range promises {
		t.Run(string(balance), func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				weights := rapid.SliceOfN(rapid.Uint32Range(1, 20), 1, 30).Draw(t, "weights")
				n := rapid.IntRange(100, 5000).Draw(t, "n")
				f := NewFleet(Config{})
				p := f.New("web")
				f.Fill(p, Settings{Balance: balance}, crowd(weights...))
				seen := count(p, n)
				var sum float64
				for _, w := range weights {
					sum += float64(w)
				}
				for i, w := range weights {
					name, share := fmt.Sprintf("i-%04d", i), float64(w)/sum
					if got, off := float64(seen[name]), promise(n, share); math.Abs(got-share*float64(n)) > off {
						t.Fatalf("%s of weight %d of %v got %v of %d, %.0f are its share, give or take %.0f",
							name, w, sum, got, n, share*float64(n), off)
					}
				}
			})
		})
	}
}

func TestWeightedComesBackAtEvenIntervals(t *testing.T) {
	t.Parallel()
	web := newWeb(Config{})
	web.Fill(web.pool, Settings{}, crowd(1, 1, 1, 7))
	last, longest := -1, 0
	for i := range 1000 {
		b := web.pool.Pick(0, 0, &Tried{})
		b.Done()
		if b.Instance == "i-0000" {
			if last >= 0 {
				longest = max(longest, i-last)
			}
			last = i
		}
	}
	if longest > 20 {
		t.Errorf("one that gets a tenth of the requests had to wait for %d of them", longest)
	}
}

func TestLeastRequestFollowsWeights(t *testing.T) {
	t.Parallel()
	web := newWeb(Config{})
	web.Fill(web.pool, Settings{Balance: LeastRequest}, crowd(1, 2, 4))
	seen := map[string]int64{}
	for range 7000 { // none of them ends
		b := web.pool.Pick(0, 0, &Tried{})
		seen[b.Instance] = b.InFlight()
	}
	for i, want := range []float64{1000, 2000, 4000} {
		if got := float64(seen[fmt.Sprintf("i-%04d", i)]); math.Abs(got-want) > 0.03*want {
			t.Errorf("of 7000 requests in flight %v are on the one that should have %v", got, want)
		}
	}
}

func TestDeadBackendsShareFallsOnAllOthers(t *testing.T) {
	t.Parallel()
	for balance := range promises {
		web := newWeb(Config{})
		p := web.fill(balance, "a", "b", "c", "d", "e")
		p.Backends()[2].MarkDead(forever - 1)
		seen := count(p, 8000)
		for _, name := range []string{"a", "b", "d", "e"} {
			if n := seen[name]; n < 1300 || n > 2800 {
				t.Errorf("%s: %s got %d of 8000 requests while c was dead", balance, name, n)
			}
		}
		if seen["c"] > 0 {
			t.Errorf("%s: the dead one got %d", balance, seen["c"])
		}
	}
}

// moved is which share of keys went elsewhere.
func moved(before, after []string) float64 {
	n := 0
	for i := range before {
		if before[i] != after[i] {
			n++
		}
	}
	return float64(n) / float64(len(before))
}

func TestHashingMovesLittle(t *testing.T) {
	t.Parallel()
	const keys = 20000
	at := func(p *Pool) []string {
		list := make([]string, keys)
		for key := range list {
			b := p.Pick(uint64(key)*7919, 0, &Tried{})
			list[key] = b.Instance
			b.Done()
		}
		return list
	}
	// What may move beyond the keys of the one that came or went.
	for balance, most := range map[Balance]float64{RingHash: 0, Maglev: 0.02} {
		for _, n := range []int{2, 10, 50} {
			f := NewFleet(Config{})
			p := f.New("web")
			weights := slices.Repeat([]uint32{1}, n)
			all := crowd(weights...)
			f.Fill(p, Settings{Balance: balance}, all)
			before := at(p)
			f.Fill(p, Settings{Balance: balance}, all[1:])
			less := at(p)
			gone := 0
			for key := range before {
				if before[key] == all[0].Instance {
					gone++
				}
			}
			if got := moved(before, less) - float64(gone)/keys; got > most {
				t.Errorf("%s: one of %d went, and %.2f%% of the others' keys moved", balance, n, 100*got)
			}
			slices.Reverse(all)
			f.Fill(p, Settings{Balance: balance}, all)
			if got := moved(before, at(p)); got != 0 {
				t.Errorf("%s: the one came back, in another order: %.2f%% of the keys are elsewhere than before", balance, 100*got)
			}
			all[0].Weight = 2
			f.Fill(p, Settings{Balance: balance}, all)
			if got, fair := moved(before, at(p)), 1/float64(n+1); got > 1.5*fair+most {
				t.Errorf("%s: one of %d doubled its weight and %.2f%% of the keys moved; %.2f%% had to", balance, n, 100*got, 100*fair)
			}
		}
	}
}

// TestKeysDoNotDependOnTheOrderOfChanges lets backends come, go and change their weights: keys are where they are in a pool that has had
// these backends from the start, in another order.
func TestKeysDoNotDependOnTheOrderOfChanges(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		all := crowd(slices.Repeat([]uint32{1}, 12)...)
		settings := Settings{Balance: RingHash} // Maglev's table is made anew each time
		changed, fresh := newWeb(Config{}), newWeb(Config{})
		var now []Endpoint
		for range rapid.IntRange(1, 6).Draw(t, "changes") {
			now = slices.Clone(rapid.Permutation(all).Draw(t, "order")[:rapid.IntRange(1, len(all)).Draw(t, "backends")])
			for i := range now {
				now[i].Weight = rapid.Uint32Range(1, 3).Draw(t, "weight")
			}
			changed.Fill(changed.pool, settings, now)
		}
		slices.Reverse(now)
		fresh.Fill(fresh.pool, settings, now)
		for key := range uint64(500) {
			a, b := changed.pool.Pick(key, 0, &Tried{}), fresh.pool.Pick(key, 0, &Tried{})
			if a.Instance != b.Instance {
				t.Fatalf("key %d is at %s after the changes, and at %s without them", key, a.Instance, b.Instance)
			}
			a.Done()
			b.Done()
		}
	})
}

// TestPointsOnOnePlaceHaveOneOrder has two backends of one name, all of whose points fall together.
func TestPointsOnOnePlaceHaveOneOrder(t *testing.T) {
	t.Parallel()
	all := crowd(1, 1, 1)
	all[1].Instance = all[0].Instance
	at := func(endpoints ...Endpoint) (list []netip.AddrPort) {
		web := newWeb(Config{})
		for i := range endpoints {
			web.Fill(web.pool, Settings{Balance: RingHash}, endpoints[:i+1])
		}
		for key := range uint64(1000) {
			b := web.pool.Pick(key, 0, &Tried{})
			list = append(list, b.Addr)
			b.Done()
		}
		return list
	}
	want := at(all...)
	for _, order := range [][]Endpoint{{all[1], all[0], all[2]}, {all[2], all[1], all[0]}, {all[0], all[2], all[1]}} {
		if !slices.Equal(at(order...), want) {
			t.Errorf("in another order keys are elsewhere")
		}
	}
}

func TestTablesOfManyBackends(t *testing.T) {
	t.Parallel()
	all := crowd(slices.Repeat([]uint32{1}, 2000)...)
	for _, balance := range []Balance{RingHash, Maglev} {
		f := NewFleet(Config{})
		p := f.New("web")
		f.Fill(p, Settings{Balance: balance}, all)
		most := 0
		for _, n := range count(p, 200_000) {
			most = max(most, n)
		}
		if most > 190 { // 100 on average
			t.Errorf("%s: one of 2000 got %d of 200000", balance, most)
		}
	}
	heavy := newWeb(Config{})
	heavy.Fill(heavy.pool, Settings{Balance: RingHash}, crowd(slices.Repeat([]uint32{1000}, 20)...))
	r, ok := heavy.pool.members.Load().plan.parts[0].near.balancer.(*ring)
	if !ok || len(r.points) > maxRingPoints {
		t.Errorf("the ring has %d points", len(r.points))
	}
}

func TestPickNeitherLocksNorAllocates(t *testing.T) {
	settings := map[string]Settings{
		"sessions": {Sticky: &Sticky{}},
		"zones":    {Zone: Zone{Prefer: true}},
		"split":    {Split: []Part{{Release: 1, Weight: 9}, {Weight: 1, Header: Pin{"x-release", "new"}}}},
	}
	for balance := range promises {
		settings[string(balance)] = Settings{Balance: balance, Hash: HashKey{Header: "x-user"}}
	}
	cookie, header, user := []byte("Cookie"), []byte("X-Release"), []byte("X-User")
	for name, s := range settings {
		for _, weights := range [][]uint32{{1, 1, 1}, {1, 2, 3}} {
			f := NewFleet(Config{Zone: "east"})
			p := f.New("web")
			endpoints := crowd(weights...)
			endpoints[0].Zone, endpoints[0].Release = "east", 1
			f.Fill(p, s, endpoints)
			value := []byte("a=b; " + DefaultCookie + "web=" + strings.Repeat("x", 22))
			head := make([]byte, 0, 256)
			f.mu.Lock() // whoever needed it would wait forever
			n := testing.AllocsPerRun(1000, func() {
				ask := p.Ask()
				if ask.Hashes() {
					ask.Client(netip.AddrFrom4([4]byte{1, 2, 3, 4}))
				}
				if ask.Reads() {
					ask.Field(cookie, value)
					ask.Field(header, []byte("new"))
					ask.Field(user, []byte("ada"))
				}
				want := ask.Want()
				var tried Tried
				b := p.Choose(want, 0, &tried)
				head = p.AppendCookie(head[:0], want, b, true)
				b.Done()
			})
			f.mu.Unlock()
			if n != 0 {
				t.Errorf("%s %v: %v allocations", name, weights, n)
			}
		}
	}
}

func BenchmarkPick(b *testing.B) {
	for _, n := range []int{3, 100, 2000} {
		for _, kind := range []string{"even", "weighted"} {
			weights := slices.Repeat([]uint32{1}, n)
			if kind == "weighted" {
				for i := range weights {
					weights[i] += uint32(i % 5)
				}
			}
			for _, balance := range []Balance{RoundRobin, LeastRequest, Random, RingHash, Maglev} {
				b.Run(fmt.Sprintf("%s/%s/%d", balance, kind, n), func(b *testing.B) {
					web := newWeb(Config{})
					web.Fill(web.pool, Settings{Balance: balance}, crowd(weights...))
					b.ReportAllocs()
					b.RunParallel(func(pb *testing.PB) {
						var tried Tried
						for key := uint64(0); pb.Next(); key++ {
							web.pool.Pick(key, 0, &tried).Done()
						}
					})
				})
			}
		}
	}
}

func BenchmarkFill(b *testing.B) {
	for _, balance := range []Balance{RoundRobin, RingHash, Maglev} {
		for _, n := range []int{10, 500, 2000} {
			b.Run(fmt.Sprintf("%s/%d", balance, n), func(b *testing.B) {
				web := newWeb(Config{})
				all := crowd(slices.Repeat([]uint32{1}, n)...)
				for i := 0; b.Loop(); i++ {
					web.Fill(web.pool, Settings{Balance: balance}, all[i%2:])
				}
			})
		}
	}
}
