package cluster

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vortex"
	"vortex/client"
)

// The two apps that run while hosts fail: the instances of one are replaced a second after their host fell silent, those of the other
// not before an hour has passed.
const (
	hasty, patient = "hello", "patient"
	patience1h     = "lostAfterSeconds: 3600"
)

// trouble is something that befalls hosts with a workload.
type trouble struct {
	name    string
	certain bool // no request through another host's edge may fail
	happen  func(w *workload, victims []*Host)
}

// TestHostsFail lets everything befall hosts that run agents, one thing after the other, while requests come through the edge of one that
// nothing befalls and records are written through the servers. In the end of each exactly the wanted instances run, nothing that was acknowledged is lost, and
// what was right is what it was.
func TestHostsFail(t *testing.T) {
	w := load(t)
	for _, trouble := range troubles {
		if !t.Run(trouble.name, func(t *testing.T) { trouble.befall(t, w) }) {
			t.Fatal("what comes next needs a cluster that is well")
		}
	}
	w.writes.verdict(t)
}

// load makes a cluster of three servers and five agents, with a workload.
func load(t *testing.T) *workload {
	t.Helper()
	m := found(t, 3, 5)
	w := &workload{machines: m, servers: m.clients(), apps: map[string]int{hasty: 10, patient: len(m.Hosts())}}
	m.build()
	m.apply(hasty, w.apps[hasty], "")
	m.apply(patient, w.apps[patient], patience1h)
	w.settle(t)
	w.writes = w.servers.writeEvery(t, 20*time.Millisecond)
	w.visits = m.visit(m.Hosts()[len(m.Hosts())-1])
	eventually(t, "requests are answered", func() bool { return w.visits.answered.Load() > 100 })
	if n := w.visits.failed.Load(); n > 0 {
		t.Errorf("%d requests failed while nothing was wrong", n)
	}
	return w
}

// befall lets the trouble happen, waits until all is well again, and says how requests and writes went.
func (f trouble) befall(t *testing.T, w *workload) {
	t.Helper()
	whole, network := w.t, w.tb
	w.t, w.tb = t, t
	defer func() { w.t, w.tb = whole, network }()
	answered, failed := w.visits.answered.Load(), w.visits.failed.Load()
	w.writes.look()
	before := w.running()
	began := time.Now()
	f.happen(w, w.victims())
	w.settle(t)
	took := time.Since(began)
	eventually(t, "requests are answered", func() bool { return w.visits.answered.Load() > answered+100 })
	w.writes.flow(t, w.servers.Servers...)
	lost := w.visits.failed.Load() - failed
	if f.certain && lost > 0 {
		t.Errorf("%d requests failed, though no instance that served has ended", lost)
	}
	wrote := w.writes.look(w.servers.Servers...)
	now := w.running()
	t.Logf("%.1f s; %d of %d requests failed; %d writes, %d failed, longest pause %s; of %d instances that wait a second %d are the same",
		took.Seconds(), lost, w.visits.answered.Load()-answered+lost, wrote.acked, wrote.failed, wrote.pause.Round(time.Millisecond),
		len(before.of(hasty)), before.of(hasty).kept(now))
}

// victims are the hosts of agents, but the one whose edge is visited, those with the most instances first.
func (w *workload) victims() []*Host {
	now := w.running()
	hosts := slices.Clone(w.Hosts()[w.machines.servers:])
	hosts = hosts[:len(hosts)-1]
	slices.SortStableFunc(hosts, func(a, b *Host) int {
		return len(now.on([]*Host{b})) - len(now.on([]*Host{a}))
	})
	return hosts[:2]
}

// keeps fails the test when one of an app's instances on hosts is not the process that it was.
func (w *workload) keeps(t *testing.T, app string, before runs) {
	t.Helper()
	own := before.of(app)
	if kept := own.kept(w.running()); kept != len(own) {
		t.Errorf("%d of %d instances of %s were ended or started again", len(own)-kept, len(own), app)
	}
}

// scaled is a duration that is so much longer when there is time for it.
func scaled(usual, long time.Duration) time.Duration {
	if os.Getenv("CLUSTER_LONG") != "" {
		return long
	}
	return usual
}

var troubles = []trouble{
	{name: "an agent's process is killed", certain: true, happen: agentIsKilled},
	{name: "a host loses its power", happen: hostLosesPower},
	{name: "a host is frozen for 0.2 s", happen: frozen(200 * time.Millisecond)},
	{name: "a host is frozen for 2 s", happen: frozen(2 * time.Second)},
	{name: "a host is frozen for long", happen: frozen(scaled(6*time.Second, 20*time.Second))},
	{name: "two hosts are cut off", happen: cutOff(scaled(7*time.Second, 3*time.Minute))},
	{name: "nobody hears a host", happen: nobodyHears},
	{name: "a host hears nobody", happen: hearsNobody},
	{name: "a host and the leader are cut off from each other", certain: true, happen: cutFromLeader},
	{name: "a host's clock is an hour off", happen: clockIsOff},
	{name: "a host was off until its certificate expired", happen: certificateExpires},
	{name: "a host's disk is full", happen: diskIsFull},
}

// agentIsKilled: the containers go on, and the next agent finds them.
func agentIsKilled(w *workload, victims []*Host) {
	t := w.t
	victim := victims[0]
	before := w.running()
	w.run[victim].Kill()
	w.nodeIs(t, victim, vortex.LivenessStateDown)
	w.elsewhere(t, hasty, victim)
	if own := before.on(victims[:1]); own.kept(w.running(victim)) != len(own) {
		t.Errorf("without an agent %v run, of %v", w.running(victim), own)
	}
	w.start(victim)
	w.settle(t)
	w.keeps(t, patient, before)
}

// hostLosesPower: what ran there is replaced elsewhere, and when it returns nothing is there twice.
func hostLosesPower(w *workload, victims []*Host) {
	t := w.t
	victim := victims[0]
	others := w.others(victim)
	before := w.running(others...)
	began := time.Now()
	victim.PowerOff()
	w.elsewhere(t, hasty, victim)
	t.Logf("all instances served %s after the power was gone", time.Since(began).Round(time.Millisecond))
	victim.PowerOn()
	w.start(victim)
	w.settle(t)
	w.keeps(t, hasty, before)
	w.keeps(t, patient, before)
}

// frozen: what stands still and comes back keeps what nobody replaced, and ends the rest.
func frozen(d time.Duration) func(*workload, []*Host) {
	return func(w *workload, victims []*Host) {
		t := w.t
		before := w.running()
		victims[0].Freeze(d)
		w.settle(t)
		w.keeps(t, patient, before)
		w.keeps(t, hasty, before.on(w.others(victims[0])))
	}
}

// cutOff: hosts that reach nobody go on with what they have.
func cutOff(d time.Duration) func(*workload, []*Host) {
	return func(w *workload, victims []*Host) {
		t := w.t
		before := w.running()
		began := time.Now()
		for _, h := range victims {
			w.Isolate(h)
		}
		w.elsewhere(t, hasty, victims...)
		t.Logf("all instances served %s after the hosts were cut off", time.Since(began).Round(time.Millisecond))
		pause(t, time.Until(began.Add(d)))
		if alone := w.running(victims...); before.on(victims).kept(alone) != len(alone) {
			t.Errorf("on the hosts that are cut off %v run, of %v", alone, before.on(victims))
		}
		w.Heal()
		w.settle(t)
		w.keeps(t, patient, before)
		w.keeps(t, hasty, before.on(w.others(victims...)))
	}
}

// nobodyHears: nothing that the host sends arrives.
func nobodyHears(w *workload, victims []*Host) {
	cutOneWay(w, victims[0], func(victim, other *Host) { w.CutOneWay(victim, other) })
}

// hearsNobody: nothing arrives at the host.
func hearsNobody(w *workload, victims []*Host) {
	cutOneWay(w, victims[0], func(victim, other *Host) { w.CutOneWay(other, victim) })
}

// cutOneWay cuts a host from each other one in one direction, until what it ran serves elsewhere.
func cutOneWay(w *workload, victim *Host, cut func(victim, other *Host)) {
	t := w.t
	before := w.running()
	for _, h := range w.others(victim) {
		cut(victim, h)
	}
	w.elsewhere(t, hasty, victim)
	w.Heal()
	w.settle(t)
	w.keeps(t, patient, before)
	w.keeps(t, hasty, before.on(w.others(victim)))
}

// cutFromLeader: whom others reach is alive.
func cutFromLeader(w *workload, victims []*Host) {
	t := w.t
	before := w.running()
	var leader *Server
	eventually(t, "somebody leads", func() bool {
		leader = w.servers.Server(w.servers.Leader().ID)
		return leader != nil
	})
	w.Cut(leader.Host, victims[0])
	pause(t, scaled(3*time.Second, time.Minute))
	w.Heal()
	w.settle(t)
	w.keeps(t, patient, before)
	w.keeps(t, hasty, before)
}

// clockIsOff: whoever has the wrong time of day runs what it ran, and takes more.
func clockIsOff(w *workload, victims []*Host) {
	t := w.t
	victim := victims[0]
	before := w.running()
	usual := w.apps[hasty]
	w.run[victim].Kill()
	for _, off := range []time.Duration{time.Hour, -time.Hour} {
		victim.Clock(off)
		if w.run[victim].Ended() {
			w.start(victim)
		}
		w.settle(t)
		w.scale(t, hasty, 2*usual)
		w.settle(t)
		if len(w.running(victim).of(hasty)) == 0 {
			t.Errorf("with a clock that is %s off nothing is placed on the host", off)
		}
		w.scale(t, hasty, usual)
		w.settle(t)
	}
	victim.Clock(0)
	w.keeps(t, patient, before)
}

// certificateExpires: who belongs to the cluster gets a new one.
func certificateExpires(w *workload, victims []*Host) {
	t := w.t
	victim := victims[0]
	before := w.running(w.others(victim)...)
	victim.PowerOff()
	w.expire(t, victim)
	w.elsewhere(t, hasty, victim)
	victim.PowerOn()
	w.start(victim)
	w.settle(t)
	w.keeps(t, patient, before)
	w.keeps(t, hasty, before)
}

// expire gives a host the certificate that it would have, had it been off since a day ago.
func (w *workload) expire(t *testing.T, h *Host) {
	t.Helper()
	authority := filepath.Join(w.data(w.Host(1)), "pki")
	ca, err := tls.LoadX509KeyPair(filepath.Join(authority, "ca.crt"), filepath.Join(authority, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(w.data(h), "pki", "node")
	pair, err := tls.LoadX509KeyPair(own+".crt", own+".key")
	if err != nil {
		t.Fatal(err)
	}
	pair.Leaf.NotBefore, pair.Leaf.NotAfter = time.Now().Add(-25*time.Hour), time.Now().Add(-time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, pair.Leaf, ca.Leaf, pair.Leaf.PublicKey, ca.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(own+".crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// diskIsFull: what the host has goes on, what it cannot begin it says, and others take that.
func diskIsFull(w *workload, victims []*Host) {
	t := w.t
	victim := victims[0]
	before := w.running()
	usual := w.apps[hasty]
	victim.DiskFull()
	w.scale(t, hasty, 2*usual)
	w.said(t, victim, "no space left on device")
	eventually(t, "others run what the host cannot", func() bool {
		k, err := w.known()
		return err == nil && len(k.serving(hasty)) == w.apps[hasty]
	})
	w.keeps(t, patient, before)
	w.keeps(t, hasty, before)
	victim.DiskFree()
	w.scale(t, hasty, usual)
	w.settle(t)
	w.keeps(t, patient, before)
}

// said waits until an event of a host says something.
func (w *workload) said(t *testing.T, h *Host, what string) {
	t.Helper()
	eventually(t, h.Name+" says: "+what, func() bool {
		list, err := w.servers.Servers[0].API.Events(soon(t), client.EventOptions{})
		return err == nil && slices.ContainsFunc(list.Events, func(ev client.Event) bool {
			return ev.Node == h.Name && strings.Contains(ev.Message, what)
		})
	})
}

// others are all hosts but these.
func (w *workload) others(than ...*Host) (list []*Host) {
	for _, h := range w.Hosts() {
		if !contains(than, h.Name) {
			list = append(list, h)
		}
	}
	return list
}

// on returns those on hosts.
func (r runs) on(hosts []*Host) runs {
	own := runs{}
	for at, pid := range r {
		if contains(hosts, at.host) {
			own[at] = pid
		}
	}
	return own
}

func contains(hosts []*Host, name string) bool {
	return slices.ContainsFunc(hosts, func(h *Host) bool { return h.Name == name })
}
