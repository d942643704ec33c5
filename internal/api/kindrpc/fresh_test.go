package kindrpc_test

import (
	"context"
	"testing"

	"google.golang.org/grpc/codes"

	"vortex/internal/api/kindrpc"
	"vortex/internal/kind"
	"vortex/internal/kind/engine/etcd"
	kindpb "vortex/proto/kind"
)

// TestLaggingServerWaitsUnlessASnapshotIsAskedFor reads from a server whose memory is behind the engine.
func TestLaggingServerWaitsUnlessASnapshotIsAskedFor(t *testing.T) {
	e, err := etcd.Embedded{Dir: t.TempDir()}.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	open := func() *kind.Store {
		store, err := kind.Open(t.Context(), kind.Config{Engine: e})
		if err != nil {
			t.Fatal(err)
		}
		return store
	}
	run := func(store *kind.Store) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); _ = store.Run(ctx) }()
		t.Cleanup(func() { cancel(); <-done })
	}
	leading := open()
	run(leading)
	put := func(value string) {
		if _, err := leading.Put(t.Context(), "k", []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	put("old")
	lagging := open() // it has read what there is, and follows only once it runs
	put("new")
	service := &kindrpc.Service{Store: lagging, Anonymous: kindrpc.AnonymousFull}
	rec, err := service.Get(t.Context(), &kindpb.GetRequest{Key: "k", Consistency: kindpb.Consistency_SNAPSHOT})
	if err != nil || string(rec.GetValue()) != "old" {
		t.Fatalf("a snapshot read: %v, %v; want what is in memory", rec, err)
	}
	answer := make(chan string, 1)
	go func() {
		rec, err := service.Get(t.Context(), &kindpb.GetRequest{Key: "k"})
		if err != nil {
			t.Errorf("a linearizable read: %v", err)
		}
		answer <- string(rec.GetValue())
	}()
	run(lagging)
	if got := <-answer; got != "new" {
		t.Errorf("a linearizable read answers %q, which is older than what was acknowledged", got)
	}
}

// TestSyncFromWhatIsCompactedIsRefused asks a server that was started after the compaction, so that its memory has nothing older.
func TestSyncFromWhatIsCompactedIsRefused(t *testing.T) {
	e, err := etcd.Embedded{Dir: t.TempDir()}.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	open := func() *server {
		store, err := kind.Open(t.Context(), kind.Config{Engine: e})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); _ = store.Run(ctx) }()
		t.Cleanup(func() { cancel(); <-done })
		return serveStore(t, store, kindrpc.AnonymousOff)
	}
	before := open()
	first := before.put("k", "1")
	before.put("k", "2")
	kept := before.put("k", "3")
	if _, err := before.Compact(before.ctx(), &kindpb.CompactRequest{Revision: kept}); err != nil {
		t.Fatal(err)
	}
	after := open()
	stream, err := after.Sync(after.ctx(), &kindpb.SyncRequest{LastKnownTxId: first})
	wantCode(t, "a sync from a compacted revision", refused(after, stream, err), codes.OutOfRange)
	stream, err = after.Sync(after.ctx(), &kindpb.SyncRequest{LastKnownTxId: kept - 1})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := stream.Recv(); err != nil || got.GetWalRecord().GetTxId() != kept {
		t.Errorf("a sync from the oldest that is kept: %v, %v; want revision %d", got, err, kept)
	}
}
