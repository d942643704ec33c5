package e2e

import (
	"encoding/json"
	"testing"
	"time"

	"vortex"
	kindpb "vortex/proto/kind"
)

// jobFor waits on a watch for an app's next scale job.
func jobFor(t *testing.T, watch kindpb.KindService_WatchClient, app string) vortex.ScaleJob {
	t.Helper()
	for {
		ev, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if ev.GetKey() != "vortex:queue:scale:"+app || ev.GetOperationType() != "PUT" {
			continue
		}
		var job vortex.ScaleJob
		if err := json.Unmarshal(ev.GetNewValue(), &job); err != nil {
			t.Fatal(err)
		}
		return job
	}
}

func TestSimulatedLoadScalesUpAndDownWithoutLosingARequest(t *testing.T) {
	v := start(t)
	deploy(t, v, "web")
	kind := kindClient(t, v)
	prefix := "vortex:queue:scale:"
	watch, err := kind.Watch(t.Context(), &kindpb.WatchRequest{KeyPrefix: &prefix})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Header(); err != nil {
		t.Fatal(err)
	}

	put := time.Now()
	simulate(t, kind, "web", 500)
	job := jobFor(t, watch, "web")
	t.Logf("metric put to scale job: %s", time.Since(put))
	if job.Target != 5 || job.ClientID != "web" {
		t.Fatalf("scale job: %+v; want a target of 5", job)
	}
	eventually(t, "five instances run and are routed", func() bool {
		return len(running(t, v, "web")) == 5 && len(backends(t, kind, "web")) == 5
	})

	stop := load(t, v, "web", 80)
	simulate(t, kind, "web", 100)
	eventually(t, "one instance is left", func() bool {
		return len(running(t, v, "web")) == 1 && len(backends(t, kind, "web")) == 1
	})
	lostNothing(t, stop())
}

func TestRealTrafficScalesToFiveAndBack(t *testing.T) {
	v := start(t)
	deploy(t, v, "web")
	kind := kindClient(t, v)
	stop := load(t, v, "web", 500)
	eventually(t, "five instances serve", func() bool { return len(backends(t, kind, "web")) == 5 })
	lostNothing(t, stop())
	eventually(t, "back to one", func() bool { return len(running(t, v, "web")) == 1 && len(backends(t, kind, "web")) == 1 })
}

func TestAutoscalerActsOnTheWatchNotOnAClock(t *testing.T) {
	v := start(t)
	deploy(t, v, "web")
	kind := kindClient(t, v)
	prefix := "vortex:queue:scale:"
	watch, err := kind.Watch(t.Context(), &kindpb.WatchRequest{KeyPrefix: &prefix})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Header(); err != nil {
		t.Fatal(err)
	}
	for i, want := range []uint32{2, 3, 4} {
		put := time.Now()
		simulate(t, kind, "web", int(want)*100)
		if job := jobFor(t, watch, "web"); job.Target != want {
			t.Fatalf("job %d: target %d; want %d", i, job.Target, want)
		}
		// The first is held back by nothing, the others by the grace of one second between scale-ups.
		t.Logf("job %d after %s", i, time.Since(put))
	}
}
