package health_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"vortex"
	"vortex/internal/health"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// told is a report and when it came, counted from the start of the checker.
type told struct {
	health.State

	at time.Duration
}

// watch runs a checker in a bubble for a while. The target answers as answer says at each moment.
func watch(t *testing.T, c health.Checker, lasts time.Duration, answer func(time.Duration) (bool, string)) (reports []told, probes int) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), lasts)
		defer cancel()
		c.Probe = func(context.Context) health.Result {
			probes++
			ok, detail := answer(time.Since(began))
			return health.Result{Healthy: ok, Detail: detail}
		}
		c.Run(ctx, func(s health.State) { reports = append(reports, told{s, time.Since(began)}) })
	})
	return reports, probes
}

func schedule(change func(*health.Schedule)) health.Checker {
	s := health.Schedule{Period: 5 * time.Second, Timeout: 2 * time.Second, FailureThreshold: 3, SuccessThreshold: 1}
	if change != nil {
		change(&s)
	}
	return health.Checker{Schedule: s}
}

func healthyFrom(from time.Duration) func(time.Duration) (bool, string) {
	return func(at time.Duration) (bool, string) {
		if at < from {
			return false, "refused"
		}
		return true, "ok"
	}
}

func TestStartIsSeenWithinMilliseconds(t *testing.T) {
	tests := []struct{ ready, within time.Duration }{
		{0, 0},
		{10 * time.Millisecond, 10 * time.Millisecond},
		{100 * time.Millisecond, 70 * time.Millisecond},
		{time.Second, 700 * time.Millisecond},
		{14 * time.Second, 5 * time.Second},
	}
	for _, tt := range tests {
		reports, _ := watch(t, schedule(nil), 30*time.Second, healthyFrom(tt.ready))
		last := reports[len(reports)-1]
		if last.Health != vortex.HealthHealthy || last.at-tt.ready > tt.within {
			t.Errorf("ready after %s: told %+v; want Healthy within %s", tt.ready, last, tt.within)
		}
		for _, r := range reports {
			if r.Health == vortex.HealthUnhealthy {
				t.Errorf("ready after %s: a slow start was called unhealthy: %+v", tt.ready, reports)
			}
		}
	}
}

func TestStartThatNeverAnswersIsUnhealthyAfterItsPeriods(t *testing.T) {
	reports, probes := watch(t, schedule(nil), 60*time.Second, healthyFrom(time.Hour))
	want := []told{
		{health.State{Health: vortex.HealthUnknown, Detail: "refused"}, 0},
		{health.State{Health: vortex.HealthUnhealthy, Detail: "refused"}, 15 * time.Second},
	}
	if len(reports) != 2 || reports[0] != want[0] || reports[1] != want[1] {
		t.Errorf("told %+v; want %+v", reports, want)
	}
	if probes > 40 {
		t.Errorf("%d probes in a minute", probes)
	}
}

func TestInitialDelayComesFirst(t *testing.T) {
	reports, _ := watch(t, schedule(func(s *health.Schedule) { s.InitialDelay = 7 * time.Second }), 10*time.Second, healthyFrom(0))
	if len(reports) != 1 || reports[0].at != 7*time.Second {
		t.Errorf("told %+v; want Healthy at 7s", reports)
	}
}

func TestHealthyTargetIsProbedOncePerPeriodAndNotTold(t *testing.T) {
	reports, probes := watch(t, schedule(nil), 101*time.Second, healthyFrom(0))
	if len(reports) != 1 || probes != 21 {
		t.Errorf("%d reports, %d probes; want 1 and 21", len(reports), probes)
	}
}

func TestFailuresInARowDecide(t *testing.T) {
	// Two failures, a success, then failures for good from 30 s on.
	answer := func(at time.Duration) (bool, string) {
		if at >= 5*time.Second && at < 15*time.Second || at >= 30*time.Second {
			return false, "503"
		}
		return true, "ok"
	}
	reports, _ := watch(t, schedule(nil), 60*time.Second, answer)
	if len(reports) != 2 || reports[1].Health != vortex.HealthUnhealthy || reports[1].at != 40*time.Second {
		t.Errorf("told %+v; want Unhealthy at 40s, the third failure in a row", reports)
	}
}

func TestRecoveryNeedsSuccessesInARow(t *testing.T) {
	c := schedule(func(s *health.Schedule) { s.SuccessThreshold = 2 })
	c.Initial = health.State{Health: vortex.HealthUnhealthy, Detail: "503"}
	reports, _ := watch(t, c, 60*time.Second, healthyFrom(8*time.Second))
	if len(reports) != 2 || reports[1].Health != vortex.HealthHealthy || reports[1].at != 15*time.Second {
		t.Errorf("told %+v; want Healthy at 15s, the second success in a row", reports)
	}
}

func TestHealthIsKeptAcrossACheckersRestart(t *testing.T) {
	c := schedule(nil)
	c.Initial = health.State{Health: vortex.HealthHealthy, Detail: "ok"}
	reports, _ := watch(t, c, 14*time.Second, healthyFrom(10*time.Second))
	if len(reports) != 0 {
		t.Errorf("told %+v; want nothing: two failures are below the threshold", reports)
	}
}

func TestDetailOfAnUnhealthyTargetIsToldWhenItChanges(t *testing.T) {
	answer := func(at time.Duration) (bool, string) {
		if at < 31*time.Second {
			return false, "refused"
		}
		return false, "503"
	}
	reports, _ := watch(t, schedule(nil), 60*time.Second, answer)
	if len(reports) != 3 || reports[2].Detail != "503" || reports[2].Health != vortex.HealthUnhealthy {
		t.Errorf("told %+v; want the new detail as third", reports)
	}
}

func TestSlowProbesDoNotPileUp(t *testing.T) {
	c := schedule(func(s *health.Schedule) { s.Period = 100 * time.Millisecond })
	var probes, at int
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		c.Probe = func(ctx context.Context) health.Result {
			probes++
			at++
			if at > 1 {
				t.Error("two probes at once")
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
			at--
			return health.Result{Detail: "no answer within 1s"}
		}
		c.Run(ctx, func(health.State) {})
	})
	if probes < 9 || probes > 10 {
		t.Errorf("%d probes of one second in ten", probes)
	}
}
