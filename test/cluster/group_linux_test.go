package cluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// membersEnv says how many servers keep a store at most, to the servers and to the tests.
const membersEnv = "VORTEX_CLUSTER_MEMBERS"

// another is a server that keeps the store, and is not the first host's, where commands are given.
func (e *estate) another() *Server {
	e.t.Helper()
	status, err := e.status(e.Host(1))
	e.check(err)
	for _, m := range status.Members {
		if s := e.watched.Server(m.Name); s != nil && s.Host != e.Host(1) {
			return s
		}
	}
	e.t.Fatalf("nobody but the founder keeps the store: %+v", status.Members)
	return nil
}

// TestServerIsRemovedWhileItIsOff puts a server that keeps the store out of the cluster while it does not run: another takes its place, it is told
// what to do when it starts, and belongs to the cluster once it has done that.
func TestServerIsRemovedWhileItIsOff(t *testing.T) {
	e := estateOf(t, 4, 0, 0)
	gone := e.another()
	others := e.watched.Others(gone)
	e.run[gone.Host].Kill()
	began := time.Now()
	e.cli("cluster", "remove", gone.Host.Name)
	var hosts []*Host
	for _, s := range others {
		hosts = append(hosts, s.Host)
	}
	e.vote(hosts...)
	e.writers.flow(t, others...)
	t.Logf("another had its place %s after it was removed", time.Since(began).Round(time.Millisecond))

	e.start(gone.Host)
	e.until("the removed server is told to join again, and ends", func() string {
		if log := e.run[gone.Host].Log(); !strings.Contains(log, "join again with a new token") || !e.run[gone.Host].Ended() {
			return log[max(0, len(log)-1000):]
		}
		return ""
	})
	e.check(os.RemoveAll(filepath.Join(e.data(gone.Host), "pki")))
	e.check(os.RemoveAll(filepath.Join(e.data(gone.Host), "run.json")))
	e.serve(gone.Host, e.Host(1), e.token(e.Host(1), "server", "1"))
	e.well("when it has joined again")
	e.writers.flow(t, e.watched.Servers...)
	e.writers.verdict(t)
}

// TestServerLosesItsDisk takes from a server that keeps the store all that it had, its vote's promises too: it joins again by its name as one that
// never was, and keeps the store again.
func TestServerLosesItsDisk(t *testing.T) {
	e := estateOf(t, 3, 0, 0)
	poor := e.another()
	e.run[poor.Host].Kill()
	e.check(os.RemoveAll(e.data(poor.Host)))
	began := time.Now()
	e.cli("cluster", "remove", poor.Host.Name)
	e.serve(poor.Host, e.Host(1), e.token(e.Host(1), "server", "1"))
	e.well("when it has joined again")
	e.writers.flow(t, e.watched.Servers...)
	t.Logf("it kept the store again %s after its disk was lost", time.Since(began).Round(time.Millisecond))
	e.writers.verdict(t)
}

// TestFiveKeepTheStore lets five servers keep the store, of which any two may die at once.
func TestFiveKeepTheStore(t *testing.T) {
	t.Setenv(membersEnv, "5")
	e := estateOf(t, 5, 0, 0)
	leader, _ := e.leader()
	dead := []*Server{leader, e.watched.Others(leader)[0]}
	left := e.watched.Others(dead...)
	began := time.Now()
	for _, s := range dead {
		e.run[s.Host].kill()
	}
	e.writers.flow(t, left...)
	t.Logf("the other three took writes after %s", time.Since(began).Round(time.Millisecond))
	for _, s := range dead {
		e.check(e.run[s.Host].gone())
		e.reboot(s.Host)
	}
	e.well("when all five are back")
	e.writers.flow(t, e.watched.Servers...)
	e.writers.verdict(t)
}
