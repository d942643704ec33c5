package sim_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"vortex"
	"vortex/internal/runtime"
	"vortex/internal/runtime/runtimetest"
	"vortex/internal/runtime/sim"
)

func TestDriver(t *testing.T) {
	const none = "simulated instances run nothing"
	runtimetest.Run(t, runtimetest.Harness{
		Open: func(t *testing.T, dir string) runtime.Driver {
			t.Helper()
			d, err := sim.Open(sim.Config{Dir: dir})
			if err != nil {
				t.Fatalf("Open: %v", err)
			}
			return d
		},
		Lacks: map[runtimetest.Feature]string{runtimetest.Processes: none},
		Kill: func(t *testing.T, d runtime.Driver, id string) {
			t.Helper()
			if err := d.(*sim.Driver).Kill(id); err != nil {
				t.Fatalf("Kill: %v", err)
			}
		},
		Concurrent: 500,
	})
}

func TestAddressesRunOut(t *testing.T) {
	d, err := sim.Open(sim.Config{Addresses: netip.MustParsePrefix("10.99.0.0/29")})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	start := func(i int) error {
		s, err := d.Start(t.Context(), runtime.InstanceSpec{ID: fmt.Sprintf("i%d", i)})
		if err == nil && seen[s.Address] {
			t.Errorf("address %s was given twice", s.Address)
		}
		seen[s.Address] = true
		return err
	}
	for i := range 7 {
		if err := start(i); err != nil {
			t.Fatalf("Start %d: %v", i, err)
		}
	}
	if err := start(7); !vortex.IsKind(err, vortex.Exhausted) {
		t.Errorf("the eighth of seven addresses: %v, want Exhausted", err)
	}
	if err := d.Remove(t.Context(), "i3"); err != nil {
		t.Fatal(err)
	}
	clear(seen)
	if err := start(8); err != nil {
		t.Errorf("after an address was freed: %v", err)
	}
}

func TestDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, err := sim.Open(sim.Config{StartDelay: 2 * time.Second, StopDelay: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if _, err := d.Start(t.Context(), runtime.InstanceSpec{ID: "a"}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took != 2*time.Second {
			t.Errorf("Start took %v, want 2s", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := d.Start(ctx, runtime.InstanceSpec{ID: "b"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Start within 1s: %v, want the deadline", err)
		}
		if _, err := d.Start(t.Context(), runtime.InstanceSpec{ID: "b"}); err != nil {
			t.Errorf("the id of a failed start is not free: %v", err)
		}
		begin = time.Now()
		if err := d.Stop(t.Context(), "a", 10*time.Second); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took != 10*time.Second {
			t.Errorf("Stop took %v, want the grace of 10s", took)
		}
		all, _ := d.List(t.Context())
		if all[0].ExitCode != 137 {
			t.Errorf("exit code %d after the grace, want 137", all[0].ExitCode)
		}
	})
}
