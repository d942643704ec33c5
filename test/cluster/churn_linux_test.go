package cluster

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"
)

// blows are what churn does to one host at a time. Each lasts for a while, and leaves the host to be started again.
var blows = []struct {
	name  string
	begin func(e *estate, h *Host)
	end   func(e *estate, h *Host)
}{
	{"its process is killed", func(e *estate, h *Host) { e.run[h].Kill() }, nil},
	{"its process is stopped", func(e *estate, h *Host) { e.check(e.run[h].Signal(os.Interrupt)); e.check(e.run[h].gone()) }, nil},
	{"it loses its power", func(_ *estate, h *Host) { h.PowerOff() }, nil},
	{"it is frozen", func(_ *estate, h *Host) { h.Suspend() }, func(_ *estate, h *Host) { h.Resume() }},
	{"it is cut off", func(e *estate, h *Host) { e.Isolate(h) }, func(e *estate, h *Host) { e.Heal(h) }},
	{"nobody hears it", func(e *estate, h *Host) { e.cut(pair{h.Name, anyPort}) }, func(e *estate, h *Host) { e.Heal(h) }},
	{"it hears nobody", func(e *estate, h *Host) { e.cut(pair{anyPort, h.Name}) }, func(e *estate, h *Host) { e.Heal(h) }},
}

// TestChurn lets one thing after the other happen to a cluster whose certificates live for two minutes, for a quarter of an hour. CLUSTER_SEED
// repeats a run's choices.
func TestChurn(t *testing.T) {
	if os.Getenv("CLUSTER_LONG") == "" {
		t.Skip("it takes a quarter of an hour; set CLUSTER_LONG")
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("CLUSTER_SEED"); text != "" {
		if _, err := fmt.Sscan(text, &seed); err != nil {
			t.Fatalf("CLUSTER_SEED: expected a number, got %q", text)
		}
	}
	t.Logf("CLUSTER_SEED=%d", seed)
	dice := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // it is to be repeatable
	t.Setenv("VORTEX_CLUSTER_CERTIFICATE_LIFETIME", "2m")
	e := estateOf(t, 3, 5, 6)
	for deadline := time.Now().Add(15 * time.Minute); time.Now().Before(deadline); {
		h, blow := e.Hosts()[dice.IntN(len(e.Hosts()))], blows[dice.IntN(len(blows))]
		lasts := time.Duration(dice.IntN(8000)) * time.Millisecond
		t.Logf("%s: %s for %s", h.Name, blow.name, lasts)
		blow.begin(e, h)
		pause(t, lasts)
		if blow.end != nil {
			blow.end(e, h)
		}
		e.reboot(h)
		if dice.IntN(3) == 0 { // else the next comes before all is well
			e.well("after " + blow.name)
		}
	}
	e.reboot(e.Hosts()...)
	e.well("in the end")
	e.writers.flow(t, e.watched.Servers...)
	e.writers.verdict(t)
}
