package autoscale_test

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"time"

	"vortex"
	"vortex/internal/autoscale"
	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
	"vortex/internal/settings"
)

type nowhere struct{}

func (nowhere) Record(vortex.EventRecord) {}

// cluster is a store with a running autoscaler.
type cluster struct {
	*testing.T

	store *kind.Store
}

func run(t *testing.T, s settings.Settings) cluster {
	t.Helper()
	c := cluster{t, kindtest.Open(t)}
	c.autoscaler(s)
	return c
}

// autoscaler runs one until the test ends or the result is called.
func (c cluster) autoscaler(s settings.Settings) (stop func()) {
	a := &autoscale.Autoscaler{Writer: kind.Writer{Store: c.store}, Settings: s, Events: nowhere{}, Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			c.Errorf("autoscaler: %v", err)
		}
	}
	c.Cleanup(stop)
	return stop
}

// quick are settings whose limits over time do not hold a test up.
func quick() settings.Settings {
	s := settings.Default()
	s.UpGrace, s.DownCooldown = time.Millisecond, 20*time.Millisecond
	return s
}

func (c cluster) app(edit func(*vortex.AppRecord)) {
	c.Helper()
	rec := vortex.AppRecord{Name: "web", Generation: 1, CreatedAt: time.Now(), UpdatedAt: time.Now()}
	rec.Spec.Metadata.Name = "web"
	rec.Spec.Spec.Image = "web:1"
	rec.Spec.SetDefaults()
	if edit != nil {
		edit(&rec)
	}
	if _, err := kind.Put(c.Context(), c.store, vortex.Apps, &rec, "web"); err != nil {
		c.Fatal(err)
	}
}

func (c cluster) metric(text string, id ...string) {
	c.Helper()
	if _, err := c.store.Put(c.Context(), vortex.Metrics.Key(id...), []byte(text), 0); err != nil {
		c.Fatal(err)
	}
}

// target waits for the job to name a target.
func (c cluster) target(want uint32) {
	c.Helper()
	kindtest.Eventually(c, "the job's target", func() bool {
		job, err := kind.Get(c.store, vortex.ScaleJobs, "web")
		return err == nil && job.Value.Target == want
	})
}

// steady makes sure that the autoscaler has seen everything so far and the job is still of that revision.
func (c cluster) steady(rev int64) {
	c.Helper()
	other := vortex.AppRecord{Name: "probe", Generation: 1, CreatedAt: time.Now(), UpdatedAt: time.Now()}
	other.Spec.Metadata.Name = "probe"
	other.Spec.SetDefaults()
	if _, err := kind.Put(c.Context(), c.store, vortex.Apps, &other, "probe"); err != nil {
		c.Fatal(err)
	}
	c.metric(`{"client_id":"probe","current_rps":1`+time.Now().Format("150405")+`}`, "probe")
	kindtest.Eventually(c, "the probe's job", func() bool { _, err := kind.Get(c.store, vortex.ScaleJobs, "probe"); return err == nil })
	if job, err := kind.Get(c.store, vortex.ScaleJobs, "web"); err == nil && job.ModRevision > rev {
		c.Fatalf("a job was written: %+v", *job.Value)
	}
}

func TestMetricMakesAJob(t *testing.T) {
	c := run(t, quick())
	c.app(nil)
	c.metric(`{"client_id":"web","current_rps":1000}`, "web") // no more than simulators send
	c.target(10)
	job, err := kind.Get(c.store, vortex.ScaleJobs, "web")
	if err != nil || job.Value.ClientID != "web" || job.Value.Reason == "" || *job.Value.From != 1 {
		t.Fatalf("job %+v, %v", job.Value, err)
	}
	c.metric(`{"client_id":"web","current_rps":1000,"desired_replicas":4}`, "web")
	c.target(4)
	c.metric(`{"client_id":"web","current_rps":0}`, "web")
	c.target(1)
}

func TestEdgesAddUpAndASimulationOutweighsThem(t *testing.T) {
	c := run(t, quick())
	c.app(nil)
	c.metric(`{"client_id":"web","current_rps":205,"edge":"a"}`, "web", "a")
	c.metric(`{"client_id":"web","current_rps":204,"edge":"b"}`, "web", "b")
	c.target(4) // 409 is 400 and noise
	c.metric(`{"client_id":"web","current_rps":409}`, "web")
	c.target(5)
}

func TestAnEdgeWhoseNodeIsDownIsNotCounted(t *testing.T) {
	c := run(t, quick())
	c.app(nil)
	if _, err := kind.Put(t.Context(), c.store, vortex.Edges, &vortex.EdgeRecord{ID: "a", Node: "n1"}, "a"); err != nil {
		t.Fatal(err)
	}
	c.metric(`{"client_id":"web","current_rps":500,"edge":"a"}`, "web", "a")
	c.metric(`{"client_id":"web","current_rps":300,"edge":"b"}`, "web", "b")
	c.target(8)
	node := vortex.LivenessRecord{Node: "n1", State: vortex.LivenessStateDown}
	if _, err := kind.Put(t.Context(), c.store, vortex.Liveness, &node, "n1"); err != nil {
		t.Fatal(err)
	}
	c.target(3)
}

func TestMetricsMayComeBeforeTheApp(t *testing.T) {
	c := run(t, quick())
	c.metric(`{"client_id":"web","current_rps":700}`, "web")
	c.steady(0)
	c.app(nil)
	c.target(7)
}

func TestDeletedAppLeavesNoJobAndNoMetrics(t *testing.T) {
	for name, rps := range map[string]string{"scaled": "700", "never scaled": "0"} {
		t.Run(name, func(t *testing.T) {
			c := run(t, quick())
			c.app(nil)
			c.metric(`{"client_id":"web","current_rps":`+rps+`}`, "web")
			c.metric(`{"client_id":"web","current_rps":`+rps+`,"edge":"a"}`, "web", "a")
			c.metric(`{"client_id":"web-2","current_rps":5}`, "web-2")
			if rps != "0" {
				c.target(7)
			}
			if _, err := c.store.Delete(t.Context(), vortex.Apps.Key("web")); err != nil {
				t.Fatal(err)
			}
			kindtest.Eventually(t, "nothing left of web", func() bool {
				return len(c.store.PrefixScan("vortex:queue:")) == 0 && len(c.store.PrefixScan("vortex:metrics:")) == 1
			})
		})
	}
}

func TestDeletionDuringAChangeOfLeaderIsCaughtUpWith(t *testing.T) {
	c := cluster{t, kindtest.Open(t)}
	stop := c.autoscaler(quick())
	c.app(nil)
	c.metric(`{"client_id":"web","current_rps":700}`, "web")
	c.target(7)
	stop()
	if _, err := c.store.Delete(t.Context(), vortex.Apps.Key("web")); err != nil {
		t.Fatal(err)
	}
	c.autoscaler(quick())
	kindtest.Eventually(t, "nothing left of web", func() bool {
		return len(c.store.PrefixScan("vortex:queue:")) == 0 && len(c.store.PrefixScan("vortex:metrics:")) == 0
	})
}

func TestManualCountStandsUntilTheLoadChanges(t *testing.T) {
	c := run(t, quick())
	c.app(nil)
	c.metric(`{"client_id":"web","current_rps":300}`, "web")
	c.target(3)
	rev := c.store.Revision()
	c.app(func(a *vortex.AppRecord) { a.Replicas, a.ReplicasRevision = new(uint32(8)), new(uint64(rev)) })
	c.steady(rev)
	c.metric(`{"client_id":"web","current_rps":900}`, "web")
	c.target(9)
}

func TestManualModeAndStoppedAppsAreLeftAlone(t *testing.T) {
	for name, edit := range map[string]func(*vortex.AppRecord){
		"manual":  func(a *vortex.AppRecord) { a.Spec.Scaling = &vortex.Scaling{Mode: vortex.ScalingModeManual} },
		"stopped": func(a *vortex.AppRecord) { a.Stopped = new(true) },
	} {
		t.Run(name, func(t *testing.T) {
			c := run(t, quick())
			c.app(edit)
			c.metric(`{"client_id":"web","current_rps":900}`, "web")
			c.steady(0)
		})
	}
}

func TestSettingsAndSpecChangesApplyAtOnce(t *testing.T) {
	c := run(t, quick())
	c.app(nil)
	c.metric(`{"client_id":"web","current_rps":4000}`, "web")
	c.target(40)
	if _, err := c.store.Put(t.Context(), vortex.Settings.Key(settings.ID), []byte(`{"max_replicas":60}`), 0); err != nil {
		t.Fatal(err)
	}
	c.app(func(a *vortex.AppRecord) { a.Spec.Scaling = &vortex.Scaling{TargetRPSPerReplica: new(50.0)} })
	c.target(60)
}

// TestLeaderThatJustBeganHoldsTheCooldown gives a new leader's autoscaler a load that fell before it came.
func TestLeaderThatJustBeganHoldsTheCooldown(t *testing.T) {
	c := cluster{t, kindtest.Open(t)}
	stop := c.autoscaler(quick())
	c.app(nil)
	c.metric(`{"client_id":"web","current_rps":900}`, "web")
	c.target(9)
	stop()
	rev := c.store.Revision()
	c.metric(`{"client_id":"web","current_rps":100}`, "web")
	slow := quick()
	slow.DownCooldown = time.Hour
	c.autoscaler(slow)
	c.steady(rev)
}

func TestJobFollowsItsMetricQuickly(t *testing.T) {
	const rounds = 100
	c := run(t, quick())
	c.app(func(a *vortex.AppRecord) {
		a.Spec.Scaling = &vortex.Scaling{TargetRPSPerReplica: new(1.0), CooldownSeconds: new(uint32(0))}
	})
	watch := c.store.Watch(kind.WatchOptions{Prefixes: []string{vortex.ScaleJobs.Prefix + ":"}})
	defer watch.Close()
	var took []time.Duration
	for n := range rounds {
		began := time.Now()
		c.metric(`{"client_id":"web","current_rps":1,"desired_replicas":`+string(rune('2'+n%7))+`}`, "web")
		if _, err := watch.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("metric to job: p50 %s, p99 %s", took[rounds/2], took[rounds*99/100])
	if took[rounds*99/100] > 2*time.Second {
		t.Errorf("p99 is %s", took[rounds*99/100])
	}
}
