package kindrpc_test

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vortex/internal/api/kindrpc"
	kindpb "vortex/proto/kind"
)

// all reads a stream to its end.
func all[T any](t *testing.T, stream grpc.ServerStreamingClient[T], err error) (out []*T) {
	t.Helper()
	for err == nil {
		var m *T
		if m, err = stream.Recv(); err == nil {
			out = append(out, m)
		}
	}
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return out
}

// ends reads a stream until it fails, and returns how.
func ends[T any](t *testing.T, stream grpc.ServerStreamingClient[T], err error) codes.Code {
	t.Helper()
	for err == nil {
		_, err = stream.Recv()
	}
	return status.Code(err)
}

func found(records []*kindpb.Record) (out []string) {
	for _, rec := range records {
		out = append(out, rec.GetKey()+"="+string(rec.GetValue()))
	}
	return out
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestReadsOfThePast(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	container := func(status string) string {
		return fmt.Sprintf(`{"id":"1","client_id":"web","status":%q,"ip_address":""}`, status)
	}
	s.put("a", "1")
	rev := s.put("vortex:container:1", container("Running"))
	s.put("vortex:container:1", container("Dead"))
	s.put("a", "2")
	old := "vortex:container:1=" + container("Running")
	rec, err := s.Get(s.ctx(), &kindpb.GetRequest{Key: "a", AtRevision: rev})
	if err != nil || string(rec.GetValue()) != "1" {
		t.Errorf("get: %v, %v", rec, err)
	}
	scan, err := s.PrefixScan(s.ctx(), &kindpb.PrefixScanRequest{Prefix: "vortex:container", AtRevision: rev})
	same(t, fmt.Sprint("prefix scan ", err), found(scan.GetRecords()), []string{old})
	if scan.GetRevision() != rev {
		t.Errorf("the answer is of revision %d; want %d", scan.GetRevision(), rev)
	}
	scan, err = s.RangeScan(s.ctx(), &kindpb.RangeScanRequest{Lo: "a", Hi: "a", AtRevision: rev})
	same(t, fmt.Sprint("range scan ", err), found(scan.GetRecords()), []string{"a=1"})
	scan, err = s.PrefixScan(s.ctx(), &kindpb.PrefixScanRequest{Filters: []*kindpb.ScanFilter{{Field: "status", Value: "Running"}}, AtRevision: rev})
	same(t, fmt.Sprint("filtered scan ", err), found(scan.GetRecords()), []string{old})
	query, err := s.Query(s.ctx(), &kindpb.QueryRequest{SchemaType: "ContainerRecord", Field: "status", Value: "Running", AtRevision: rev})
	same(t, fmt.Sprint("query ", err), found(query.GetRecords()), []string{old})
	at := uint64(time.Now().UnixMilli())
	scan, err = s.PrefixScan(s.ctx(), &kindpb.PrefixScanRequest{Prefix: "a", AtTime: at})
	same(t, fmt.Sprint("at a time ", err), found(scan.GetRecords()), []string{"a=2"})
	for _, c := range []struct {
		req  *kindpb.GetRequest
		want codes.Code
	}{
		{&kindpb.GetRequest{Key: "a", AtRevision: 1 << 40}, codes.InvalidArgument},
		{&kindpb.GetRequest{Key: "a", AtRevision: 1 << 63}, codes.InvalidArgument},
		{&kindpb.GetRequest{Key: "a", AtTime: 1 << 63}, codes.InvalidArgument},
		{&kindpb.GetRequest{Key: "a", AtTime: at + 1e8}, codes.InvalidArgument},
		{&kindpb.GetRequest{Key: "a", AtTime: at, AtRevision: rev}, codes.InvalidArgument},
		{&kindpb.GetRequest{Key: "b", AtRevision: rev}, codes.NotFound},
	} {
		if _, err := s.Get(s.ctx(), c.req); status.Code(err) != c.want {
			t.Errorf("%v: %v; want %v", c.req, err, c.want)
		}
	}
}

func TestCompactForgets(t *testing.T) {
	s := serve(t, kindrpc.AnonymousFull)
	first := s.put("a", "1")
	kept := s.put("a", "2")
	last := s.put("a", "3")
	if _, err := s.client("").Compact(s.ctx(), &kindpb.CompactRequest{Revision: kept}); err != nil {
		t.Fatalf("anonymous full: %v", err)
	}
	resp, err := s.Compact(s.ctx(), &kindpb.CompactRequest{Revision: kept})
	if err != nil || resp.GetOldestRevision() != kept {
		t.Fatalf("compact: %v, %v", resp, err)
	}
	_, err = s.Get(s.ctx(), &kindpb.GetRequest{Key: "a", AtRevision: first})
	if status.Code(err) != codes.OutOfRange || !strings.Contains(err.Error(), strconv.FormatUint(kept, 10)) {
		t.Errorf("a compacted revision: %v; want OutOfRange that names %d", err, kept)
	}
	st, err := s.Status(s.ctx(), &kindpb.StatusRequest{})
	if err != nil || st.GetOldestRevision() != kept || st.GetOldestTime() == 0 || st.GetMemoryBytes() == 0 {
		t.Errorf("status: %v, %v", st, err)
	}
	if _, err := s.Compact(s.ctx(), &kindpb.CompactRequest{Revision: last + 10}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("compact the future: %v", err)
	}
	stream, err := s.History(s.ctx(), &kindpb.HistoryRequest{FromRevision: first})
	if code := ends(t, stream, err); code != codes.OutOfRange {
		t.Errorf("a history from what is compacted ends with %v", code)
	}
	since, err := s.History(s.ctx(), &kindpb.HistoryRequest{FromTime: 1})
	if txns := all(t, since, err); len(txns) != 1 || txns[0].GetRevision() != last {
		t.Errorf("since ever: %v; want revision %d", txns, last)
	}
	limited := serve(t, kindrpc.AnonymousLimited)
	if _, err := limited.client("").Compact(s.ctx(), &kindpb.CompactRequest{Revision: 1}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("anonymous limited: %v; want PermissionDenied", err)
	}
}

func TestHistoryAndDiffShowOnlyWhatTheCallerMayRead(t *testing.T) {
	s := serve(t, kindrpc.AnonymousLimited)
	from := s.put("mine", "1")
	s.put("vortex:secret", "1")
	if _, err := s.Txn(s.ctx(), &kindpb.TxnRequest{Operations: []*kindpb.Operation{
		{Operation: &kindpb.Operation_Put{Put: &kindpb.PutRequest{Key: "mine", Value: []byte("2")}}},
		{Operation: &kindpb.Operation_Put{Put: &kindpb.PutRequest{Key: "vortex:secret", Value: []byte("2")}}},
	}}); err != nil {
		t.Fatal(err)
	}
	text := func(changes []*kindpb.Change) (out []string) {
		for _, c := range changes {
			out = append(out, fmt.Sprintf("%s: %s -> %s", c.GetKey(), c.GetBefore().GetValue(), c.GetAfter().GetValue()))
		}
		return out
	}
	for _, c := range []struct {
		who     string
		client  kindpb.KindServiceClient
		history []string
		diff    []string
	}{
		{"anonymous", s.client(""), []string{"mine: 1 -> 2"}, []string{"mine: 1 -> 2"}},
		{
			"root", s,
			[]string{"vortex:secret:  -> 1", "mine: 1 -> 2", "vortex:secret: 1 -> 2"},
			[]string{"mine: 1 -> 2", "vortex:secret:  -> 2"},
		},
	} {
		var history []string
		stream, err := c.client.History(s.ctx(), &kindpb.HistoryRequest{FromRevision: from + 1})
		for _, txn := range all(t, stream, err) {
			if txn.GetTime() == 0 || len(txn.GetChanges()) == 0 {
				t.Errorf("a transaction without time or changes: %v", txn)
			}
			history = append(history, text(txn.GetChanges())...)
		}
		same(t, "history of "+c.who, history, c.history)
		diff, err := c.client.Diff(s.ctx(), &kindpb.DiffRequest{FromRevision: from})
		same(t, "diff of "+c.who, text(all(t, diff, err)), c.diff)
		if c.who == "root" {
			continue
		}
		stream, err = c.client.History(s.ctx(), &kindpb.HistoryRequest{KeyPrefix: "vortex:secret"})
		if code := ends(t, stream, err); code != codes.PermissionDenied {
			t.Errorf("history of a secret: %v", code)
		}
		diff, err = c.client.Diff(s.ctx(), &kindpb.DiffRequest{KeyPrefix: "vortex:secret", FromRevision: from})
		if code := ends(t, diff, err); code != codes.PermissionDenied {
			t.Errorf("diff of a secret: %v", code)
		}
	}
	diff, err := s.Diff(s.ctx(), &kindpb.DiffRequest{})
	if code := ends(t, diff, err); code != codes.InvalidArgument {
		t.Errorf("a diff from nowhere: %v", code)
	}
}
