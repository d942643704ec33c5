package node

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"vortex"
	"vortex/internal/api/kindrpc"
	"vortex/internal/consensus"
	"vortex/internal/kind"
	"vortex/internal/kind/engine"
	"vortex/internal/kind/engine/etcd"
	"vortex/internal/kind/engine/remote"
	"vortex/internal/kind/engine/swap"
	"vortex/internal/kind/ksl"
)

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(50 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		pause(t.Context(), 10*time.Millisecond)
	}
}

// alongside runs a part that ends with the test.
func alongside(t *testing.T, part func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = part(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

func storeOn(t *testing.T, eng engine.Engine) *kind.Store {
	t.Helper()
	schema, err := ksl.Parse("vortex.ksl", vortex.Schema())
	if err != nil {
		t.Fatal(err)
	}
	store, err := kind.Open(t.Context(), kind.Config{Engine: eng, Schema: schema})
	if err != nil {
		t.Fatal(err)
	}
	alongside(t, store.Run)
	return store
}

// TestSeat lets two servers that stand on the founder's store become members and vote, and one of them go back to standing on the others', under
// writes and a watch that notice nothing.
func TestSeat(t *testing.T) {
	first := etcd.Embedded{Dir: t.TempDir(), Name: "s1", PeerAddr: freePort(t)}
	founder, err := first.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = founder.Close() })
	store := storeOn(t, founder)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := kindrpc.NewServer(&kindrpc.Service{Store: store, Token: "secret"})
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(srv.Stop)
	others := func(ctx context.Context) (engine.Engine, error) {
		return remote.Config{Servers: []string{l.Addr().String()}, Token: "secret"}.Open(ctx)
	}
	quiet := slog.New(slog.DiscardHandler)
	present := func(store *kind.Store, group func() *etcd.Group, c etcd.Embedded) *presence {
		rec := vortex.ServerRecord{Name: c.Name, Peer: "http://" + c.PeerAddr, StartedAt: time.Now().Add(-time.Minute)}
		return &presence{store: store, group: group, labels: func() map[string]string { return nil }, peer: rec.Peer, rec: rec, log: quiet}
	}
	alongside(t, present(store, founder.Group, first).Run)
	stores := map[string]*kind.Store{}
	engines := map[string]*swap.Engine{}
	for _, name := range []string{"s2", "s3"} {
		base, err := others(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		eng := swap.New(base)
		t.Cleanup(func() { _ = eng.Close() })
		stores[name], engines[name] = storeOn(t, eng), eng
		c := etcd.Embedded{Dir: filepath.Join(t.TempDir(), "store"), Name: name, PeerAddr: freePort(t)}
		group := func() *etcd.Group { return groupOf(eng, Config{EtcdPeer: c.PeerAddr}) }
		alongside(t, present(stores[name], group, c).Run)
		s := &seat{name: name, store: stores[name], engine: eng, member: c, others: others, log: quiet}
		alongside(t, s.Run)
	}
	watch := stores["s3"].Watch(kind.WatchOptions{Prefixes: []string{"n"}})
	defer watch.Close()
	keep, stop := context.WithCancel(t.Context())
	written := make(chan int, 1)
	go func() {
		n := 0
		for keep.Err() == nil {
			_, err := stores["s2"].Put(context.Background(), "n", []byte{byte(n)}, 0)
			switch {
			case err == nil:
				n++
			case !vortex.IsKind(err, vortex.Unavailable): // then nobody knows whether it happened
				t.Errorf("write %d: %v", n, err)
			default:
				t.Logf("write %d again: %v", n, err)
			}
			pause(keep, 5*time.Millisecond)
		}
		written <- n
	}()
	ctx, cancel := context.WithCancel(t.Context())
	keeper := &consensus.Keeper{
		Writer: kind.Writer{Store: store}, Group: peers{founder.Group()}, Self: "s1", Events: silent{}, Log: quiet,
		Policy: consensus.Policy{Steady: time.Millisecond},
	}
	kept := make(chan struct{})
	go func() { defer close(kept); _ = keeper.Run(ctx) }()
	eventually(t, "all three vote", func() bool {
		n := 0
		for _, m := range founder.Group().Known() {
			if !m.Learner {
				n++
			}
		}
		return n == 3
	})
	cancel()
	<-kept
	eventually(t, "s3 is removed", func() bool {
		for _, m := range founder.Group().Known() {
			if m.Name == "s3" {
				return founder.Group().Remove(t.Context(), m.ID) == nil
			}
		}
		return true
	})
	eventually(t, "s3 stands on the others again", func() bool { _, own := engines["s3"].Current().(*etcd.Engine); return !own })
	stop()
	n := <-written
	limit, done := context.WithTimeout(t.Context(), 50*time.Second)
	defer done()
	for seen := 0; seen < n; {
		batches, err := watch.Next(limit)
		if err != nil {
			rec, _ := stores["s3"].Get("n")
			t.Fatalf("the watch ends after %d of %d (stale %t, at %d of %d, %v): %v", seen, n, stores["s3"].Stale(), stores["s3"].Revision(), store.Revision(), rec, err)
		}
		for _, b := range batches {
			for _, ev := range b.Events {
				switch ev.Record.Value[0] {
				case byte(seen):
					seen++
				case byte(seen - 1): // written again
				default:
					t.Fatalf("event %d is %d", seen, ev.Record.Value[0])
				}
			}
		}
	}
	t.Logf("%d writes", n)
}

type silent struct{}

func (silent) Record(vortex.EventRecord) {}
