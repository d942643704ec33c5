package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"os"
	"strconv"
	"testing"
	"time"

	"vortex"
	"vortex/bench/report"
	kindpb "vortex/proto/kind"
)

const deathsEnv = "CLUSTER_DEATHS" // how many leaders are to die; default 30

// TestFiguresOfLead measures how long after its leader was killed a cluster of three servers sees the first write of the next one.
func TestFiguresOfLead(t *testing.T) {
	f := measure(t)
	const limit = 500 * time.Millisecond
	deaths, err := strconv.Atoi(cmp.Or(os.Getenv(deathsEnv), "30"))
	if err != nil || deaths < 1 {
		t.Fatalf("%s must be a number from 1 on, got %q", deathsEnv, os.Getenv(deathsEnv))
	}
	e := estateOf(t, 3, 0, 0)
	e.writers.stop()
	var ms []float64
	for range deaths {
		victim, epoch := e.leader()
		first := make(chan time.Time, len(e.watched.Servers))
		for _, s := range e.watched.Others(victim) {
			e.firstWrite(s, epoch, first)
		}
		began := time.Now()
		e.run[victim.Host].kill()
		select {
		case at := <-first:
			ms = append(ms, milliseconds(at.Sub(began)))
		case <-soon(t).Done():
			t.Fatalf("nobody led within %s", patience)
		}
		e.check(e.run[victim.Host].gone())
		e.reboot(victim.Host)
		e.well("when the old leader is back")
	}
	for _, p := range []struct {
		name  string
		q     float64
		limit time.Duration
	}{{"p50", 0.5, 0}, {"p99", 0.99, limit}, {"max", 1, 0}} {
		f.Add(report.Figure{
			Name: "cluster/3_servers/leader_killed_to_next_write/" + p.name, Value: report.Percentile(ms, p.q), Unit: "ms", Limit: milliseconds(p.limit), Samples: len(ms),
		})
	}
	t.Logf("milliseconds from a leader's death to the next one's first write: %.0f", ms)
}

// firstWrite tells when a server shows the write by which somebody took the lead after an epoch: in it the new leader writes that it leads.
func (e *estate) firstWrite(s *Server, epoch uint64, seen chan<- time.Time) {
	e.t.Helper()
	ctx, cancel := context.WithCancel(e.t.Context())
	e.t.Cleanup(cancel)
	key := vortex.LeaderLocks.Key("leader")
	stream, err := s.Kind.Watch(ctx, &kindpb.WatchRequest{KeyPrefix: &key})
	e.check(err)
	_, err = stream.Header() // it watches now
	e.check(err)
	go func() {
		for {
			event, err := stream.Recv()
			if err != nil {
				return
			}
			var lock vortex.LeaderLock
			if json.Unmarshal(event.GetNewValue(), &lock) == nil && lock.Epoch > epoch {
				seen <- time.Now()
				return
			}
		}
	}()
}
