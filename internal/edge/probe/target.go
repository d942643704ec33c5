package probe

import (
	"math/rand/v2"
	"net/netip"
	"time"

	"vortex/internal/edge/pool"
	"vortex/internal/health"
)

// target is an address with a check. The Prober's mutex guards all of it but ask, schedule and own.
type target struct {
	addr     netip.AddrPort
	own      bool // the check goes to where requests go
	ask      asker
	schedule health.Schedule

	holders []*pool.Backend
	dropped bool
	state   pool.Checked

	next     time.Time
	position int  // in the heap; -1 outside
	slow     bool // it took more than half of its time when last asked, or was not asked yet
	lagging  bool // a worker has it from the queue of the slow

	known     bool // a verdict was reached
	passed    int  // in a row
	failed    int  // in a row
	returning time.Duration
}

// judge counts a result and reports whether the target is judged otherwise than before. That nothing listens where requests would go
// needs no second look.
func (t *target) judge(r health.Result) bool {
	t.slow = r.Took > t.schedule.Timeout/2
	absent := r.Absent && t.own
	before := t.state.Failing
	if r.Healthy {
		t.failed, t.returning = 0, 0
		t.passed++
	} else {
		t.passed = 0
		t.failed++
	}
	switch {
	case r.Healthy && (t.passed >= t.schedule.SuccessThreshold || !t.known):
		t.known, t.state.Failing = true, false
	case absent || !r.Healthy && t.failed >= t.schedule.FailureThreshold:
		t.known, t.state.Failing = true, true
	}
	t.state.Absent, t.state.Detail = absent, r.Detail
	return before != t.state.Failing
}

// tell hands the verdict to every backend that is held.
func (t *target) tell() {
	for _, b := range t.holders {
		b.SetChecked(t.state)
	}
}

// pause is how long to wait for the next probe. Where nothing listens it begins short: something may any moment.
func (t *target) pause() time.Duration {
	pause := t.schedule.Period
	if t.state.Absent {
		t.returning = min(max(2*t.returning, returnGap), pause)
		pause = t.returning
	}
	spread := time.Duration(float64(pause) * jitter)
	return pause - spread + rand.N(2*spread+1)
}

// schedule is a heap of targets, the one that is due first on top.
type schedule []*target

// Len implements heap.Interface.
func (s *schedule) Len() int { return len(*s) }

// Less implements heap.Interface.
func (s *schedule) Less(i, j int) bool { return (*s)[i].next.Before((*s)[j].next) }

// Swap implements heap.Interface.
func (s *schedule) Swap(i, j int) {
	all := *s
	all[i], all[j] = all[j], all[i]
	all[i].position, all[j].position = i, j
}

// Push implements heap.Interface.
func (s *schedule) Push(x any) {
	t, _ := x.(*target)
	t.position = len(*s)
	*s = append(*s, t)
}

// Pop implements heap.Interface.
func (s *schedule) Pop() any {
	last := len(*s) - 1
	t := (*s)[last]
	(*s)[last] = nil
	*s = (*s)[:last]
	t.position = -1
	return t
}
