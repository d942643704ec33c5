package kindrpc_test

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"vortex/internal/api/kindrpc"
	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
	kindpb "vortex/proto/kind"
)

// refused is the error of a stream that is refused at once.
func refused[T any](s *server, stream grpc.ServerStreamingClient[T], err error) error {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
	_, err = stream.Recv()
	return err
}

func (s *server) refusedWatch(req *kindpb.WatchRequest) error {
	s.Helper()
	stream, err := s.Watch(s.ctx(), req)
	return refused(s, stream, err)
}

func TestWatchRefusesWhatItCannotResume(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	rev := s.put("k", "now")
	wantCode(t, "a revision beyond all", s.refusedWatch(&kindpb.WatchRequest{StartRevision: ^uint64(0)}), codes.InvalidArgument)
	wantCode(t, "a revision of the future", s.refusedWatch(&kindpb.WatchRequest{StartRevision: rev + 2}), codes.OutOfRange)
	next := s.watch(s.KindServiceClient, &kindpb.WatchRequest{StartRevision: rev + 1})
	s.put("k", "next")
	if ev := next(); string(ev.GetNewValue()) != "next" {
		t.Fatalf("the next revision began with %q", ev.GetNewValue())
	}
	stream, err := s.Sync(s.ctx(), &kindpb.SyncRequest{LastKnownTxId: rev + 100})
	wantCode(t, "a sync from the future", refused(s, stream, err), codes.OutOfRange)
}

func TestWatchFiltersOnIndexedFieldsOfAType(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	err := s.refusedWatch(&kindpb.WatchRequest{KeyPrefix: new("vortex:container:"), Filter: &kindpb.ScanFilter{Field: "ip_address", Value: "x"}})
	wantCode(t, "a field without an index", err, codes.InvalidArgument)
	if !strings.Contains(err.Error(), "client_id") {
		t.Errorf("%v: want the indexed fields named", err)
	}
	running := s.watch(s.KindServiceClient, &kindpb.WatchRequest{
		KeyPrefix: new("vortex:container"), Filter: &kindpb.ScanFilter{Field: "status", Value: "Running"}, Previous: true,
	})
	s.put("vortex:container:a", container("a", "web", "Dead"))
	s.put("vortex:container:a", container("a", "web", "Running"))
	s.put("vortex:container:a", container("a", "web", "Dead"))
	s.put("vortex:container:a", container("a", "web", "Provisioning"))
	s.put("vortex:container:b", container("b", "web", "Running"))
	if _, err := s.Delete(s.ctx(), &kindpb.DeleteRequest{Key: "vortex:container:b"}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"PUT a Dead -> Running", "PUT a Running -> Dead", "PUT b  -> Running", "DELETE b Running -> ",
	} {
		ev := running()
		got := fmt.Sprintf("%s %s %s -> %s", ev.GetOperationType(), ev.GetKey()[len("vortex:container:"):], stateOf(ev.GetOldValue()), stateOf(ev.GetNewValue()))
		if got != want {
			t.Fatalf("got %q; want %q", got, want)
		}
	}
}

// stateOf finds which state a container's JSON names.
func stateOf(value []byte) string {
	for _, state := range []string{"Running", "Dead", "Provisioning"} {
		if strings.Contains(string(value), state) {
			return state
		}
	}
	return ""
}

func TestWatchSendsProgressAndExpiry(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	first := s.put("w:a", "1")
	last := s.put("other", "x")
	next := s.watch(s.KindServiceClient, &kindpb.WatchRequest{KeyPrefix: new("w:"), StartRevision: first, Progress: true})
	if ev := next(); ev.GetKey() != "w:a" {
		t.Fatalf("history begins with %v", ev)
	}
	marker := func(least uint64) {
		t.Helper()
		ev := next()
		if ev.GetOperationType() != "PROGRESS" || ev.GetKey() != "" || ev.NewValue != nil || ev.GetRevision() < least {
			t.Fatalf("got %v; want progress of at least %d", ev, least)
		}
	}
	marker(last)
	marker(s.put("other", "y"))
	if _, err := s.Put(s.ctx(), &kindpb.PutRequest{Key: "w:b", Value: []byte("v"), TtlMs: new(uint64(3_600_000))}); err != nil {
		t.Fatal(err)
	}
	ev := next()
	if expires := time.UnixMilli(int64(ev.GetExpiresAt())); ev.GetKey() != "w:b" || time.Until(expires) < 50*time.Minute || time.Until(expires) > time.Hour {
		t.Fatalf("got %v; want when it expires", ev)
	}
}

// slowClient connects with the smallest window there is, over a socket that buffers little.
func (s *server) slowClient() kindpb.KindServiceClient {
	s.Helper()
	const window = 1 << 16
	conn, err := grpc.NewClient("passthrough:///"+s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithPerRPCCredentials(bearer(token)),
		grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window), grpc.WithStaticStreamWindowSize(window), grpc.WithStaticConnWindowSize(window))
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = conn.Close() })
	return kindpb.NewKindServiceClient(conn)
}

// idleWatchers counts the watches the service itself needs, once it has answered a request.
func (s *server) idleWatchers() int {
	s.Helper()
	if _, err := s.Status(s.ctx(), &kindpb.StatusRequest{}); err != nil {
		s.Fatal(err)
	}
	return s.store.Watchers()
}

// TestClientThatReadsNothingIsDropped writes more than a watch buffers while a client reads nothing of it.
func TestClientThatReadsNothingIsDropped(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	idle := s.idleWatchers()
	stream, err := s.slowClient().Watch(s.ctx(), &kindpb.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatal(err)
	}
	const events, size = 1200, 16 << 10
	value := make([]byte, size)
	for range events {
		if _, err := s.store.Put(t.Context(), "k", value, 0); err != nil {
			t.Fatal(err)
		}
	}
	kindtest.Eventually(t, "the watch is given up", func() bool { return s.store.Watchers() == idle })
	got := 0
	for err = nil; err == nil; got++ {
		_, err = stream.Recv()
	}
	wantCode(t, "the client that read nothing", err, codes.ResourceExhausted)
	if got >= events/2 {
		t.Errorf("%d of %d events were kept for a client that reads nothing", got, events)
	}
}

// TestClientThatTakesNoSnapshotIsDropped leaves a large snapshot unread.
func TestClientThatTakesNoSnapshotIsDropped(t *testing.T) {
	store := kindtest.Open(t)
	given := make(chan error, 1)
	s := &server{T: t, store: store, addr: listen(t, &kindrpc.Service{Store: store, Token: token, Limits: kindrpc.Limits{Patience: 20 * time.Millisecond}}, given)}
	value := make([]byte, 64<<10)
	for n := range 100 {
		if _, err := store.Put(t.Context(), fmt.Sprintf("k%d", n), value, 0); err != nil {
			t.Fatal(err)
		}
	}
	stream, err := s.slowClient().Sync(s.ctx(), &kindpb.SyncRequest{})
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, "the stream that nobody reads", <-given, codes.ResourceExhausted)
	for err == nil {
		_, err = stream.Recv()
	}
	wantCode(t, "the client that took no snapshot", err, codes.ResourceExhausted)
}

// listen serves a service on a port of its own until the test ends, and tells how its streams end.
func listen(t *testing.T, service *kindrpc.Service, ended chan<- error) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tell := func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
		err := handle(srv, stream)
		ended <- err
		return err
	}
	srv := kindrpc.NewServer(service, grpc.ChainStreamInterceptor(tell))
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(listener) }()
	t.Cleanup(func() { srv.Stop(); <-done })
	return listener.Addr().String()
}

// TestAThousandWatchesLeaveNothingBehind opens and drops watches, half of them on history.
func TestAThousandWatchesLeaveNothingBehind(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	first := s.put("k", "1")
	client := s.client(token)
	if _, err := client.Status(s.ctx(), &kindpb.StatusRequest{}); err != nil {
		t.Fatal(err)
	}
	idle, before := s.idleWatchers(), runtime.NumGoroutine()
	ctx, cancel := context.WithCancel(s.ctx())
	defer cancel()
	for n := range 1000 {
		stream, err := client.Watch(ctx, &kindpb.WatchRequest{KeyPrefix: new("k"), StartRevision: first * uint64(n%2)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Header(); err != nil {
			t.Fatal(err)
		}
	}
	if st, err := client.Status(s.ctx(), &kindpb.StatusRequest{}); err != nil || int(st.GetWatchers()) != idle+1000 {
		t.Fatalf("status counts %d watchers, %v", st.GetWatchers(), err)
	}
	s.put("k", "2")
	cancel()
	kindtest.Eventually(t, "every watch is closed", func() bool { return s.store.Watchers() == idle })
	kindtest.Eventually(t, "its goroutines have ended", func() bool { return runtime.NumGoroutine() <= before+5 })
}

// state is what a follower of Sync makes of what it got.
type state struct {
	records  map[string]string
	revision uint64
}

// take applies one message and checks that nothing comes twice or late.
func (st *state) take(s *server, p *kindpb.SyncPayload) {
	s.Helper()
	switch {
	case p.GetSnapshot() != nil:
		for _, r := range p.GetSnapshot().GetRecords() {
			if _, twice := st.records[r.GetKey()]; twice {
				s.Fatalf("the snapshot holds %s twice", r.GetKey())
			}
			st.records[r.GetKey()] = string(r.GetValue())
		}
		st.revision = p.GetSnapshot().GetMaxTxId()
	case p.GetProgress() != nil:
		st.revision = max(st.revision, p.GetProgress().GetRevision())
	default:
		rec := s.wal(func() (*kindpb.SyncPayload, error) { return p, nil })
		if rec.id <= st.revision {
			s.Fatalf("transaction %d came after %d", rec.id, st.revision)
		}
		st.revision = rec.id
		for _, op := range rec.Operations {
			if op.Type == "DELETE" {
				delete(st.records, op.Key)
			} else {
				st.records[op.Key] = string(op.Value)
			}
		}
	}
}

// TestSyncFollowsWritersWithoutGapOrRepetition lets writers go on during the snapshot, cuts the stream, and resumes.
func TestSyncFollowsWritersWithoutGapOrRepetition(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	const keys, size = 400, 20 << 10
	fill := func(round int) {
		for n := range keys {
			value := append([]byte(fmt.Sprintf("%d:", round)), make([]byte, size)...)
			if _, err := s.store.Commit(t.Context(), kind.Txn{Ops: []kind.Op{
				{Key: fmt.Sprintf("in:%03d", n), Value: value}, {Key: "out:x", Value: nil},
			}}); err != nil {
				t.Error(err)
				return
			}
		}
	}
	fill(0)
	writing := make(chan struct{})
	go func() { defer close(writing); fill(1) }()
	got := &state{records: map[string]string{}}
	ctx, cancel := context.WithCancel(s.ctx())
	follow := func(until func() bool) {
		t.Helper()
		stream, err := s.Sync(ctx, &kindpb.SyncRequest{LastKnownTxId: got.revision, KeyPrefix: "in:", Progress: true})
		for !until() {
			var p *kindpb.SyncPayload
			if err == nil {
				p, err = stream.Recv()
			}
			if err != nil {
				t.Fatal(err)
			}
			if n := len(p.GetSnapshot().GetRecords()); n*size > 2<<20 {
				t.Fatalf("a chunk of %d records", n)
			}
			got.take(s, p)
		}
	}
	at := uint64(0)
	follow(func() bool {
		if at == 0 && len(got.records) == keys {
			at = got.revision
		}
		return at != 0 && got.revision > at // something of the log came too
	})
	cancel()
	<-writing
	last := s.put("in:last", "1")
	ctx, cancel = context.WithCancel(s.ctx())
	defer cancel()
	follow(func() bool { return got.revision >= last })
	want := map[string]string{}
	for _, rec := range s.store.PrefixScan("in:") {
		want[rec.Key] = string(rec.Value)
	}
	if diff := cmp.Diff(want, got.records); diff != "" {
		t.Fatalf("the follower has something else (-store +follower):\n%.500s", diff)
	}
}
