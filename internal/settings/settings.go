// Package settings says which cluster-wide limits are in force: those of vortex.yaml, overlaid by what was
// changed at run time through the API, overlaid by an app's own scaling block. It is pure.
package settings

import (
	"time"

	"vortex"
)

// ID is the id of the one record in vortex.Settings that holds run-time changes.
const ID = "cluster"

// Settings are the limits the loops work with. Every field has been resolved.
type Settings struct {
	MinReplicas  uint32        // floor for an app that names none
	MaxReplicas  uint32        // ceiling for every app
	StartingPort uint16        // first port of a node given to an instance whose runtime has no addresses of its own
	StepUp       uint32        // instances added per scale-up; 0 is no limit
	StepDown     uint32        // instances removed per scale-down; 0 is no limit
	UpGrace      time.Duration // between two scale-ups
	DownCooldown time.Duration // load must have been lower for this long
	RateLimit    uint64        // requests per client address and window
	RateWindow   time.Duration

	HistoryAge   time.Duration // transactions younger than this are kept; 0 leaves compaction to the engine
	HistoryCount uint64        // the newest that are kept whatever their age
	HistoryMax   uint64        // more than the newest so many are not kept; 0 is no limit
}

// Default returns the settings without any vortex.yaml.
func Default() Settings {
	return Settings{
		MinReplicas: 1, MaxReplicas: 50, StartingPort: 3000,
		UpGrace: time.Second, DownCooldown: 5 * time.Second,
		RateLimit: 500_000_000, RateWindow: 15 * time.Second,
		HistoryAge: time.Hour, HistoryCount: 10_000, HistoryMax: 1_000_000,
	}
}

// With returns the settings with what rec, which may be nil, sets.
func (s Settings) With(rec *vortex.ClusterSettings) Settings {
	if rec == nil {
		return s
	}
	set(&s.MinReplicas, rec.MinReplicas)
	set(&s.MaxReplicas, rec.MaxReplicas)
	set(&s.StartingPort, rec.StartingPort)
	set(&s.StepUp, rec.Scaleupnumber)
	set(&s.StepDown, rec.Scaledownnumber)
	set(&s.RateLimit, rec.Ratelimit)
	if rec.ScaleUpGracePeriod != 0 {
		s.UpGrace = rec.ScaleUpGracePeriod.Std()
	}
	if rec.ScaleDownCooldown != 0 {
		s.DownCooldown = rec.ScaleDownCooldown.Std()
	}
	if rec.Ratewindow != 0 {
		s.RateWindow = rec.Ratewindow.Std()
	}
	if rec.HistoryAge != 0 {
		s.HistoryAge = rec.HistoryAge.Std()
	}
	set(&s.HistoryCount, rec.HistoryCount)
	set(&s.HistoryMax, rec.HistoryMax)
	return s
}

// For returns the settings with an app's own scaling block, which may be nil, laid over them. The
// cluster's ceiling stays a ceiling.
func (s Settings) For(scaling *vortex.Scaling) Settings {
	if scaling == nil {
		return s
	}
	ceiling := s.MaxReplicas
	set(&s.MinReplicas, scaling.MinReplicas)
	set(&s.MaxReplicas, scaling.MaxReplicas)
	set(&s.StepUp, scaling.MaxScaleOutStep)
	set(&s.StepDown, scaling.MaxScaleInStep)
	if scaling.CooldownSeconds != nil {
		s.DownCooldown = time.Duration(*scaling.CooldownSeconds) * time.Second
	}
	if scaling.StabilizationWindowSeconds != nil {
		s.DownCooldown = max(s.DownCooldown, time.Duration(*scaling.StabilizationWindowSeconds)*time.Second)
	}
	s.MaxReplicas = min(s.MaxReplicas, ceiling)
	s.MinReplicas = min(s.MinReplicas, s.MaxReplicas)
	return s
}

// set overwrites *dst when a value was given.
func set[T any](dst, value *T) {
	if value != nil {
		*dst = *value
	}
}

// Desired returns how many instances an app should have now: none when it is stopped; in manual mode
// the count of its spec; else the newest word of the user (vortex scale) and the autoscaler, within the app's bounds.
// job is nil when there is none, jobRevision is the store's revision it was written at.
func (s Settings) Desired(app *vortex.AppRecord, job *vortex.ScaleJob, jobRevision int64) uint32 {
	if app.Stopped != nil && *app.Stopped {
		return 0
	}
	own := s.For(app.Spec.Scaling)
	manual := app.Spec.Scaling != nil && app.Spec.Scaling.Mode == vortex.ScalingModeManual
	if manual && app.Spec.Scaling.Replicas != nil {
		return min(*app.Spec.Scaling.Replicas, own.MaxReplicas)
	}
	asked := app.Replicas != nil && app.ReplicasRevision != nil
	switch {
	case asked && (manual || job == nil || int64(*app.ReplicasRevision) >= jobRevision):
		return min(*app.Replicas, own.MaxReplicas)
	case !manual && job != nil:
		return min(max(job.Target, own.MinReplicas), own.MaxReplicas)
	default:
		return own.MinReplicas
	}
}
