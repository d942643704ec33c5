package node

import (
	"context"
	"io"
	"path/filepath"
	"testing"
	"time"

	"vortex"
	"vortex/internal/cluster/pki"
	"vortex/internal/config"
	"vortex/internal/kind"
	"vortex/internal/kind/engine"
	"vortex/internal/kind/engine/etcd"
)

// withStore opens the store of a data directory for a moment.
func withStore(t *testing.T, data string, use func(*kind.Store)) {
	t.Helper()
	eng, err := etcd.Embedded{Dir: filepath.Join(data, "store")}.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	store, err := kind.Open(t.Context(), kind.Config{Engine: eng})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = store.Run(ctx) }()
	use(store)
	cancel()
	<-done
	if err := eng.Close(); err != nil {
		t.Error(err)
	}
}

// TestRecoverBeginsAnEpoch recovers a server of a cluster from its own data, and then from nothing: each time the epoch is another, in
// the store and in the server's certificate, and no other member is known.
func TestRecoverBeginsAnEpoch(t *testing.T) {
	cfg := config.Default()
	cfg.Data, cfg.Name = t.TempDir(), "s1"
	dir := pki.Dir(filepath.Join(cfg.Data, "pki"))
	if err := dir.Found("test"); err != nil {
		t.Fatal(err)
	}
	bundle, err := dir.Sign(pki.Request{
		Identity: pki.Identity{Name: "s1", Role: pki.Server, Cluster: "test", Epoch: 3}, Hosts: []string{"10.1.2.3"}, Lifetime: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := dir.Install(bundle); err != nil {
		t.Fatal(err)
	}
	founded := vortex.ClusterRecord{ID: "test", Epoch: 3, CA: "x", CreatedAt: time.Now()}
	withStore(t, cfg.Data, func(s *kind.Store) {
		other := vortex.IdentityRecord{Name: "s2", Role: vortex.ClusterRoleServer, Key: "another", JoinedAt: time.Now()}
		if _, err := kind.Put(t.Context(), s, vortex.Identities, &other, "s2"); err != nil {
			t.Fatal(err)
		}
		member := vortex.MemberRecord{Name: "s2", ID: "2", Role: vortex.MemberRoleVoter, Address: "https://10.0.0.2:2380", Since: time.Now()}
		_, first := kind.Put(t.Context(), s, vortex.Clusters, &founded, "self")
		_, second := kind.Put(t.Context(), s, vortex.Members, &member, "s2")
		_, third := s.Put(t.Context(), "mine", []byte("1"), 0)
		if first != nil || second != nil || third != nil {
			t.Fatal(first, second, third)
		}
	})
	d := Daemon{Stderr: io.Discard}
	check := func(epoch uint64, mine string) {
		t.Helper()
		withStore(t, cfg.Data, func(s *kind.Store) {
			rec, err := s.Get("mine")
			if err != nil || string(rec.Value) != mine {
				t.Errorf("mine: %v, %v; want %s", rec, err, mine)
			}
			if c, err := kind.Get(s, vortex.Clusters, "self"); err != nil || c.Value.Epoch != epoch {
				t.Errorf("the cluster: %v, %v; want epoch %d", c.Value, err, epoch)
			}
			if left := kind.All(s, vortex.Members); len(left) != 0 {
				t.Errorf("members of the old group are left: %v", left)
			}
		})
		holder, err := pki.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		withStore(t, cfg.Data, func(s *kind.Store) {
			if in := kind.All(s, vortex.Identities); len(in) != 1 || in[0].ID != "s1" || in[0].Value.Key != holder.KeyHash() {
				t.Errorf("who belongs to the cluster: %v; want this server alone", in)
			}
		})
		if holder.Identity().Epoch != epoch || holder.Pair().Leaf.VerifyHostname("10.1.2.3") != nil {
			t.Errorf("the certificate: %v; want epoch %d and the same hosts", holder.Identity(), epoch)
		}
	}
	done, err := d.Recover(t.Context(), cfg, nil, false)
	if err != nil || done.Epoch != 4 || done.Kept == "" {
		t.Fatalf("%+v, %v", done, err)
	}
	check(4, "1")
	running, err := lock(cfg.Data)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Recover(t.Context(), cfg, nil, false); !vortex.IsKind(err, vortex.Unavailable) {
		t.Errorf("a recovery under a running server: %v; want Unavailable", err)
	}
	if err := running.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = d.Recover(t.Context(), cfg, func(ctx context.Context, eng engine.Engine) error {
		store, err := kind.Open(ctx, kind.Config{Engine: eng})
		if err != nil {
			return err
		}
		running, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() { defer close(done); _ = store.Run(running) }()
		defer func() { cancel(); <-done }()
		if _, err := kind.Put(ctx, store, vortex.Clusters, &founded, "self"); err != nil {
			return err
		}
		_, err = store.Put(ctx, "mine", []byte("2"), 0)
		return err
	}, false)
	if err != nil {
		t.Fatal(err)
	}
	check(4, "2")
}
