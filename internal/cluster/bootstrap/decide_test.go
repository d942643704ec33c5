package bootstrap

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestDecide(t *testing.T) {
	a := func() *voice { return &voice{Machine: "ka", Name: "a", Servers: 3} }
	b := func() *voice { return &voice{Machine: "kb", Name: "b", Servers: 3, At: "10.0.0.2"} }
	c := func() *voice { return &voice{Machine: "kc", Name: "c", Servers: 3, At: "10.0.0.3"} }
	with := func(v *voice, change func(*voice)) *voice { change(v); return v }
	follows := func(v *voice, whom string) *voice { v.Promise = whom; return v }
	founded := func(v *voice) *voice { v.CA = "ca"; return v }
	for name, tt := range map[string]struct {
		self                   *voice
		others                 []*voice
		promise, follow, waits string
		found                  bool
	}{
		"alone":                              {self: a(), waits: "waiting for 2 more of 3 servers; here are a"},
		"one is missing":                     {self: a(), others: []*voice{b()}, waits: "waiting for 1 more of 3"},
		"all are here":                       {self: b(), others: []*voice{a(), c()}, promise: "ka"},
		"the smallest waits for promises":    {self: a(), others: []*voice{b(), c()}, waits: "to agree that a founds"},
		"one promise is not enough":          {self: a(), others: []*voice{follows(b(), "ka"), c()}, waits: "waiting for c (10.0.0.3) to agree"},
		"all promised":                       {self: a(), others: []*voice{follows(b(), "ka"), follows(c(), "ka")}, found: true},
		"it promised and waits":              {self: follows(b(), "ka"), others: []*voice{a(), c()}, waits: "waiting for a to found"},
		"others promised to a larger name":   {self: a(), others: []*voice{b(), follows(c(), "kb")}, promise: "kb"},
		"a larger name is promised to":       {self: b(), others: []*voice{follows(a(), "kb"), follows(c(), "kb")}, found: true},
		"who promised founds nothing":        {self: follows(a(), "kb"), others: []*voice{follows(b(), "ka"), follows(c(), "ka")}, waits: "promised to follow different ones"},
		"who is followed has gone":           {self: follows(a(), "kx"), others: []*voice{b(), c()}, waits: "promised to follow one that is not here"},
		"it was founded":                     {self: follows(b(), "ka"), others: []*voice{founded(a())}, follow: "ka"},
		"it was founded without this one":    {self: c(), others: []*voice{founded(a())}, follow: "ka"},
		"another than promised founded":      {self: follows(c(), "kb"), others: []*voice{founded(a())}, waits: "promised to follow another one"},
		"two were founded":                   {self: c(), others: []*voice{founded(a()), founded(b())}, waits: "two clusters were founded"},
		"a founder of another number":        {self: with(c(), func(v *voice) { v.Servers = 5 }), others: []*voice{founded(a())}, waits: "start it with the same number"},
		"a founder of the same name":         {self: with(c(), func(v *voice) { v.Name = "a" }), others: []*voice{founded(a())}, waits: "give this one another"},
		"numbers differ":                     {self: a(), others: []*voice{b(), with(c(), func(v *voice) { v.Servers = 5 })}, waits: "c (10.0.0.3) has --bootstrap 5, this server 3"},
		"a name twice":                       {self: a(), others: []*voice{b(), with(c(), func(v *voice) { v.Name = "b" })}, waits: "same name: b (10.0.0.2) and b (10.0.0.3)"},
		"too many":                           {self: a(), others: []*voice{b(), c(), {Machine: "kd", Name: "d", Servers: 3}}, waits: "4 servers want to found a cluster of 3"},
		"too many, though all have promised": {self: a(), others: []*voice{follows(b(), "ka"), follows(c(), "ka"), {Machine: "kd", Name: "d", Servers: 3}}, waits: "4 servers"},
		"one server is enough":               {self: with(a(), func(v *voice) { v.Servers = 1 }), found: true},
	} {
		t.Run(name, func(t *testing.T) {
			v := decide(tt.self, tt.others)
			machine := func(v *voice) string {
				if v == nil {
					return ""
				}
				return v.Machine
			}
			if machine(v.promise) != tt.promise || machine(v.follow) != tt.follow || v.found != tt.found {
				t.Errorf("promise %q, follow %q, found %t (%s)", machine(v.promise), machine(v.follow), v.found, v.wait)
			}
			if tt.waits == "" && v.wait != "" || !strings.Contains(v.wait, tt.waits) {
				t.Errorf("waits: %q; want %q", v.wait, tt.waits)
			}
		})
	}
}

// TestNeverTwoFounders lets more servers than are to found act in any order, on whatever old and partial views of each other.
func TestNeverTwoFounders(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 5).Draw(t, "servers")
		started := rapid.IntRange(n, 2*n-1).Draw(t, "started") // 2n could be two clusters: nobody can tell them from one
		servers := make([]*voice, started)
		said := make([][]voice, started) // all that each ever said
		for i := range servers {
			name := rapid.StringMatching(`[a-e]`).Draw(t, "name")
			servers[i] = &voice{Machine: string(rune('A' + i)), Name: name, Servers: n}
			said[i] = []voice{*servers[i]}
		}
		founders := 0
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			i := rapid.IntRange(0, started-1).Draw(t, "who")
			self := servers[i]
			if self.CA != "" {
				continue
			}
			var heard []*voice
			for j := range servers {
				if j != i && rapid.IntRange(0, 3).Draw(t, "hears") > 0 {
					v := said[j][rapid.IntRange(0, len(said[j])-1).Draw(t, "old")]
					heard = append(heard, &v)
				}
			}
			slices.SortFunc(heard, func(a, b *voice) int { return strings.Compare(a.Machine, b.Machine) })
			switch v := decide(self, heard); {
			case v.promise != nil && self.Promise == "":
				self.Promise = v.promise.Machine
			case v.promise != nil:
				t.Fatalf("%s promises twice", self.Machine)
			case v.found:
				founders++
				self.CA = "ca " + self.Machine
			}
			said[i] = append(said[i], *self)
		}
		if founders > 1 {
			t.Fatalf("%d clusters were founded by %d servers of %d", founders, started, n)
		}
	})
}
