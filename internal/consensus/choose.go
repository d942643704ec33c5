package consensus

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Server is one that may be a member.
type Server struct {
	Name string
	// Able is set when it can be reached as a member and does not refuse to be one.
	Able bool
	// Preferred servers are members before all others.
	Preferred bool
	Zone      string
	// Free is the share of its processor and memory that nothing asked for, 0 to 1.
	Free float64
	// Alive is what is known now, and Since since when.
	Alive bool
	Since time.Time
}

// Member is one that the group has.
type Member struct {
	Name    string
	Learner bool
	// CaughtUp is set for a learner that has everything the others have.
	CaughtUp bool
	// Since is when it became what it is.
	Since time.Time
}

// Policy says what group is wanted. The zero value is ready.
type Policy struct {
	// Most is how many members there are at most, 1, 3 or 5; default 3.
	Most int
	// Grace is how long a member may be dead before it is replaced; default 30 s.
	Grace time.Duration
	// Steady is how long a server has to live before it becomes a member; default 3 s.
	Steady time.Duration
	// Margin is how much more of itself a server must have free to take a member's place; default 0.25.
	Margin float64
	// Rest is how long the group is left alone after a change before another is made that is only for the better; default 10 min.
	Rest time.Duration
	// Learning is how long a learner may take to catch up before another is tried; default 5 min.
	Learning time.Duration
}

func (p Policy) withDefaults() Policy {
	p.Most = min(max(cmp.Or(p.Most, 3), 1), 5) //nolint:mnd // the default, and the largest group that is worth its writes
	p.Grace = cmp.Or(p.Grace, 30*time.Second)
	p.Steady = cmp.Or(p.Steady, 3*time.Second)
	p.Margin = cmp.Or(p.Margin, 0.25)
	p.Rest = cmp.Or(p.Rest, 10*time.Minute)
	p.Learning = cmp.Or(p.Learning, 5*time.Minute)
	return p
}

// Action is what a Step does.
type Action int

// The actions.
const (
	Stay Action = iota
	Add         // as a learner
	Promote
	Remove
)

// String implements fmt.Stringer.
func (a Action) String() string { return [...]string{"stay", "add", "promote", "remove"}[a] }

// Step is the one change to make now, and why. A Stay says why nothing is to be done.
type Step struct {
	Do   Action
	Name string
	Why  string
}

// Choose returns the next step from the members there are to those there should be. No step leaves fewer voters alive, as
// far as is known at now, than a quorum of those there are after it.
func Choose(servers []Server, members []Member, now time.Time, policy Policy) Step {
	c := &choice{servers: map[string]Server{}, now: now, policy: policy.withDefaults()}
	for _, s := range servers {
		c.servers[s.Name] = s
	}
	for _, m := range members {
		if m.Learner {
			c.learners = append(c.learners, m)
		} else {
			c.voters = append(c.voters, m)
		}
		if m.Since.After(c.changed) {
			c.changed = m.Since
		}
	}
	slices.SortFunc(c.learners, func(a, b Member) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Name, b.Name)) })
	slices.SortFunc(c.voters, func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
	return c.step()
}

// choice is what one step is decided on.
type choice struct {
	servers  map[string]Server
	voters   []Member
	learners []Member
	changed  time.Time // when the newest member became what it is
	now      time.Time
	policy   Policy
}

func (c *choice) step() Step {
	alive := c.alive(c.voters)
	if alive < quorum(len(c.voters)) {
		return Step{Why: fmt.Sprintf("%d of %d members live: that is no quorum, and nothing can be changed", alive, len(c.voters))}
	}
	size := c.size()
	if len(c.learners) > 0 {
		return c.teach(size)
	}
	switch {
	case len(c.voters) > size:
		return c.shrink(size)
	case len(c.voters) < size:
		return c.grow(size)
	}
	if step := c.replace(); step.Do != Stay {
		return step
	}
	return c.improve()
}

func quorum(voters int) int { return voters/2 + 1 }

// alive counts the members that live now.
func (c *choice) alive(members []Member) (n int) {
	for _, m := range members {
		if c.servers[m.Name].Alive {
			n++
		}
	}
	return n
}

// lost reports whether a member will not come back soon: it has been dead for long, or its server is none any more.
func (c *choice) lost(m Member) bool {
	s, ok := c.servers[m.Name]
	return !ok || !s.Able || !s.Alive && c.now.Sub(s.Since) >= c.policy.Grace
}

// candidates are the servers that could become members now.
func (c *choice) candidates() []Server {
	var list []Server
	for _, s := range c.servers {
		if s.Able && s.Alive && c.now.Sub(s.Since) >= c.policy.Steady && !c.has(s.Name) {
			list = append(list, s)
		}
	}
	slices.SortFunc(list, func(a, b Server) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

func (c *choice) has(name string) bool {
	named := func(m Member) bool { return m.Name == name }
	return slices.ContainsFunc(c.voters, named) || slices.ContainsFunc(c.learners, named)
}

// size is how many members there should be. A group that has begun to grow goes on while the servers it grows for may come back: on a busy machine
// a server is silent for a moment now and then.
func (c *choice) size() int {
	size := c.fit(len(c.candidates()))
	if len(c.voters)+len(c.learners) > size {
		size = c.fit(c.expected())
	}
	return size
}

// expected counts the servers beside the members that could become some, or could again.
func (c *choice) expected() (n int) {
	for _, s := range c.servers {
		if s.Able && !c.has(s.Name) && (s.Alive || c.now.Sub(s.Since) < c.policy.Grace) {
			n++
		}
	}
	return n
}

// fit is the size for so many servers beside the members: of the odd numbers that there are servers for, the one that outlives the most further deaths, and
// the larger of two that outlive as many.
func (c *choice) fit(held int) int {
	for _, m := range c.learners {
		if !c.lost(m) {
			held++
		}
	}
	there := held
	for _, m := range c.voters {
		if !c.lost(m) {
			held++
		}
		if s, ok := c.servers[m.Name]; ok && s.Able {
			there++
		}
	}
	best, outlives := 1, math.MinInt
	for n := 1; n <= min(c.policy.Most, there); n += 2 {
		if o := min(held, n) - quorum(n); o >= outlives {
			best, outlives = n, o
		}
	}
	return best
}

// teach goes on with a member that has been begun.
func (c *choice) teach(size int) Step {
	for _, l := range c.learners[1:] {
		return Step{Remove, l.Name, "one member is added at a time"}
	}
	l := c.learners[0]
	switch {
	case c.lost(l):
		return Step{Remove, l.Name, "it died before it was a member"}
	case !c.wanted(l, size):
		return Step{Remove, l.Name, "it is not needed any more"}
	case l.CaughtUp && c.servers[l.Name].Alive:
		return Step{Promote, l.Name, "it has caught up"}
	case c.now.Sub(l.Since) >= c.policy.Learning:
		return Step{Remove, l.Name, fmt.Sprintf("it has not caught up within %s", c.policy.Learning)}
	default:
		return Step{Why: l.Name + " is catching up"}
	}
}

// wanted reports whether the group is better with a learner than without.
func (c *choice) wanted(l Member, size int) bool {
	if len(c.voters) < size || slices.ContainsFunc(c.voters, c.lost) {
		return true
	}
	if len(c.voters) > size {
		return false
	}
	with := append(slices.Clone(c.voters), l)
	return c.worst(with).Name != l.Name
}

// shrink removes a member of too many: one that is lost, else the one that is missed least.
func (c *choice) shrink(size int) Step {
	leaver := c.worst(c.voters)
	why := fmt.Sprintf("the group is to have %d members, and the others are the better ones", size)
	if c.lost(leaver) {
		why = c.fate(leaver)
	}
	rest := slices.DeleteFunc(slices.Clone(c.voters), func(m Member) bool { return m.Name == leaver.Name })
	if c.alive(rest) < quorum(len(rest)) {
		return Step{Why: leaver.Name + " stays until enough of the others live"}
	}
	return Step{Remove, leaver.Name, why}
}

// fate is why a member is lost.
func (c *choice) fate(m Member) string {
	s, ok := c.servers[m.Name]
	switch {
	case !ok:
		return "it is no server of the cluster any more"
	case !s.Able:
		return "it is not to be a member"
	default:
		return fmt.Sprintf("it has been dead for %s", c.now.Sub(s.Since).Round(time.Second))
	}
}

// grow adds the best candidate.
func (c *choice) grow(size int) Step {
	if best, ok := c.best(); ok {
		return Step{Add, best.Name, fmt.Sprintf("the group is to have %d members; %s", size, c.praise(best))}
	}
	return Step{Why: fmt.Sprintf("the group is to have %d members, and no other server lives", size)}
}

// replace adds a candidate for a member that is lost, which is removed once that has its vote.
func (c *choice) replace() Step {
	for _, m := range c.voters {
		if !c.lost(m) {
			continue
		}
		if best, ok := c.best(); ok {
			return Step{Add, best.Name, fmt.Sprintf("for %s: %s; %s", m.Name, c.fate(m), c.praise(best))}
		}
		return Step{Why: fmt.Sprintf("%s is missing: %s; it waits for another server", m.Name, c.fate(m))}
	}
	return Step{}
}

// improve adds a candidate that is clearly better than a member.
func (c *choice) improve() Step {
	content := Step{Why: "the group is as it should be"}
	best, ok := c.best()
	if !ok || c.now.Sub(c.changed) < c.policy.Rest {
		return content
	}
	names := append(names(c.voters), best.Name)
	out := c.least(names)
	if out == best.Name {
		return content
	}
	after := c.rate(slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == out }))
	if !after.clearly(c.rate(names[:len(names)-1]), c.policy.Margin) {
		return content
	}
	return Step{Add, best.Name, fmt.Sprintf("it is better than %s: %s", out, c.praise(best))}
}

// praise tells what speaks for a server.
func (c *choice) praise(s Server) string {
	var why []string
	if s.Preferred {
		why = append(why, "preferred")
	}
	if s.Zone != "" {
		why = append(why, "zone "+s.Zone)
	}
	return strings.Join(append(why, fmt.Sprintf("%.0f %% free", 100*s.Free)), ", ")
}

func names(members []Member) []string {
	list := make([]string, len(members))
	for i, m := range members {
		list[i] = m.Name
	}
	return list
}

// best is the candidate with whom the group is best.
func (c *choice) best() (Server, bool) {
	candidates := c.candidates()
	if len(candidates) == 0 {
		return Server{}, false
	}
	var living []string
	for _, m := range c.voters {
		if !c.lost(m) {
			living = append(living, m.Name)
		}
	}
	return slices.MaxFunc(candidates, func(a, b Server) int {
		return c.rate(append(slices.Clone(living), a.Name)).compare(c.rate(append(slices.Clone(living), b.Name)))
	}), true
}

// worst is the member without whom the group is best: one that is lost first.
func (c *choice) worst(members []Member) Member {
	lost := slices.DeleteFunc(slices.Clone(members), func(m Member) bool { return !c.lost(m) })
	if len(lost) > 0 {
		return lost[0]
	}
	name := c.least(names(members))
	return members[slices.IndexFunc(members, func(m Member) bool { return m.Name == name })]
}

// least is the name without which the others are rated best, the last of several.
func (c *choice) least(list []string) string {
	best, out := rating{zones: -1}, ""
	for _, name := range list {
		rest := slices.DeleteFunc(slices.Clone(list), func(n string) bool { return n == name })
		if r := c.rate(rest); out == "" || r.compare(best) >= 0 {
			best, out = r, name
		}
	}
	return out
}

// rating tells how good a set of members is: the first that differs decides.
type rating struct {
	preferred, zones int
	free             float64
}

// rate rates a set of servers.
func (c *choice) rate(list []string) rating {
	var r rating
	zones := map[string]bool{}
	for _, name := range list {
		s := c.servers[name]
		if s.Preferred {
			r.preferred++
		}
		zones[s.Zone] = true
		r.free += s.Free
	}
	r.zones = len(zones)
	return r
}

func (r rating) compare(other rating) int {
	return cmp.Or(cmp.Compare(r.preferred, other.preferred), cmp.Compare(r.zones, other.zones), cmp.Compare(r.free, other.free))
}

// clearly reports whether r is so much better that a member is worth replacing.
func (r rating) clearly(other rating, margin float64) bool {
	if c := cmp.Or(cmp.Compare(r.preferred, other.preferred), cmp.Compare(r.zones, other.zones)); c != 0 {
		return c > 0
	}
	return r.free > other.free+margin
}
