package cluster

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// blow is what befalls one host for a while, and leaves it to be started again.
type blow struct {
	name  string
	begin func(e *estate, h *Host)
	end   func(e *estate, h *Host)
}

var blows = []blow{
	{"its process is killed", func(e *estate, h *Host) { e.run[h].Kill() }, nil},
	{"its process is stopped", func(e *estate, h *Host) { e.check(e.run[h].Signal(syscall.SIGTERM)); e.check(e.run[h].gone()) }, nil},
	{"it loses its power", func(_ *estate, h *Host) { h.PowerOff() }, nil},
	{"it is frozen", func(_ *estate, h *Host) { h.Suspend() }, func(_ *estate, h *Host) { h.Resume() }},
	{"it is cut off", func(e *estate, h *Host) { e.Isolate(h) }, func(e *estate, h *Host) { e.Heal(h) }},
	{"nobody hears it", func(e *estate, h *Host) { e.cut(pair{h.Name, anyPort}) }, func(e *estate, h *Host) { e.Heal(h) }},
	{"it hears nobody", func(e *estate, h *Host) { e.cut(pair{anyPort, h.Name}) }, func(e *estate, h *Host) { e.Heal(h) }},
}

const (
	churnEnv = "CLUSTER_CHURN" // how long it lasts, such as 3m; default a quarter of an hour
	seedEnv  = "CLUSTER_SEED"  // repeats a run's choices
)

// TestChurn lets one thing after the other happen to a cluster whose certificates live for two minutes, for a quarter of an hour, under writes through
// every server and requests through the edge of the one machine that nothing happens to: no acknowledged write is lost, and hardly a request.
func TestChurn(t *testing.T) {
	if os.Getenv("CLUSTER_LONG") == "" && os.Getenv(churnEnv) == "" {
		t.Skip("it takes a quarter of an hour; set CLUSTER_LONG, or " + churnEnv)
	}
	lasts, err := time.ParseDuration(cmp.Or(os.Getenv(churnEnv), "15m"))
	if err != nil {
		t.Fatalf("%s: expected a duration such as 3m: %v", churnEnv, err)
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv(seedEnv); text != "" {
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("%s: expected a number: %v", seedEnv, err)
		}
	}
	t.Logf("%s=%d", seedEnv, seed)
	dice := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // it is to be repeatable
	t.Setenv("VORTEX_CLUSTER_CERTIFICATE_LIFETIME", "2m")
	e := estateWriting(t, 50*time.Millisecond, 3, 5, 6)
	hit, spared := e.Hosts()[:len(e.Hosts())-1], e.agent(5)
	began, count, v := time.Now(), 0, e.callers(spared)
	for ; time.Since(began) < lasts; count++ {
		e.strike(hit[dice.IntN(len(hit))], blows[dice.IntN(len(blows))], time.Duration(dice.IntN(8000))*time.Millisecond, v)
		if dice.IntN(3) == 0 { // else the next comes before all is well
			e.well("after the last blow")
		}
	}
	e.well("in the end")
	e.writers.flow(t, e.watched.Servers...)
	e.tell(fmt.Sprintf("%d blows in %s", count, time.Since(began).Round(time.Second)), v, e.watched.Servers...)
	e.writers.verdict(t)
}

// strike lets a host suffer a blow, starts it again, and says what it cost those who visit.
func (e *estate) strike(h *Host, b blow, lasts time.Duration, v *visitors) {
	e.t.Helper()
	answered, failed := v.answered.Load(), v.failed.Load()
	b.begin(e, h)
	pause(e.t, lasts)
	if b.end != nil {
		b.end(e, h)
	}
	e.reboot(h)
	e.t.Logf("%s %s: %s for %s; requests: %d answered, %d failed", time.Now().Format(time.TimeOnly), h.Name, b.name, lasts, v.answered.Load()-answered, v.failed.Load()-failed)
}
