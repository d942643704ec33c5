package kind

import (
	"testing"

	"vortex/internal/kind/engine/postgres/pgtest"
	"vortex/test/harness"
)

// TestLinearizableOnPostgres kills and freezes the primary, and then loses it for good: its synchronous replica takes over.
func TestLinearizableOnPostgres(t *testing.T) {
	primary := pgtest.Start(t)
	replica := primary.Replica(pgtest.Synchronous)
	url := pgtest.URL([]*pgtest.Server{primary, replica})
	f := &fleet{t: t}
	args := func(name string) harness.Options {
		return harness.Options{Args: []string{"--store", url, "--name", name, "--kind-anonymous", "full"}}
	}
	w := newWorkload(f.add(args("k1")), f.add(args("k2")))
	current, promoted := primary, false
	torment(t, w, []fault{
		{"the primary is killed", func() func() { current.Kill(); return current.Restart }},
		{"the primary is frozen", func() func() { current.Pause(); return current.Resume }},
		{"k2 is killed", func() func() { f.restart(1); return func() {} }},
		{"k1 is frozen", func() func() { f.freeze(0, faultLasts); return func() {} }},
		{"the primary is lost for good", func() func() {
			if promoted {
				return func() {}
			}
			current.Kill()
			return func() {
				replica.Promote()
				current, promoted = replica, true
			}
		}},
		{"the new primary is killed", func() func() { current.Kill(); return current.Restart }},
	}, long(10_000))
}
