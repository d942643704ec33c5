package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	kindpb "vortex/proto/kind"
)

// happenings are what befalls a cluster of three servers and several agents, one after the other. After each all is well again.
var happenings = []struct {
	name string
	run  func(e *estate)
}{
	{"the leader dies", (*estate).leaderDies},
	{"the leader and a worker die at once", (*estate).leaderAndWorkerDie},
	{"a majority of the servers dies", (*estate).majorityDies},
	{"every process is killed", (*estate).allAreKilled},
	{"every host loses its power", (*estate).allLosePower},
	{"the disk of the leader is full", (*estate).diskIsFull},
	{"the clock of a server is an hour ahead", (*estate).clockIsAhead},
}

// TestClusterOutlivesItsServers is what a cluster promises when its servers die: no acknowledged write is lost, instances go on and are not started
// again, as many serve in the end as are wanted, and none runs that the store does not know.
func TestClusterOutlivesItsServers(t *testing.T) {
	const agents, replicas = 5, 6
	e := estateOf(t, 3, agents, replicas)
	for _, h := range happenings {
		if !t.Run(strings.ReplaceAll(h.name, " ", "-"), func(t *testing.T) { h.run(e.under(t)) }) {
			return // the cluster is not what the next one needs
		}
	}
	e.writers.verdict(t)
}

func (e *estate) leaderDies() {
	victim, epoch := e.leader()
	others := e.watched.Others(victim)
	before, v := e.alive(), e.callers(e.agent(1))
	e.writers.look()
	began := time.Now()
	e.run[victim.Host].Kill()
	passed := e.next(epoch, began)
	e.writers.flow(e.t, others...)
	flows := time.Since(began).Round(time.Millisecond)
	v.more(e.t, 100)
	e.unchanged(before, victim.Host)
	e.tell(fmt.Sprintf("another led after %s, all others took writes after %s", passed, flows), v, others...)
	e.reboot(victim.Host)
	e.well("when the old leader is back")
	e.unchanged(before, victim.Host) // whose instances are replaced when it is gone for longer than a second
	e.writers.flow(e.t, e.watched.Servers...)
}

func (e *estate) leaderAndWorkerDie() {
	victim, epoch := e.leader()
	others := e.watched.Others(victim)
	worker := e.busiest(e.Hosts()[e.servers:])
	edge := e.agent(1)
	if edge == worker {
		edge = e.agent(2)
	}
	before, v := e.alive(), e.callers(edge)
	e.writers.look()
	began := time.Now()
	e.run[victim.Host].kill()
	worker.PowerOff()
	passed := e.next(epoch, began)
	e.until("as many serve as before", func() string { return e.missing(worker) })
	replaced := time.Since(began).Round(time.Millisecond)
	e.writers.flow(e.t, others...)
	v.more(e.t, 100)
	e.unchanged(before, victim.Host, worker)
	e.tell(fmt.Sprintf("another led after %s, replacements served after %s", passed, replaced), v, others...)
	e.reboot(victim.Host, worker)
	e.well("when both are back")
	e.unchanged(before, victim.Host, worker)
	e.writers.flow(e.t, e.watched.Servers...)
}

func (e *estate) majorityDies() {
	victim, _ := e.leader()
	left := e.watched.Others(victim)[0]
	lost := e.watched.Others(left)
	worker := e.busiest(e.Hosts()[e.servers:])
	edge := e.agent(1)
	if edge == worker {
		edge = e.agent(2)
	}
	before, v := e.alive(), e.callers(edge)
	e.writers.look()
	began := time.Now()
	for _, s := range lost {
		e.run[s.Host].kill()
	}
	e.refused(left.Host)
	refused := time.Since(began).Round(time.Millisecond)
	e.read(left)
	e.unchanged(before)

	killed := e.killOne(worker)
	delete(before, killed)
	e.until("the agent starts again what died, without anybody to ask", func() string {
		if n := len(worker.instances()); n != e.on(worker, before)+1 {
			return fmt.Sprintf("%d run on %s", n, worker.Name)
		}
		return ""
	})
	restarted := time.Since(began).Round(time.Millisecond)
	v.more(e.t, 100)
	e.unchanged(before)
	e.tell(fmt.Sprintf("a write was refused after %s, a killed instance ran again %s after the servers' death", refused, restarted), v, left)
	for _, s := range lost {
		e.reboot(s.Host)
	}
	e.well("when the majority is back")
	e.unchanged(before, lost[0].Host, lost[1].Host)
	e.writers.flow(e.t, e.watched.Servers...)
}

func (e *estate) allAreKilled() {
	before := e.alive()
	for _, h := range e.Hosts() {
		e.run[h].kill()
	}
	for _, h := range e.Hosts() {
		e.check(e.run[h].gone())
	}
	began := time.Now()
	e.reboot(e.Hosts()...)
	e.writers.flow(e.t, e.watched.Servers...)
	flows := time.Since(began).Round(time.Millisecond)
	e.well("when everything was started again")
	e.t.Logf("writes were taken after %s, all was well after %s, %d of %d instances are still the same processes", flows, time.Since(began).Round(time.Millisecond),
		e.same(before), len(before))
}

func (e *estate) allLosePower() {
	e.check(together(e.Hosts(), (*Host).powerOff))
	e.check(together(e.Hosts(), (*Host).powerOn))
	began := time.Now()
	backwards := slices.Clone(e.Hosts()) // the founder last
	slices.Reverse(backwards)
	e.reboot(backwards...)
	e.writers.flow(e.t, e.watched.Servers...)
	flows := time.Since(began).Round(time.Millisecond)
	e.well("when everything was started again")
	e.t.Logf("writes were taken after %s, all was well after %s", flows, time.Since(began).Round(time.Millisecond))
	e.callers(e.agent(1)).more(e.t, 100)
}

func (e *estate) diskIsFull() {
	victim, epoch := e.leader()
	others := e.watched.Others(victim)
	before, v := e.alive(), e.callers(e.agent(1))
	e.writers.look()
	began := time.Now()
	victim.Host.DiskFull()
	e.until("it says that its disk is full", func() string {
		_, err := e.tryOn(victim.Host, "kv", "put", "full", "?")
		if err == nil || !strings.Contains(err.Error(), "is full") {
			return fmt.Sprintf("a write through it says: %v", err)
		}
		return ""
	})
	passed := e.next(epoch, began)
	e.writers.flow(e.t, others...)
	v.more(e.t, 100)
	e.tell(fmt.Sprintf("another led after %s", passed), v, others...)
	victim.Host.DiskFree()
	if strings.Contains(e.run[victim.Host].Log(), "restart this server") {
		e.t.Log("its store has met a write that failed, and it asks for a restart")
		e.run[victim.Host].Kill()
	}
	e.reboot(victim.Host)
	e.well("when there is room again")
	e.unchanged(before, victim.Host)
	e.writers.flow(e.t, e.watched.Servers...)
}

func (e *estate) clockIsAhead() {
	leader, epoch := e.leader()
	wrong := e.watched.Others(leader)[0]
	before := e.alive()
	e.run[wrong.Host].Kill()
	wrong.Host.Clock(time.Hour)
	e.reboot(wrong.Host)
	e.writers.flow(e.t, e.watched.Servers...)
	put := &kindpb.PutRequest{Key: "brief", Value: []byte("for ten minutes"), TtlMs: new(uint64((10 * time.Minute).Milliseconds()))}
	if _, err := leader.Kind.Put(soon(e.t), put); err != nil {
		e.t.Fatal(err)
	}
	pause(e.t, time.Duration(long(6))*time.Second) // longer than a lock lives that nobody renews
	if now, later := e.lead.now(); now != leader.Host.Name || later != epoch {
		e.t.Errorf("%s leads in epoch %d; %s did in %d, and nothing happened to it", now, later, leader.Host.Name, epoch)
	}
	for _, s := range e.watched.Servers {
		if _, err := s.Kind.Get(soon(e.t), &kindpb.GetRequest{Key: "brief"}); err != nil {
			e.t.Errorf("a record that lives for ten minutes, read through %s: %v", s.Host.Name, err)
		}
	}
	e.well("beside a clock that is an hour ahead")
	e.unchanged(before, wrong.Host) // whose instances are replaced when it is gone for longer than a second
	wrong.Host.Clock(0)
	e.well("when the clock is right again")
	e.writers.flow(e.t, e.watched.Servers...)
}

// busiest returns that of these hosts that runs the most instances.
func (e *estate) busiest(hosts []*Host) *Host {
	return slices.MaxFunc(hosts, func(a, b *Host) int { return len(a.instances()) - len(b.instances()) })
}

// on counts the instances that were on a host.
func (*estate) on(h *Host, before map[string]site) (n int) {
	for _, at := range before {
		if at.host == h.Name {
			n++
		}
	}
	return n
}

// killOne kills an instance on a host as if it had crashed.
func (e *estate) killOne(h *Host) (id string) {
	e.t.Helper()
	for id, pid := range h.instances() {
		e.check(unix.Kill(pid, unix.SIGKILL))
		return id
	}
	e.t.Fatalf("no instance runs on %s", h.Name)
	return ""
}

// refused wants a write through a server to be refused in words that help, by the command that people use.
func (e *estate) refused(h *Host) {
	e.t.Helper()
	e.until("a write is refused for want of a quorum", func() string {
		out, err := e.tryOn(h, "kv", "put", "alone", "?")
		switch {
		case err == nil:
			e.t.Fatalf("a server without a majority has acknowledged a write: %s", out)
		case !strings.Contains(err.Error(), "exit status 1") || !strings.Contains(err.Error(), "quorum"):
			return err.Error()
		}
		return ""
	})
}

// read wants that what was acknowledged is read from a server that cannot write, and that it says how old that may be.
func (e *estate) read(s *Server) {
	e.t.Helper()
	known := "proof:" + s.Host.Name + ":0:0"
	if out, err := e.tryOn(s.Host, "kv", "get", known); err != nil || !strings.Contains(out, known) {
		e.t.Errorf("what was acknowledged is not read without a majority: %v: %s", err, out)
	}
	if cluster, err := s.API.Cluster(soon(e.t)); err != nil || !cluster.Stale {
		e.t.Errorf("a server without a majority does not say so: %+v, %v", cluster, err)
	}
}
