package kind

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	kindpb "vortex/proto/kind"
	"vortex/test/harness"
)

// fleet is Kind servers in front of one engine.
type fleet struct {
	t       *testing.T
	mu      sync.Mutex
	servers []*harness.Vortex
	clients []kindpb.KindServiceClient
}

// add starts a server and returns how its current client is found.
func (f *fleet) add(opts harness.Options) func() kindpb.KindServiceClient {
	f.t.Helper()
	v := serve(f.t, opts)
	i := len(f.servers)
	f.servers, f.clients = append(f.servers, v), append(f.clients, connect(f.t, v))
	return func() kindpb.KindServiceClient {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.clients[i]
	}
}

// kill ends a server and starts it again.
func (f *fleet) restart(i int) {
	f.t.Helper()
	f.servers[i].Kill()
	if err := f.servers[i].Restart(context.Background()); err != nil {
		f.t.Error(err)
		return
	}
	client := connect(f.t, f.servers[i])
	f.mu.Lock()
	defer f.mu.Unlock()
	f.clients[i] = client
}

func (f *fleet) freeze(i int, d time.Duration) {
	p := process{cmd: f.servers[i].Command()}
	p.freeze()
	pause(f.t.Context(), d)
	p.thaw()
}

// fault is something that happens to the system. It returns how to undo it.
type fault struct {
	name  string
	begin func() (end func())
}

const (
	faultLasts = 1500 * time.Millisecond
	calmLasts  = 1200 * time.Millisecond
)

// torment makes faults happen one after the other while a workload runs, until it has got enough answers and every fault happened.
func torment(t *testing.T, w *workload, faults []fault, answers int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var clients sync.WaitGroup
	clients.Go(func() { w.run(ctx) })
	happened := 0
	for happened < len(faults) || w.answered.Load() < int64(answers) {
		f := faults[happened%len(faults)]
		before := w.answered.Load()
		end := f.begin()
		pause(ctx, faultLasts)
		during := w.answered.Load() - before
		end()
		pause(ctx, calmLasts)
		t.Logf("%-55s %6d answers during it, %7d in all", f.name, during, w.answered.Load())
		happened++
	}
	cancel()
	clients.Wait()
	w.readAll(t)
	operations, unknown := verdict(t, w.all())
	t.Logf("%d operations on %d pairs checked, %d of them without an answer; %d reads were marked stale; %d faults; %s",
		operations, len(w.all()), unknown, w.stale.Load(), happened, time.Since(w.began).Round(time.Second))
}

// TestLinearizableOnExternalEtcd is the whole proof: two Kind servers in front of three members, whose processes are
// killed and frozen, and whose networks are cut.
func TestLinearizableOnExternalEtcd(t *testing.T) {
	for name, c := range map[string]struct {
		release func(*testing.T) release
		answers int
	}{
		"Debian":   {debian, long(20_000)},
		"embedded": {current, long(20_000)},
	} {
		t.Run(name, func(t *testing.T) {
			rel := c.release(t)
			net := newNetwork(t, "e1", "e2", "e3", "k1", "k2")
			cluster := startCluster(t, net, rel)
			f := &fleet{t: t}
			w := newWorkload(f.onEtcd(net, cluster, "k1"), f.onEtcd(net, cluster, "k2"))
			torment(t, w, etcdFaults(net, cluster, f), c.answers)
		})
	}
}

// onEtcd starts a Kind server on a host.
func (f *fleet) onEtcd(net *network, c *etcdCluster, host string) func() kindpb.KindServiceClient {
	f.t.Helper()
	return f.add(harness.Options{Within: net.within(host), Args: []string{
		"--store", "etcd://" + strings.Join(c.endpoints(), ","), "--name", host, "--kind-anonymous", "full",
		"--kind", net.addr(host) + ":50051", "--api", net.addr(host) + ":7070",
	}})
}

// etcdFaults is everything that happens to a cluster of etcd and the Kind servers k1 and k2.
func etcdFaults(net *network, c *etcdCluster, f *fleet) []fault {
	led := func() (int, string) {
		eventually(c.t, "etcd has a leader", func() bool { return c.leader() >= 0 })
		i := c.leader()
		return max(i, 0), memberHosts[max(i, 0)]
	}
	return []fault{
		{"etcd's leader is killed", func() func() {
			i, _ := led()
			c.members[i].kill()
			return func() { c.start(i) }
		}},
		{"etcd's leader is cut off from the other members", func() func() {
			_, host := led()
			net.cut(host, memberHosts...)
			return net.heal
		}},
		{"etcd's leader hears nothing from the other members", func() func() {
			_, host := led()
			net.deafen(host, memberHosts...)
			return net.heal
		}},
		{"the other members hear nothing from etcd's leader", func() func() {
			_, host := led()
			for _, other := range memberHosts {
				net.deafen(other, host)
			}
			return net.heal
		}},
		{"etcd's leader is frozen", func() func() {
			i, _ := led()
			c.members[i].freeze()
			return c.members[i].thaw
		}},
		{"k1 is cut off from etcd", func() func() { net.cut("k1", memberHosts...); return net.heal }},
		{"k1 hears nothing from etcd", func() func() { net.deafen("k1", memberHosts...); return net.heal }},
		{"k1 sees only a leader that is cut off", func() func() {
			i, host := led()
			for j, other := range memberHosts {
				if j != i {
					net.cut("k1", other)
				}
			}
			net.cut(host, memberHosts...)
			return net.heal
		}},
		{"k2 is killed", func() func() { f.restart(1); return func() {} }},
		{"k1 is frozen", func() func() { f.freeze(0, faultLasts); return func() {} }},
		{"every member is killed", func() func() {
			for i := range c.members {
				c.members[i].kill()
			}
			return func() {
				for i := range c.members {
					c.start(i)
				}
			}
		}},
	}
}

// TestLinearizableOnTheEmbeddedEngine kills the whole process again and again.
func TestLinearizableOnTheEmbeddedEngine(t *testing.T) {
	f := &fleet{t: t}
	w := newWorkload(f.add(harness.Options{Args: []string{"--kind-anonymous", "full"}}))
	torment(t, w, []fault{
		{"the process is killed", func() func() { f.restart(0); return func() {} }},
		{"the process is frozen", func() func() { f.freeze(0, faultLasts/2); return func() {} }},
		{"the process is killed twice", func() func() { f.restart(0); f.restart(0); return func() {} }},
	}, long(64_000))
}
