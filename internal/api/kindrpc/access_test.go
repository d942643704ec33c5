package kindrpc_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"

	"vortex/internal/api/kindrpc"
	"vortex/internal/kind/kindtest"
	kindpb "vortex/proto/kind"
)

// fill puts a record below every prefix that matters to access.
func (s *server) fill() {
	s.Helper()
	s.put("vortex:metrics:web", `{"client_id":"web","current_rps":1}`)
	s.put("vortex:queue:scale:web", `{"client_id":"web","target":1}`)
	s.put("vortex:container:c", container("c", "web", "Running"))
	s.put("router:web", `{"client_id":"web","backends":[]}`)
	s.put("vortex:daemon:leader", `{"id":"a","epoch":1}`)
	s.put("vortex:daemon:epoch", `{"id":"a","epoch":1}`)
	s.put("vortex:liveness:n", `{"node":"n","state":"Ready","since":"2026-01-01T00:00:00Z"}`)
	s.put("vortexlike", "x")
	s.put("mine:1", "x")
}

func TestAnonymousLimited(t *testing.T) {
	s := serve(t, kindrpc.AnonymousLimited)
	s.fill()
	anon := s.client("")
	for _, c := range []struct {
		key         string
		read, write codes.Code
		value       string
	}{
		{"vortex:metrics:web", codes.OK, codes.OK, `{"client_id":"web","current_rps":2}`},
		{"vortex:metrics:web:edge-1", codes.NotFound, codes.OK, `{"client_id":"web","current_rps":2}`},
		{"vortex:queue:scale:web", codes.OK, codes.PermissionDenied, ""},
		{"vortex:container:c", codes.OK, codes.PermissionDenied, ""},
		{"router:web", codes.OK, codes.PermissionDenied, ""},
		{"vortex:daemon:leader", codes.OK, codes.PermissionDenied, ""},
		{"vortex:daemon:epoch", codes.PermissionDenied, codes.PermissionDenied, ""},
		{"vortex:liveness:n", codes.PermissionDenied, codes.PermissionDenied, ""},
		{"vortex:schema:x", codes.PermissionDenied, codes.PermissionDenied, ""},
		{"vortex:metricsx", codes.PermissionDenied, codes.PermissionDenied, ""},
		{"vortex", codes.PermissionDenied, codes.PermissionDenied, ""},
		{"router", codes.OK, codes.PermissionDenied, ""},
		{"vortexlike", codes.OK, codes.OK, "y"},
		{"mine:1", codes.OK, codes.OK, "y"},
	} {
		if c.key != "router" {
			_, err := anon.Get(s.ctx(), &kindpb.GetRequest{Key: c.key})
			wantCode(t, "get "+c.key, err, c.read)
		}
		put := &kindpb.PutRequest{Key: c.key, Value: []byte(c.value)}
		_, err := anon.Put(s.ctx(), put)
		wantCode(t, "put "+c.key, err, c.write)
		_, err = anon.Cas(s.ctx(), &kindpb.CasRequest{Key: c.key, ExpectedValue: []byte("no"), NewValue: []byte(c.value)})
		wantCode(t, "cas "+c.key, err, c.write)
		_, err = anon.Txn(s.ctx(), &kindpb.TxnRequest{Operations: []*kindpb.Operation{{Operation: &kindpb.Operation_Put{Put: put}}}})
		wantCode(t, "txn "+c.key, err, c.write)
		_, err = anon.Delete(s.ctx(), &kindpb.DeleteRequest{Key: c.key})
		wantCode(t, "delete "+c.key, err, c.write)
		if c.read == codes.PermissionDenied {
			_, err = anon.Txn(s.ctx(), &kindpb.TxnRequest{Compares: []*kindpb.Compare{{Key: c.key}}})
			wantCode(t, "compare "+c.key, err, c.read)
		}
	}
	_, err := anon.Schema(s.ctx(), &kindpb.SchemaRequest{Name: "x", Text: []byte("type A { b: String }")})
	wantCode(t, "load a schema", err, codes.PermissionDenied)
	_, err = anon.Schema(s.ctx(), &kindpb.SchemaRequest{})
	wantCode(t, "list the schema", err, codes.OK)
	_, err = anon.Status(s.ctx(), &kindpb.StatusRequest{})
	wantCode(t, "status", err, codes.OK)
}

func TestAnonymousScansLeaveOutWhatMayNotBeRead(t *testing.T) {
	s := serve(t, kindrpc.AnonymousLimited)
	s.fill()
	anon := s.client("")
	visible := []string{"mine:1", "router:web", "vortex:container:c", "vortex:daemon:leader", "vortex:metrics:web", "vortex:queue:scale:web", "vortexlike"}
	for _, c := range []struct {
		prefix string
		code   codes.Code
		want   []string
	}{
		{"", codes.OK, visible},
		{"vortex:", codes.OK, visible[2:6]},
		{"vortex:daemon", codes.OK, visible[3:4]},
		{"vortex:daemon:e", codes.PermissionDenied, nil},
		{"vortex:liveness:", codes.PermissionDenied, nil},
		{"vortex:app", codes.PermissionDenied, nil},
		{"mine", codes.OK, visible[:1]},
	} {
		resp, err := anon.PrefixScan(s.ctx(), &kindpb.PrefixScanRequest{Prefix: c.prefix})
		wantCode(t, "scan "+c.prefix, err, c.code)
		if diff := cmp.Diff(c.want, keys(resp.GetRecords())); diff != "" {
			t.Errorf("scan %q: %s", c.prefix, diff)
		}
	}
	resp, err := anon.RangeScan(s.ctx(), &kindpb.RangeScanRequest{Lo: "a", Hi: "z"})
	if diff := cmp.Diff(visible, keys(resp.GetRecords())); diff != "" || err != nil {
		t.Errorf("range: %s, %v", diff, err)
	}
	_, err = anon.RangeScan(s.ctx(), &kindpb.RangeScanRequest{Lo: "vortex:liveness:a", Hi: "vortex:liveness:z"})
	wantCode(t, "a range of what may not be read", err, codes.PermissionDenied)
	_, err = anon.Query(s.ctx(), &kindpb.QueryRequest{SchemaType: "ContainerRecord", Field: "client_id", Value: "web"})
	wantCode(t, "query containers", err, codes.OK)
	_, err = anon.Query(s.ctx(), &kindpb.QueryRequest{SchemaType: "PlacementRecord", Field: "client_id", Value: "web"})
	wantCode(t, "query placements", err, codes.PermissionDenied)
}

func TestAnonymousStreamsLeaveOutWhatMayNotBeRead(t *testing.T) {
	s := serve(t, kindrpc.AnonymousLimited)
	s.fill()
	anon := s.client("")
	next := s.watch(anon, &kindpb.WatchRequest{KeyPrefix: new("vortex:")})
	stream, err := anon.Sync(s.ctx(), &kindpb.SyncRequest{})
	if err != nil {
		t.Fatal(err)
	}
	snapshot, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range snapshot.GetSnapshot().GetRecords() {
		if r.GetKey() == "vortex:liveness:n" || r.GetKey() == "vortex:daemon:epoch" {
			t.Errorf("the snapshot holds %s", r.GetKey())
		}
	}
	s.put("vortex:liveness:n", `{"node":"n","state":"Down","since":"2026-01-01T00:00:00Z"}`)
	s.put("vortex:metrics:web", `{"client_id":"web","current_rps":9}`)
	if ev := next(); ev.GetKey() != "vortex:metrics:web" {
		t.Errorf("the watch tells of %s", ev.GetKey())
	}
	if rec := s.wal(stream.Recv); len(rec.Operations) != 1 || rec.Operations[0].Key != "vortex:metrics:web" {
		t.Errorf("the log tells of %+v", rec)
	}
	denied, err := anon.Watch(s.ctx(), &kindpb.WatchRequest{KeyPrefix: new("vortex:liveness")})
	if err == nil {
		_, err = denied.Recv()
	}
	wantCode(t, "watch what may not be read", err, codes.PermissionDenied)
}

func TestAnonymousOffAndFull(t *testing.T) {
	for mode, want := range map[kindrpc.Anonymous]codes.Code{kindrpc.AnonymousOff: codes.Unauthenticated, "": codes.Unauthenticated, kindrpc.AnonymousFull: codes.OK} {
		s := serve(t, mode)
		s.fill()
		anon := s.client("")
		_, err := anon.Put(s.ctx(), &kindpb.PutRequest{Key: "vortex:queue:scale:web", Value: []byte(`{"client_id":"web","target":2}`)})
		wantCode(t, string(mode)+" put", err, want)
		_, err = anon.Get(s.ctx(), &kindpb.GetRequest{Key: "vortex:liveness:n"})
		wantCode(t, string(mode)+" get", err, want)
		_, err = anon.Status(s.ctx(), &kindpb.StatusRequest{})
		wantCode(t, string(mode)+" status", err, want)
		_, err = anon.PrefixScan(s.ctx(), &kindpb.PrefixScanRequest{})
		wantCode(t, string(mode)+" scan", err, want)
	}
}

func TestTooLargeMessagesAndValuesAreRefused(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	_, err := s.Put(s.ctx(), &kindpb.PutRequest{Key: "k", Value: make([]byte, 17<<20)})
	wantCode(t, "a huge message", err, codes.ResourceExhausted)
	_, err = s.Put(s.ctx(), &kindpb.PutRequest{Key: "k", Value: make([]byte, 2<<20)})
	wantCode(t, "a large value", err, codes.InvalidArgument)
	_, err = s.Put(s.ctx(), &kindpb.PutRequest{Key: string(bytes.Repeat([]byte("k"), 5000))})
	wantCode(t, "a long key", err, codes.InvalidArgument)
	s.put("k", "still serving")
}

func TestGarbageOnTheSocketHarmsNobody(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	for n := range 50 {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		text := [][]byte{[]byte("GET / HTTP/1.1\r\n\r\n"), bytes.Repeat([]byte{0xff}, 1000), []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x04"), {}}[n%4]
		_, _ = conn.Write(text)
		if n%2 == 0 {
			_ = conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			_, _ = io.Copy(io.Discard, conn)
		}
		_ = conn.Close()
	}
	s.put("k", "still serving")
}

// TestWatcherThatNeverReadsHarmsNobody lets a client subscribe and stop reading while much is written.
func TestWatcherThatNeverReadsHarmsNobody(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	ctx, cancel := context.WithCancel(s.ctx())
	defer cancel()
	for range 3 {
		stream, err := s.Watch(ctx, &kindpb.WatchRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Header(); err != nil {
			t.Fatal(err)
		}
	}
	other := s.client(token)
	next := s.watch(other, &kindpb.WatchRequest{})
	value := bytes.Repeat([]byte("v"), 64<<10)
	for n := range 500 {
		if _, err := s.store.Put(t.Context(), fmt.Sprintf("k%d", n%10), value, 0); err != nil {
			t.Fatal(err)
		}
		if ev := next(); len(ev.GetNewValue()) != len(value) {
			t.Fatalf("event %d: %d bytes", n, len(ev.GetNewValue()))
		}
	}
	cancel()
	kindtest.Eventually(t, "reads go on", func() bool {
		_, err := other.Get(s.ctx(), &kindpb.GetRequest{Key: "k1"})
		return err == nil
	})
}
