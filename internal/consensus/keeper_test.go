package consensus_test

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"vortex"
	"vortex/internal/consensus"
	"vortex/internal/kind"
	"vortex/internal/kind/engine/etcd"
	"vortex/internal/kind/kindtest"
	"vortex/internal/kind/ksl"
)

// group gives the loop a real group.
type group struct{ *etcd.Group }

func (g group) Members(ctx context.Context) (peers []consensus.Peer, err error) {
	members, err := g.Group.Members(ctx)
	for _, m := range members {
		peers = append(peers, consensus.Peer(m))
	}
	return peers, err
}

func (g group) AddLearner(ctx context.Context, url string) error {
	_, err := g.Group.AddLearner(ctx, url)
	return err
}

// journal keeps the types of events.
type journal struct {
	mu   sync.Mutex
	list []string
}

func (j *journal) Record(ev vortex.EventRecord) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.list = append(j.list, ev.Type+" "+ev.Node)
}

// fleet is servers in one process, of which one leads.
type fleet struct {
	*testing.T

	store  *kind.Store
	addrs  map[string]string
	events *journal
}

func address(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// lead starts a server of the given name, its store and the loop.
func lead(t *testing.T, name string) *fleet {
	t.Helper()
	f := &fleet{T: t, addrs: map[string]string{name: address(t)}, events: &journal{}}
	eng, err := etcd.Embedded{Dir: t.TempDir(), Name: name, PeerAddr: f.addrs[name]}.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	schema, err := ksl.Parse("vortex.ksl", vortex.Schema())
	if err != nil {
		t.Fatal(err)
	}
	if f.store, err = kind.Open(t.Context(), kind.Config{Engine: eng, Schema: schema}); err != nil {
		t.Fatal(err)
	}
	k := &consensus.Keeper{
		Writer: kind.Writer{Store: f.store}, Group: group{eng.Group()}, Self: name, Events: f.events,
		Policy: consensus.Policy{Steady: time.Millisecond, Grace: time.Millisecond}, Log: slog.New(slog.DiscardHandler),
	}
	ctx, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	parts.Go(func() { _ = f.store.Run(ctx) })
	f.server(name)
	parts.Go(func() { _ = k.Run(ctx) })
	t.Cleanup(func() { cancel(); parts.Wait(); _ = eng.Close() })
	return f
}

// server writes a server's record.
func (f *fleet) server(name string) {
	f.Helper()
	rec := vortex.ServerRecord{Name: name, Peer: "http://" + f.addrs[name], StartedAt: time.Now().Add(-time.Minute)}
	if _, err := kind.Put(f.Context(), f.store, vortex.Servers, &rec, name); err != nil {
		f.Fatal(err)
	}
}

// join starts a server, lets it become a member once it is told to, and says when it has caught up.
func (f *fleet) join(name string) {
	f.Helper()
	if f.addrs[name] == "" {
		f.addrs[name] = address(f.T)
		f.server(name)
	}
	f.await(name, vortex.MemberRoleLearner)
	c := etcd.Embedded{Dir: f.TempDir(), Name: name, PeerAddr: f.addrs[name], Join: true, Group: map[string]string{}}
	kindtest.Eventually(f, "all addresses are known", func() bool {
		for _, e := range kind.All(f.store, vortex.Members) {
			if c.Group[e.ID] = e.Value.Address; e.Value.Name == name && e.Value.ID == "0" {
				return false
			}
		}
		return true
	})
	eng, err := c.Open(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = eng.Close() })
	if err := eng.Group().CaughtUp(f.Context()); err != nil {
		f.Fatal(err)
	}
	rec := vortex.ServerRecord{Name: name, Peer: "http://" + f.addrs[name], StartedAt: time.Now().Add(-time.Minute), CaughtUp: new(true)}
	if _, err := kind.Put(f.Context(), f.store, vortex.Servers, &rec, name); err != nil {
		f.Fatal(err)
	}
	f.await(name, vortex.MemberRoleVoter)
}

// await waits until a member has a role, "" until it is none.
func (f *fleet) await(name string, role vortex.MemberRole) {
	f.Helper()
	deadline := time.Now().Add(40 * time.Second)
	for {
		e, err := kind.Get(f.store, vortex.Members, name)
		if err == nil && e.Value.Role == role && e.Value.ID != "0" {
			if e.Value.Why == "" && name != "s1" {
				f.Errorf("nobody knows why %s is a member", name)
			}
			return
		}
		if role == "" && vortex.IsKind(err, vortex.NotFound) {
			return
		}
		if time.Now().After(deadline) {
			f.Fatalf("%s is not %q: %+v, %v", name, role, e.Value, err)
		}
		select {
		case <-f.Context().Done():
			f.Fatal("the test ended")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// TestKeeper lets a server that is alone be joined by others, one of which then dies and is replaced.
func TestKeeper(t *testing.T) {
	f := lead(t, "s1")
	f.await("s1", vortex.MemberRoleVoter)
	f.addrs["s3"] = address(t)
	f.server("s3") // there have to be three before there is a group
	f.join("s2")
	f.join("s3")
	dead := vortex.LivenessRecord{Node: "s2", State: vortex.LivenessStateDown, Since: time.Now().Add(-time.Minute)}
	if _, err := kind.Put(t.Context(), f.store, vortex.Liveness, &dead, "s2"); err != nil {
		t.Fatal(err)
	}
	f.join("s4")
	f.await("s2", "")

	// s3 is put out of the cluster: it is no server any more, however alive it is
	cluster := vortex.ClusterRecord{ID: "test", Epoch: 1, CA: "x", CreatedAt: time.Now()}
	f.addrs["s5"] = address(t)
	f.server("s5")
	for _, name := range []string{"s1", "s4", "s5"} {
		in := vortex.IdentityRecord{Name: name, Role: vortex.ClusterRoleServer, Key: "k", JoinedAt: time.Now()}
		if _, err := kind.Put(t.Context(), f.store, vortex.Identities, &in, name); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := kind.Put(t.Context(), f.store, vortex.Clusters, &cluster, "self"); err != nil {
		t.Fatal(err)
	}
	f.join("s5")
	f.await("s3", "")
	kindtest.Eventually(t, "nothing is told of a server that was removed", func() bool {
		_, err := kind.Get(f.store, vortex.Servers, "s3")
		return vortex.IsKind(err, vortex.NotFound)
	})
	f.events.mu.Lock()
	defer f.events.mu.Unlock()
	want := []string{"MemberAdded s2", "MemberPromoted s2", "MemberAdded s3", "MemberPromoted s3", "MemberAdded s4", "MemberPromoted s4", "MemberRemoved s2", "MemberAdded s5", "MemberPromoted s5", "MemberRemoved s3"}
	for i, ev := range want {
		if len(f.events.list) <= i || f.events.list[i] != ev {
			t.Fatalf("what happened: %v; want %v", f.events.list, want)
		}
	}
}
