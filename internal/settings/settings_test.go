package settings_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vortex"
	"vortex/internal/settings"
)

func TestRunTimeChangesOverlayTheFile(t *testing.T) {
	base := settings.Default()
	if diff := cmp.Diff(base, base.With(nil)); diff != "" {
		t.Errorf("nothing was changed: %s", diff)
	}
	got := base.With(&vortex.ClusterSettings{MaxReplicas: new(uint32(9)), Scaledownnumber: new(uint32(0)), ScaleUpGracePeriod: vortex.Duration(time.Minute)})
	want := base
	want.MaxReplicas, want.StepDown, want.UpGrace = 9, 0, time.Minute
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAppsOwnBlockWinsBelowTheCeiling(t *testing.T) {
	base := settings.Default()
	got := base.For(&vortex.Scaling{MinReplicas: new(uint32(70)), MaxReplicas: new(uint32(80))})
	if got.MaxReplicas != base.MaxReplicas || got.MinReplicas != base.MaxReplicas {
		t.Errorf("%d to %d; the cluster's ceiling is %d", got.MinReplicas, got.MaxReplicas, base.MaxReplicas)
	}
	if got = base.For(&vortex.Scaling{MinReplicas: new(uint32(0))}); got.MinReplicas != 0 {
		t.Errorf("an app that may scale to zero keeps %d", got.MinReplicas)
	}
}

func TestDesired(t *testing.T) {
	manual := &vortex.Scaling{Mode: vortex.ScalingModeManual, Replicas: new(uint32(6))}
	asked := func(n uint32, revision uint64) func(*vortex.AppRecord) {
		return func(a *vortex.AppRecord) { a.Replicas, a.ReplicasRevision = &n, &revision }
	}
	for name, c := range map[string]struct {
		app      func(*vortex.AppRecord)
		target   *uint32
		revision int64
		want     uint32
	}{
		"nothing said":            {want: 1},
		"a job":                   {target: new(uint32(4)), want: 4},
		"a job beyond the most":   {target: new(uint32(400)), want: 50},
		"a job below the fewest":  {target: new(uint32(0)), want: 1},
		"a user after the job":    {app: asked(7, 10), target: new(uint32(4)), revision: 9, want: 7},
		"a user before the job":   {app: asked(7, 8), target: new(uint32(4)), revision: 9, want: 4},
		"a user without a job":    {app: asked(7, 8), want: 7},
		"a user who wants none":   {app: asked(0, 8), want: 0},
		"a user beyond the most":  {app: asked(700, 8), want: 50},
		"manual":                  {app: func(a *vortex.AppRecord) { a.Spec.Scaling = manual }, target: new(uint32(4)), want: 6},
		"stopped":                 {app: func(a *vortex.AppRecord) { a.Stopped = new(true) }, target: new(uint32(4)), want: 0},
		"stopped in manual mode":  {app: func(a *vortex.AppRecord) { a.Stopped, a.Spec.Scaling = new(true), manual }, want: 0},
		"manual and no own count": {app: func(a *vortex.AppRecord) { a.Spec.Scaling = &vortex.Scaling{Mode: vortex.ScalingModeManual} }, want: 1},
	} {
		app := &vortex.AppRecord{Name: "web"}
		if c.app != nil {
			c.app(app)
		}
		var job *vortex.ScaleJob
		if c.target != nil {
			job = &vortex.ScaleJob{ClientID: "web", Target: *c.target}
		}
		if got := settings.Default().Desired(app, job, c.revision); got != c.want {
			t.Errorf("%s: %d; want %d", name, got, c.want)
		}
	}
}
