package cluster

import (
	"os"
	"syscall"
	"testing"
	"time"
)

// leave takes a server out of the cluster that does not run any more, and waits until another has its place in the store.
func (e *estate) leave(h, at *Host) {
	e.t.Helper()
	_, err := e.tryOn(at, "cluster", "remove", h.Name)
	e.check(err)
	e.forget(e.watched.Server(h.Name))
	delete(e.run, h)
	e.well(h.Name + " was removed")
}

// TestServersAreReplaced adds two servers to a cluster, and takes the two away that it began with: one as people do who have time, one that just dies. The store
// moves to the new ones, agents follow to servers that nobody told them of, and the new servers let machines in.
func TestServersAreReplaced(t *testing.T) {
	if os.Getenv("CLUSTER_LONG") == "" {
		t.Skip("it takes one to four minutes on a busy machine: CLUSTER_LONG=1 runs it")
	}
	const agents, replicas = 2, 4
	e := estateOf(t, 3, agents, replicas)
	first, second, stays, follower := e.Host(1), e.Host(2), e.Host(3), e.agent(1)
	v := e.callers(e.agent(2))
	began := time.Now()
	token := e.token(stays, "server", "2")
	added := []*Host{e.Add(), e.Add()}
	for _, h := range added {
		e.serve(h, stays, token)
		e.writers.add(e.watch(h))
	}
	e.well("with two servers more")

	_, err := e.tryOn(stays, "node", "drain", first.Name)
	e.check(err)
	e.check(e.run[first].Signal(syscall.SIGTERM))
	e.check(e.run[first].gone())
	e.leave(first, stays)
	if n := v.failed.Load(); n > 0 {
		t.Errorf("%d requests failed, of which none had to", n)
	}

	second.PowerOff()
	e.until("its instances serve elsewhere", func() string { return e.missing(second) })
	e.leave(second, stays)
	e.writers.flow(t, e.watched.Servers...)
	v.more(t, 100)
	e.tell("two servers were added and two removed within "+time.Since(began).Round(time.Millisecond).String(), v, e.watched.Servers...)

	e.run[follower].Kill()
	stays.PowerOff() // nobody is left of those whom the agents joined
	e.start(follower)
	e.well("with the new servers alone")
	e.writers.flow(t, e.watched.Server(added[0].Name), e.watched.Server(added[1].Name))

	e.check(os.RemoveAll(e.data(second)))
	second.PowerOn()
	e.run[second] = second.Run(e.bin, "agent", "--data", e.data(second), "--name", second.Name, "--join", added[0].Addr, "--token", e.token(added[0], "agent", "1"))
	e.reboot(stays)
	e.well("with one that was removed and is an agent now")
	e.writers.verdict(t)
}
