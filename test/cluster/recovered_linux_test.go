package cluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// token makes a token on a server's host with which so many machines join.
func (e *estate) token(on *Host, role, uses string) string {
	e.t.Helper()
	out, err := e.tryOn(on, "token", "join", "--role", role, "--uses", uses, "-q")
	e.check(err)
	return strings.TrimSpace(out)
}

// serve starts a server on a host for the first time, which joins at another.
func (e *estate) serve(h, at *Host, token string) {
	e.t.Helper()
	e.run[h] = h.Run(e.bin, "server", "--data", e.data(h), "--name", h.Name, "--advertise", h.Addr, "--join", at.Addr, "--token", token)
	e.until(h.Name+" has joined", func() string {
		if e.run[h].Ended() {
			e.t.Fatalf("%s ended: %s", h.Name, e.run[h].Log())
		}
		_, err := os.Stat(filepath.Join(e.data(h), "run.json"))
		if err != nil {
			return err.Error()
		}
		return ""
	})
}

// TestStoreIsRecovered loses two of three servers for good and makes a store of what the third has. Nothing that was acknowledged is lost, one of the
// lost servers that comes back is refused, and goes on once it has joined again.
func TestStoreIsRecovered(t *testing.T) {
	const agents, replicas = 2, 4
	e := estateOf(t, 3, agents, replicas)
	victim, _ := e.leader()
	left := e.watched.Others(victim)[0]
	lost := e.watched.Others(left)
	e.writers.gate.Lock()
	e.writers.read(t, left) // it has now what was acknowledged; what was not sent to it could not be kept
	for _, s := range lost {
		s.Host.PowerOff()
	}
	e.run[left.Host].Kill()
	began := time.Now()
	out, err := e.tryOn(left.Host, "cluster", "recover", "--data", e.data(left.Host))
	if err != nil {
		t.Fatalf("recover: %v", err)
	}
	t.Log(out)
	e.start(left.Host)
	e.forget(lost...)
	e.writers.gate.Unlock()
	e.writers.flow(t, left)
	t.Logf("the survivor took writes after %s", time.Since(began).Round(time.Millisecond))

	old := lost[0].Host
	old.PowerOn()
	e.start(old)
	e.until("one that comes back with the old store is told to join again", func() string {
		if log := e.run[old].Log(); !strings.Contains(log, "join again") {
			return log[max(0, len(log)-1000):]
		}
		return ""
	})
	e.run[old].Kill()

	e.rejoin(left.Host, lost)
	e.well("when all have joined again")
	e.writers.flow(t, e.watched.Servers...)
	t.Logf("all was well after %s", time.Since(began).Round(time.Millisecond))
	e.writers.verdict(t)
}

// rejoin lets agents join again as they are told to, and lost servers with nothing of what they had.
func (e *estate) rejoin(at *Host, lost []*Server) {
	e.t.Helper()
	token := e.token(at, "agent", "9")
	for _, h := range e.Hosts()[e.servers:] {
		e.run[h].Kill()
		e.check(os.RemoveAll(filepath.Join(e.data(h), "pki")))
		e.run[h] = h.Run(e.bin, "agent", "--data", e.data(h), "--name", h.Name, "--join", at.Addr, "--token", token)
	}
	token = e.token(at, "server", "2")
	for _, s := range lost {
		e.check(os.RemoveAll(e.data(s.Host)))
		if s.Host.first == nil {
			s.Host.PowerOn()
		}
		e.serve(s.Host, at, token)
		e.watched.Use(append(e.watched.Others(), s)...)
	}
}
