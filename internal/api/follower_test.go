package api_test

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"vortex"
	"vortex/internal/api"
	"vortex/internal/api/apitest"
	"vortex/internal/api/kindrpc"
	"vortex/internal/election"
	"vortex/internal/kind"
	"vortex/internal/kind/engine/remote"
	"vortex/internal/kind/kindtest"
	"vortex/internal/kind/ksl"
)

// TestAnyServerTakesWrites sends requests to a server that neither leads nor keeps a store: it answers as any other does. When
// the leader is gone, such a server may lead.
func TestAnyServerTakesWrites(t *testing.T) {
	member := kindtest.Open(t)
	leading := lead(t, member, "member")
	<-leading.taken
	outside := follower(t, member)
	f := apitest.Start(t, func(s *api.Server) { s.Store = outside })
	if _, err := f.Client.Register(t.Context(), apitest.App("web"), "", false); err != nil {
		t.Fatal(err)
	}
	app, err := kind.Get(member, vortex.Apps, "web")
	if err != nil || app.Value.Spec.Metadata.Name != "web" {
		t.Fatalf("the member's store: %+v, %v", app, err)
	}
	if got, err := f.Client.Spec(t.Context(), "web"); err != nil || got.Metadata.Name != "web" {
		t.Errorf("read there at once: %+v, %v", got, err)
	}
	if at, err := outside.TimeOf(t.Context(), app.ModRevision); err != nil || time.Since(at) > time.Minute {
		t.Errorf("the past through it: %v, %v", at, err)
	}
	next := lead(t, outside, "outside")
	select {
	case <-next.taken:
		t.Fatal("two servers lead")
	default:
	}
	leading.stop()
	select {
	case <-next.taken:
	case <-time.After(30 * time.Second):
		t.Fatal("the server without a store does not take the lead over")
	}
}

// follower returns the store of a server outside of the group, which stands on a member's.
func follower(t *testing.T, member *kind.Store) *kind.Store {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := kindrpc.NewServer(&kindrpc.Service{Store: member, Token: "cluster"})
	var running sync.WaitGroup
	running.Go(func() { _ = srv.Serve(l) })
	eng, err := remote.Config{Servers: []string{l.Addr().String()}, Token: "cluster"}.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	schema, err := ksl.Parse("vortex.ksl", vortex.Schema())
	if err != nil {
		t.Fatal(err)
	}
	store, err := kind.Open(t.Context(), kind.Config{Engine: eng, Schema: schema})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	running.Go(func() { _ = store.Run(ctx) })
	t.Cleanup(func() { cancel(); srv.Stop(); running.Wait(); _ = eng.Close() })
	return store
}

// candidate is a server that competes for the lead.
type candidate struct {
	taken chan struct{} // closed when it leads
	stop  func()
}

func lead(t *testing.T, store *kind.Store, id string) *candidate {
	t.Helper()
	c := &candidate{taken: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	e := &election.Election{Store: store, ID: id, TTL: time.Second, Renew: 300 * time.Millisecond, Retry: 100 * time.Millisecond, Log: slog.New(slog.DiscardHandler)}
	leads := sync.OnceFunc(func() { close(c.taken) })
	var running sync.WaitGroup
	running.Go(func() {
		_ = e.Run(ctx, func(ctx context.Context, _ kind.Writer) error {
			leads()
			<-ctx.Done()
			return nil
		})
	})
	c.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(c.stop)
	return c
}
