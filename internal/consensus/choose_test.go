package consensus

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// world is servers that live and die, and a group that follows the steps it is told.
type world struct {
	t       *rapid.T
	policy  Policy
	now     time.Time
	servers []Server
	members []Member
}

func newWorld(t *rapid.T) *world {
	w := &world{t: t, now: time.Unix(1_000_000, 0), policy: Policy{Most: rapid.SampledFrom([]int{0, 1, 3, 5}).Draw(t, "most")}}
	for n := range rapid.IntRange(1, 8).Draw(t, "servers") {
		w.servers = append(w.servers, Server{
			Name: fmt.Sprintf("s%d", n), Able: true, Alive: true, Since: w.now.Add(-time.Hour),
			Zone: rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(t, "zone"), Free: rapid.Float64Range(0, 1).Draw(t, "free"),
			Preferred: rapid.Bool().Draw(t, "preferred"),
		})
	}
	w.members = []Member{{Name: "s0", Since: w.now.Add(-time.Hour)}}
	return w
}

func (w *world) alive(name string) bool {
	return slices.ContainsFunc(w.servers, func(s Server) bool { return s.Name == name && s.Alive })
}

// living counts the voters that live, and all of them.
func (w *world) living() (alive, voters int) {
	for _, m := range w.members {
		if m.Learner {
			continue
		}
		voters++
		if w.alive(m.Name) {
			alive++
		}
	}
	return alive, voters
}

// change lets something happen.
func (w *world) change() {
	i := rapid.IntRange(0, len(w.servers)-1).Draw(w.t, "server")
	s := &w.servers[i]
	switch rapid.IntRange(0, 7).Draw(w.t, "event") {
	case 0, 1:
		s.Alive, s.Since = !s.Alive, w.now
	case 2:
		s.Free = rapid.Float64Range(0, 1).Draw(w.t, "free")
	case 3:
		s.Preferred = !s.Preferred
	case 4:
		if i > 0 {
			s.Able = !s.Able
		}
	case 5:
		if s.Name != "s0" && len(w.servers) > 1 && rapid.IntRange(0, 3).Draw(w.t, "leaves") == 0 {
			w.servers = slices.Delete(w.servers, i, i+1)
		}
	default:
		w.teach(rapid.Bool().Draw(w.t, "caught up"))
	}
	w.now = w.now.Add(time.Duration(rapid.IntRange(0, 90).Draw(w.t, "seconds")) * time.Second)
}

func (w *world) teach(done bool) {
	for i := range w.members {
		if w.members[i].Learner && w.alive(w.members[i].Name) {
			w.members[i].CaughtUp = done
		}
	}
}

// step carries the next step out and fails where it is not safe.
func (w *world) step() Step {
	before, all := w.living()
	step := Choose(w.servers, w.members, w.now, w.policy)
	at := slices.IndexFunc(w.members, func(m Member) bool { return m.Name == step.Name })
	switch step.Do {
	case Stay:
		if step.Why == "" {
			w.t.Fatal("nothing is done, and it does not say why")
		}
		return step
	case Add:
		if at >= 0 || !w.alive(step.Name) {
			w.t.Fatalf("%+v of %+v", step, w.members)
		}
		w.members = append(w.members, Member{Name: step.Name, Learner: true, Since: w.now})
	case Promote:
		if at < 0 || !w.members[at].Learner || !w.members[at].CaughtUp || !w.alive(step.Name) {
			w.t.Fatalf("%+v of %+v", step, w.members)
		}
		w.members[at].Learner, w.members[at].Since = false, w.now
	case Remove:
		w.members = slices.Delete(w.members, at, at+1)
	}
	alive, voters := w.living()
	learners := len(w.members) - voters
	if before < quorum(all) || alive < quorum(voters) {
		w.t.Fatalf("%+v: %d of %d voters lived before, %d of %d after", step, before, all, alive, voters)
	}
	if learners > 1 || voters > max(w.policy.Most, 3)+1 && voters > all {
		w.t.Fatalf("%+v: %d learners, %d voters", step, learners, voters)
	}
	return step
}

// TestChooseInAnyHistory: whatever happens, no step is unsafe; and when nothing happens any more, the group soon rests as it should be.
func TestChooseInAnyHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(0, 80).Draw(t, "events") {
			w.change()
			for range rapid.IntRange(0, 3).Draw(t, "steps") {
				w.step()
			}
		}
		rests, steps := 0, []string{}
		for n := 0; rests < 15; n++ {
			if n > 120 {
				t.Fatalf("it does not come to rest: %s", strings.Join(steps[len(steps)-12:], "; "))
			}
			w.now = w.now.Add(time.Minute)
			w.teach(true)
			s := w.step()
			steps = append(steps, fmt.Sprintf("%s %s (%s)", s.Do, s.Name, s.Why))
			if rests++; s.Do != Stay {
				rests = 0
			}
		}
		w.judge()
	})
}

// judge holds a group at rest to what was wanted.
func (w *world) judge() {
	alive, voters := w.living()
	if alive < quorum(voters) {
		return // nothing could be done
	}
	able := 0
	for _, s := range w.servers {
		if s.Able && s.Alive {
			able++
		}
	}
	most := w.policy.withDefaults().Most
	want := min(able-1+able%2, most)
	waits := voters > alive // for a member that nobody can stand in for
	if len(w.members) != voters || voters%2 == 0 && !waits || alive < min(want, most) && able > voters {
		w.t.Fatalf("%d of %d servers live, and the group is %+v", able, len(w.servers), w.members)
	}
	if waits && able > alive && able >= voters {
		w.t.Fatalf("a dead member has its place although a server is free: %+v of %+v", w.members, w.servers)
	}
}

// TestChoose is what an operator expects, by example.
func TestChoose(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	long := now.Add(-time.Hour)
	server := func(name, zone string, free float64) Server {
		return Server{Name: name, Able: true, Alive: true, Since: long, Zone: zone, Free: free}
	}
	dead := func(s Server, since time.Duration) Server { s.Alive, s.Since = false, now.Add(-since); return s }
	preferred := func(s Server) Server { s.Preferred = true; return s }
	voters := func(list ...string) (members []Member) {
		for _, name := range list {
			members = append(members, Member{Name: name, Since: long})
		}
		return members
	}
	a, b, c, d := server("a", "x", 0.5), server("b", "y", 0.5), server("c", "z", 0.5), server("d", "z", 0.6)
	for name, tt := range map[string]struct {
		servers []Server
		members []Member
		want    Step
	}{
		"alone":                      {[]Server{a}, voters("a"), Step{}},
		"two do not make three":      {[]Server{a, b}, voters("a"), Step{}},
		"three do":                   {[]Server{a, b, c}, voters("a"), Step{Do: Add, Name: "b"}},
		"another zone first":         {[]Server{a, server("b", "x", 0.9), c}, voters("a"), Step{Do: Add, Name: "c"}},
		"the free before the loaded": {[]Server{a, server("b", "y", 0.2), c}, voters("a"), Step{Do: Add, Name: "c"}},
		"preferred before all":       {[]Server{a, preferred(server("b", "x", 0)), c}, voters("a"), Step{Do: Add, Name: "b"}},
		"a learner first catches up": {[]Server{a, b, c}, append(voters("a"), Member{Name: "b", Learner: true, Since: now}), Step{}},
		"then it is promoted": {
			[]Server{a, b, c}, append(voters("a"), Member{Name: "b", Learner: true, CaughtUp: true, Since: now}), Step{Do: Promote, Name: "b"},
		},
		"a reboot replaces nobody":        {[]Server{a, b, dead(c, 20*time.Second), d}, voters("a", "b", "c"), Step{}},
		"a death does":                    {[]Server{a, b, dead(c, time.Minute), d}, voters("a", "b", "c"), Step{Do: Add, Name: "d"}},
		"and the dead one goes last":      {[]Server{a, b, dead(c, time.Minute), d}, voters("a", "b", "c", "d"), Step{Do: Remove, Name: "c"}},
		"without another it is waited":    {[]Server{a, b, dead(c, time.Hour)}, voters("a", "b", "c"), Step{}},
		"one of three cannot change it":   {[]Server{a, dead(b, time.Hour), dead(c, time.Hour), d}, voters("a", "b", "c"), Step{}},
		"a little more free moves nobody": {[]Server{a, b, c, d}, voters("a", "b", "c"), Step{}},
		"much more does":                  {[]Server{a, b, c, server("d", "z", 0.9)}, voters("a", "b", "c"), Step{Do: Add, Name: "d"}},
		"five with two dead become three": {
			[]Server{a, b, c, dead(d, time.Hour), dead(server("e", "w", 1), time.Hour)}, voters("a", "b", "c", "d", "e"), Step{Do: Remove, Name: "d"},
		},
		"who left is removed": {[]Server{a, b, d}, voters("a", "b", "c"), Step{Do: Add, Name: "d"}},
	} {
		t.Run(name, func(t *testing.T) {
			policy := Policy{}
			if len(tt.members) == 5 {
				policy.Most = 5
			}
			got := Choose(tt.servers, tt.members, now, policy)
			t.Log(got.Do, got.Name, got.Why)
			if got.Do != tt.want.Do || got.Do != Stay && got.Name != tt.want.Name {
				t.Errorf("%s %s; want %s %s", got.Do, got.Name, tt.want.Do, tt.want.Name)
			}
			if got.Why == "" {
				t.Error("it does not say why")
			}
		})
	}
}
