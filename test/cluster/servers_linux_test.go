package cluster

import (
	"context"
	"os"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	kindpb "vortex/proto/kind"
)

// long is so much longer when there is time for it.
func long(n int) int {
	if os.Getenv("CLUSTER_LONG") != "" {
		return 10 * n
	}
	return n
}

// fault is something that befalls one host of a cluster of three.
type fault struct {
	name   string
	follow bool // it befalls one that does not lead; else the one that does
	passes bool // it lasts until another leads; else
	lasts  time.Duration
	begin  func(c *Cluster, victim *Server)
	end    func(c *Cluster, victim *Server)
}

var faults = []fault{
	{
		name: "the leader's process is killed", passes: true,
		begin: func(_ *Cluster, victim *Server) { victim.Proc.Kill() },
	},
	{
		name: "the leader's host loses its power", passes: true,
		begin: func(_ *Cluster, victim *Server) { victim.Host.PowerOff() },
		end:   func(_ *Cluster, victim *Server) { victim.Host.PowerOn() },
	},
	{
		name: "another host loses its power", follow: true, lasts: time.Second,
		begin: func(_ *Cluster, victim *Server) { victim.Host.PowerOff() },
		end:   func(_ *Cluster, victim *Server) { victim.Host.PowerOn() },
	},
	{
		name:  "the leader's host is frozen for 0.2 s",
		begin: func(_ *Cluster, victim *Server) { victim.Host.Freeze(200 * time.Millisecond) },
	},
	{
		name:  "the leader's host is frozen for 2 s",
		begin: func(_ *Cluster, victim *Server) { victim.Host.Freeze(2 * time.Second) },
	},
	{
		name: "the leader's host is frozen until another leads", passes: true,
		begin: func(_ *Cluster, victim *Server) { victim.Host.Suspend() },
		end:   func(_ *Cluster, victim *Server) { victim.Host.Resume() },
	},
	{
		name: "the leader's host is cut off", passes: true,
		begin: func(c *Cluster, victim *Server) { c.Isolate(victim.Host) },
		end:   func(c *Cluster, _ *Server) { c.Heal() },
	},
	{
		name: "the others do not hear the leader's host", lasts: 2 * time.Second,
		begin: func(c *Cluster, victim *Server) {
			for _, other := range c.Others(victim) {
				c.CutOneWay(victim.Host, other.Host)
			}
		},
		end: func(c *Cluster, _ *Server) { c.Heal() },
	},
	{
		name: "another host does not hear the others", follow: true, lasts: 2 * time.Second,
		begin: func(c *Cluster, victim *Server) {
			for _, other := range c.Others(victim) {
				c.CutOneWay(other.Host, victim.Host)
			}
		},
		end: func(c *Cluster, _ *Server) { c.Heal() },
	},
	{
		name: "another host's disk is full", follow: true, lasts: time.Second,
		begin: func(_ *Cluster, victim *Server) { victim.Host.DiskFull() },
		end:   func(_ *Cluster, victim *Server) { victim.Host.DiskFree() },
	},
}

// TestNoAcknowledgedWriteIsLost is what three servers promise whatever befalls one of them: what was acknowledged stays, an epoch has one
// leader, and through the others writing goes on.
func TestNoAcknowledgedWriteIsLost(t *testing.T) {
	c := Start(t, 3)
	lead := c.follow(t)
	w := c.write(t)
	w.flow(t, c.Servers...)
	for range long(1) {
		for _, f := range faults {
			f.befall(t, c, lead, w)
		}
	}
	w.verdict(t)
}

// befall lets the fault happen, waits for what has to come of it, and for all to be well again after it.
func (f fault) befall(t *testing.T, c *Cluster, lead *lead, w *writers) {
	t.Helper()
	host, epoch := lead.wait(t)
	victim := c.Server(host)
	if f.follow {
		victim = c.Others(victim)[0]
	}
	others := c.Others(victim)
	w.look()
	began := time.Now()
	f.begin(c, victim)
	w.flow(t, others...)
	passed := time.Duration(0)
	if f.passes {
		eventually(t, f.name+": another leads", func() bool {
			now, later := lead.now()
			return later > epoch && now != host
		})
		passed = time.Since(began)
	}
	pause(t, time.Until(began.Add(f.lasts)))
	if f.end != nil {
		f.end(c, victim)
	}
	eventually(t, victim.Host.Name+" is ready", func() bool {
		victim.Boot() // what has ended, or ends now of what was done to it
		state, err := victim.API.Ready(soon(t))
		return err == nil && state.Ready
	})
	w.flow(t, c.Servers...)
	sum := w.look(others...)
	t.Logf("%-48s through the others %4d writes acknowledged, %3d failed, longest pause %5s; another led after %5s",
		f.name, sum.acked, sum.failed, sum.pause.Round(time.Millisecond), passed.Round(time.Millisecond))
}

// pause lets a fault last.
func pause(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-t.Context().Done():
	case <-time.After(d):
	}
}

// Without a majority nothing is acknowledged, in bounded time, and what was is still read.
func TestNothingIsAcknowledgedWithoutAMajority(t *testing.T) {
	t.Parallel()
	c := Start(t, 3)
	w := c.write(t)
	w.flow(t, c.Servers...)
	left := c.Servers[0]
	for _, s := range c.Others(left) {
		s.Host.PowerOff()
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := left.Kind.Put(ctx, &kindpb.PutRequest{Key: "alone", Value: []byte("?")}); err == nil {
		t.Error("a server without a majority has acknowledged a write")
	}
	if ctx.Err() != nil {
		t.Errorf("a write was neither acknowledged nor refused within %s", patience)
	}
	t.Logf("a write was refused after %s", time.Since(began).Round(time.Millisecond))
	w.look()
	var header metadata.MD
	known := "proof:" + left.Host.Name + ":0:0"
	rec, err := left.Kind.Get(soon(t), &kindpb.GetRequest{Key: known, Consistency: kindpb.Consistency_SNAPSHOT}, grpc.Header(&header))
	if err != nil || string(rec.GetValue()) != known {
		t.Errorf("what was acknowledged is not read without a majority: %v", err)
	}
	if sum := w.look(c.Servers...); sum.acked > 0 {
		t.Errorf("%d writes were acknowledged without a majority", sum.acked)
	}
	for _, s := range c.Others(left) {
		s.Host.PowerOn()
	}
	for _, s := range c.Others(left) { // the stores first: a server waits for a majority of them
		s.startStore()
	}
	for _, s := range c.Others(left) {
		s.Boot()
	}
	w.flow(t, c.Servers...)
	w.verdict(t)
}

// A server whose clock is behind takes no lead from one that holds it, and ends no record before its time.
func TestClockThatIsBehindHarmsNobody(t *testing.T) {
	t.Parallel()
	wrongClock(t, func(wrong *Server) {
		wrong.Proc.Kill()
		wrong.Host.Clock(-time.Hour)
		wrong.Boot()
	})
}

// Nor does one whose clock is ahead.
func TestClockThatIsAheadHarmsNobody(t *testing.T) {
	t.Parallel()
	wrongClock(t, func(wrong *Server) {
		wrong.Proc.Kill()
		wrong.Host.Clock(time.Hour)
		wrong.Boot()
	})
}

// Nor one whose clock is set while it runs.
func TestClockThatJumpsHarmsNobody(t *testing.T) {
	t.Parallel()
	wrongClock(t, func(wrong *Server) {
		wrong.Proc.Kill()
		wrong.Host.Clock(0)
		wrong.Boot()
		wrong.Host.Clock(time.Hour)
	})
}

// wrongClock lets a server that does not lead get a wrong clock, and judges what comes of it.
func wrongClock(t *testing.T, spoil func(wrong *Server)) {
	t.Helper()
	c := Start(t, 3)
	lead := c.follow(t)
	w := c.write(t)
	host, epoch := lead.wait(t)
	wrong := c.Others(c.Server(host))[0]
	put := func(s *Server, key string, ttl time.Duration) {
		t.Helper()
		req := &kindpb.PutRequest{Key: key, Value: []byte("v"), TtlMs: new(uint64(ttl.Milliseconds()))}
		if _, err := s.Kind.Put(soon(t), req, grpc.WaitForReady(true)); err != nil {
			t.Fatal(err)
		}
	}
	put(c.Server(host), "before", 10*time.Minute)
	spoil(wrong)
	put(c.Server(host), "right", 10*time.Minute)
	put(wrong, "wrong", 10*time.Minute)
	put(wrong, "brief", time.Second)
	w.flow(t, c.Servers...)
	pause(t, time.Duration(long(6))*time.Second) // longer than a lock lives that nobody renews
	if now, later := lead.now(); now != host || later != epoch {
		t.Errorf("%s leads in epoch %d; %s did in %d, and nothing happened to it", now, later, host, epoch)
	}
	for _, s := range c.Servers {
		for _, key := range []string{"before", "right", "wrong"} {
			rec, err := s.Kind.Get(soon(t), &kindpb.GetRequest{Key: key}, grpc.WaitForReady(true))
			if err != nil {
				t.Errorf("%s, a record that lives for ten minutes, read through %s: %v", key, s.Host.Name, err)
				continue
			}
			if left := time.Until(time.UnixMilli(int64(rec.GetExpiresAt()))); left < 8*time.Minute || left > 11*time.Minute {
				t.Errorf("%s, a record that lives for ten minutes, read through %s, expires in %s", key, s.Host.Name, left)
			}
		}
		if _, err := s.Kind.Get(soon(t), &kindpb.GetRequest{Key: "brief"}); status.Code(err) != codes.NotFound {
			t.Errorf("a record that lived for a second, read through %s: %v", s.Host.Name, err)
		}
	}
	w.verdict(t)
}
