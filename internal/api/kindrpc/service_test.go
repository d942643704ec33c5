package kindrpc_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"vortex/internal/api/kindrpc"
	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
	kindpb "vortex/proto/kind"
)

const token = "secret-token"

// server is the service on a real listener, with a client that sends the token.
type server struct {
	*testing.T

	store *kind.Store
	addr  string
	kindpb.KindServiceClient
}

func serve(t *testing.T, mode kindrpc.Anonymous) *server {
	t.Helper()
	return serveStore(t, kindtest.Open(t), mode)
}

func serveStore(t *testing.T, store *kind.Store, mode kindrpc.Anonymous) *server {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	swept := make(chan struct{})
	go func() { defer close(swept); _ = store.Sweep(ctx) }()
	t.Cleanup(func() { cancel(); <-swept })
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := kindrpc.NewServer(&kindrpc.Service{Store: store, Token: token, Anonymous: mode, Version: "v-test"})
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(listener) }()
	t.Cleanup(func() { srv.Stop(); <-done })
	s := &server{T: t, store: store, addr: listener.Addr().String()}
	s.KindServiceClient = s.client(token)
	return s
}

type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}
func (bearer) RequireTransportSecurity() bool { return false }

// client connects with a token, or without one when it is empty.
func (s *server) client(token string) kindpb.KindServiceClient {
	s.Helper()
	opts := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	if token != "" {
		opts = append(opts, grpc.WithPerRPCCredentials(bearer(token)))
	}
	conn, err := grpc.NewClient("passthrough:///"+s.addr, opts...)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = conn.Close() })
	return kindpb.NewKindServiceClient(conn)
}

func (s *server) ctx() context.Context {
	ctx, cancel := context.WithTimeout(s.Context(), 30*time.Second)
	s.Cleanup(cancel)
	return ctx
}

func (s *server) put(key, value string) uint64 {
	s.Helper()
	resp, err := s.Put(s.ctx(), &kindpb.PutRequest{Key: key, Value: []byte(value)})
	if err != nil || !resp.GetSuccess() {
		s.Fatalf("put %s: %v, %v", key, resp, err)
	}
	return resp.GetRevision()
}

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("%s: %v (%v); want %s", what, got, err, want)
	}
}

func keys(records []*kindpb.Record) (out []string) {
	for _, r := range records {
		out = append(out, r.GetKey())
	}
	return out
}

func container(id, app, state string) string {
	return fmt.Sprintf(`{"id":%q,"client_id":%q,"status":%q,"ip_address":"10.0.0.1"}`, id, app, state)
}

func TestGetPutDelete(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	_, err := s.Get(s.ctx(), &kindpb.GetRequest{Key: "k"})
	wantCode(t, "a missing key", err, codes.NotFound)
	rev := s.put("k", "v")
	rec, err := s.Get(s.ctx(), &kindpb.GetRequest{Key: "k"})
	if err != nil || string(rec.GetValue()) != "v" || rec.ExpiresAt != nil || rec.GetModRevision() != rev {
		t.Fatalf("got %v, %v", rec, err)
	}
	del, err := s.Delete(s.ctx(), &kindpb.DeleteRequest{Key: "k"})
	if err != nil || !del.GetSuccess() {
		t.Errorf("delete: %v, %v", del, err)
	}
	del, err = s.Delete(s.ctx(), &kindpb.DeleteRequest{Key: "k"})
	if err != nil || del.GetSuccess() {
		t.Errorf("delete again: %v, %v; want success=false", del, err)
	}
	_, err = s.Put(s.ctx(), &kindpb.PutRequest{Key: ""})
	wantCode(t, "an empty key", err, codes.InvalidArgument)
	_, err = s.Put(s.ctx(), &kindpb.PutRequest{Key: "vortex:container:x", Value: []byte(`{"id":"x"}`)})
	wantCode(t, "a value its type refuses", err, codes.InvalidArgument)
}

func TestCas(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	cas := func(expected, value string, ttl *uint64) bool {
		t.Helper()
		resp, err := s.Cas(s.ctx(), &kindpb.CasRequest{Key: "lock", ExpectedValue: []byte(expected), NewValue: []byte(value), TtlMs: ttl})
		if err != nil {
			t.Fatalf("cas %q to %q: %v", expected, value, err)
		}
		return resp.GetSuccess()
	}
	if !cas("", "a", nil) || cas("", "b", nil) || cas("x", "b", nil) || !cas("a", "b", new(uint64(30))) {
		t.Fatal("cas wins and loses wrongly")
	}
	kindtest.Eventually(t, "the lock expires and is free", func() bool { return cas("", "c", nil) })
}

func TestTTLEndsInvisibleAndAsDeleteEvent(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	watch := s.watch(s.KindServiceClient, &kindpb.WatchRequest{KeyPrefix: new("ttl")})
	began := time.Now().UnixMilli()
	if _, err := s.Put(s.ctx(), &kindpb.PutRequest{Key: "ttl", Value: []byte("v"), TtlMs: new(uint64(50))}); err != nil {
		t.Fatal(err)
	}
	put := watch()
	if put.GetOperationType() != "PUT" || string(put.GetNewValue()) != "v" {
		t.Fatalf("event %v", put)
	}
	if rec, err := s.Get(s.ctx(), &kindpb.GetRequest{Key: "ttl"}); err == nil && int64(rec.GetExpiresAt()) < began+50 {
		t.Errorf("expires at %d, put at %d with 50 ms", rec.GetExpiresAt(), began)
	}
	del := watch()
	if del.GetOperationType() != "DELETE" || del.NewValue != nil || del.GetKey() != "ttl" || del.GetRevision() <= put.GetRevision() {
		t.Fatalf("event %v; want DELETE", del)
	}
	_, err := s.Get(s.ctx(), &kindpb.GetRequest{Key: "ttl"})
	wantCode(t, "an expired key", err, codes.NotFound)
	_, err = s.Put(s.ctx(), &kindpb.PutRequest{Key: "ttl", TtlMs: new(^uint64(0))})
	wantCode(t, "a TTL beyond time", err, codes.InvalidArgument)
}

func TestScansAndFilters(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	for _, k := range []string{"a", "b", "b1", "c", "d"} {
		s.put("r:"+k, `{"color":"red","n":1}`)
	}
	s.put("r:c", `{"color":"blue","n":2}`)
	scan := func(lo, hi string, filters ...*kindpb.ScanFilter) []string {
		t.Helper()
		resp, err := s.RangeScan(s.ctx(), &kindpb.RangeScanRequest{Lo: lo, Hi: hi, Filters: filters})
		if err != nil {
			t.Fatal(err)
		}
		return keys(resp.GetRecords())
	}
	if diff := cmp.Diff([]string{"r:b", "r:b1", "r:c"}, scan("r:b", "r:c")); diff != "" {
		t.Errorf("both ends are part of a range: %s", diff)
	}
	if got := scan("r:c", "r:b"); len(got) != 0 {
		t.Errorf("a range from c to b holds %v", got)
	}
	if diff := cmp.Diff([]string{"r:c"}, scan("r:a", "r:z", &kindpb.ScanFilter{Field: "color", Value: "blue"}, &kindpb.ScanFilter{Field: "n", Value: "2"})); diff != "" {
		t.Errorf("filtered: %s", diff)
	}
	resp, err := s.PrefixScan(s.ctx(), &kindpb.PrefixScanRequest{Prefix: "r:b"})
	if diff := cmp.Diff([]string{"r:b", "r:b1"}, keys(resp.GetRecords())); diff != "" || err != nil {
		t.Errorf("prefix: %s, %v", diff, err)
	}
	if resp.GetRevision() == 0 {
		t.Error("a scan does not tell its revision")
	}
}

func TestQuery(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	for n := range 5 {
		id := fmt.Sprintf("c%d", n)
		s.put("vortex:container:"+id, container(id, []string{"web", "db"}[n%2], "Running"))
	}
	query := func(field, value string, limit, offset *uint32) []string {
		t.Helper()
		resp, err := s.Query(s.ctx(), &kindpb.QueryRequest{SchemaType: "ContainerRecord", Field: field, Value: value, Limit: limit, Offset: offset})
		if err != nil {
			t.Fatal(err)
		}
		return keys(resp.GetRecords())
	}
	if got := query("client_id", "web", nil, nil); len(got) != 3 {
		t.Errorf("web has %v", got)
	}
	if diff := cmp.Diff([]string{"vortex:container:c2"}, query("client_id", "web", new(uint32(1)), new(uint32(1)))); diff != "" {
		t.Errorf("second page of one: %s", diff)
	}
	if got := query("status", "Running", nil, new(uint32(9))); len(got) != 0 {
		t.Errorf("beyond the end: %v", got)
	}
	_, err := s.Query(s.ctx(), &kindpb.QueryRequest{SchemaType: "Nothing", Field: "x"})
	wantCode(t, "an unknown type", err, codes.InvalidArgument)
	_, err = s.Query(s.ctx(), &kindpb.QueryRequest{SchemaType: "ContainerRecord", Field: "ip_address"})
	wantCode(t, "a field without an index", err, codes.InvalidArgument)
}

// watch subscribes and returns a function that waits for the next event.
func (s *server) watch(c kindpb.KindServiceClient, req *kindpb.WatchRequest) func() *kindpb.WatchEvent {
	s.Helper()
	stream, err := c.Watch(s.ctx(), req)
	if err != nil {
		s.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		s.Fatal(err)
	}
	return func() *kindpb.WatchEvent {
		s.Helper()
		ev, err := stream.Recv()
		if err != nil {
			s.Fatalf("watch: %v", err)
		}
		return ev
	}
}

func TestWatchResumesAndFilters(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	first := s.put("w:a", "1")
	s.put("other", "x")
	s.put("w:b", "2")
	next := s.watch(s.KindServiceClient, &kindpb.WatchRequest{KeyPrefix: new("w:"), StartRevision: first})
	for _, want := range []string{"w:a", "w:b"} {
		if ev := next(); ev.GetKey() != want {
			t.Fatalf("replayed %v; want %s", ev, want)
		}
	}
	s.put("w:c", "3")
	if ev := next(); ev.GetKey() != "w:c" {
		t.Fatalf("live after the replay: %v", ev)
	}
	red := s.watch(s.KindServiceClient, &kindpb.WatchRequest{Filter: &kindpb.ScanFilter{Field: "color", Value: "red"}})
	s.put("f:1", `{"color":"blue"}`)
	s.put("f:2", `{"color":"red"}`)
	s.put("f:2", `{"color":"blue"}`)
	if a, b := red(), red(); a.GetKey() != "f:2" || b.GetKey() != "f:2" || a.GetRevision() >= b.GetRevision() {
		t.Fatalf("filtered: %v, %v", a, b)
	}
	stream, err := s.Watch(s.ctx(), &kindpb.WatchRequest{StartRevision: ^uint64(0)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	wantCode(t, "a revision beyond all", err, codes.InvalidArgument)
}

func TestSyncSendsAStateThenItsChanges(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	const records = 2500
	for n := range records {
		if _, err := s.store.Put(t.Context(), fmt.Sprintf("s:%04d", n), []byte("v"), 0); err != nil {
			t.Fatal(err)
		}
	}
	stream, err := s.Sync(s.ctx(), &kindpb.SyncRequest{})
	if err != nil {
		t.Fatal(err)
	}
	state := map[string]string{}
	var rev uint64
	for len(state) < records {
		p, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range p.GetSnapshot().GetRecords() {
			state[r.GetKey()] = string(r.GetValue())
		}
		rev = p.GetSnapshot().GetMaxTxId()
	}
	s.put("s:0000", "changed")
	changed := s.wal(stream.Recv)
	if changed.id <= rev || len(changed.Operations) != 1 || changed.Operations[0].Type != "PUT" || string(changed.Operations[0].Value) != "changed" {
		t.Fatalf("after revision %d came %+v", rev, changed)
	}
	if _, err := s.Delete(s.ctx(), &kindpb.DeleteRequest{Key: "s:0001"}); err != nil {
		t.Fatal(err)
	}
	resumed, err := s.Sync(s.ctx(), &kindpb.SyncRequest{LastKnownTxId: rev})
	if err != nil {
		t.Fatal(err)
	}
	if again := s.wal(resumed.Recv); again.id != changed.id {
		t.Fatalf("resumed at %d; want %d", again.id, changed.id)
	}
	if del := s.wal(resumed.Recv); del.Operations[0].Type != "DELETE" || del.Operations[0].Key != "s:0001" {
		t.Fatalf("then %+v", del)
	}
}

type walRecord struct {
	id         uint64
	Operations []struct {
		Type, Key string
		Value     []byte
	}
}

func (s *server) wal(recv func() (*kindpb.SyncPayload, error)) (rec walRecord) {
	s.Helper()
	p, err := recv()
	if err != nil {
		s.Fatal(err)
	}
	rec.id = p.GetWalRecord().GetTxId()
	if err := json.Unmarshal(p.GetWalRecord().GetPayload(), &rec); err != nil {
		s.Fatalf("payload %v: %v", p, err)
	}
	return rec
}

func TestTxnIsWholeOrNothing(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	rev := s.put("t:a", "1")
	txn := func(compares []*kindpb.Compare, ops ...*kindpb.Operation) bool {
		t.Helper()
		resp, err := s.Txn(s.ctx(), &kindpb.TxnRequest{Compares: compares, Operations: ops})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetSuccess()
	}
	put := func(k, v string) *kindpb.Operation {
		return &kindpb.Operation{Operation: &kindpb.Operation_Put{Put: &kindpb.PutRequest{Key: k, Value: []byte(v)}}}
	}
	del := &kindpb.Operation{Operation: &kindpb.Operation_Delete{Delete: &kindpb.DeleteRequest{Key: "t:a"}}}
	at := func(r uint64) []*kindpb.Compare {
		return []*kindpb.Compare{{Key: "t:a", Target: &kindpb.Compare_ModRevision{ModRevision: r}}}
	}
	if txn(at(rev+100), put("t:b", "x"), del) {
		t.Fatal("a transaction whose compare does not hold succeeded")
	}
	if _, err := s.store.Get("t:b"); err == nil {
		t.Fatal("and it wrote")
	}
	if !txn(at(rev), put("t:b", "x"), del) {
		t.Fatal("a transaction whose compare holds failed")
	}
	if txn([]*kindpb.Compare{{Key: "t:b", Target: &kindpb.Compare_Value{Value: []byte("y")}}}, put("t:c", "z")) ||
		!txn([]*kindpb.Compare{{Key: "t:b", Target: &kindpb.Compare_Value{Value: []byte("x")}}, {Key: "t:a"}}, put("t:c", "z")) {
		t.Fatal("compares by value")
	}
	_, err := s.Txn(s.ctx(), &kindpb.TxnRequest{Operations: []*kindpb.Operation{put("t:d", "1"), put("t:d", "2")}})
	wantCode(t, "one key twice", err, codes.InvalidArgument)
	_, err = s.Txn(s.ctx(), &kindpb.TxnRequest{Operations: []*kindpb.Operation{put("t:e", "1"), put("vortex:container:x", "{}")}})
	wantCode(t, "one value refused", err, codes.InvalidArgument)
	if _, err := s.store.Get("t:e"); err == nil {
		t.Fatal("half a transaction happened")
	}
}

func TestSchemaListsAndLoads(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	text := []byte("@prefix(\"shop:item\")\ntype Item { @indexed color: String, price: U32 }")
	_, err := s.Schema(s.ctx(), &kindpb.SchemaRequest{Text: text})
	wantCode(t, "a schema without a name", err, codes.InvalidArgument)
	_, err = s.Schema(s.ctx(), &kindpb.SchemaRequest{Name: "shop", Text: []byte("type {")})
	wantCode(t, "a schema that does not parse", err, codes.InvalidArgument)
	if _, err = s.Schema(s.ctx(), &kindpb.SchemaRequest{Name: "shop", Text: text, CheckOnly: true}); err != nil {
		t.Fatal(err)
	}
	s.put("shop:item:0", "not typed yet")
	resp, err := s.Schema(s.ctx(), &kindpb.SchemaRequest{Name: "shop", Text: text})
	if err != nil {
		t.Fatal(err)
	}
	var found bool
	for _, typ := range resp.GetTypes() {
		found = found || typ.GetName() == "Item" && typ.GetPrefix() == "shop:item" && cmp.Equal(typ.GetIndexed(), []string{"color"})
	}
	if !found {
		t.Fatalf("Item is not listed: %v", resp)
	}
	_, err = s.Put(s.ctx(), &kindpb.PutRequest{Key: "shop:item:1", Value: []byte(`{"color":1}`)})
	wantCode(t, "a value the new type refuses", err, codes.InvalidArgument)
	s.put("shop:item:1", `{"color":"red","price":3}`)
	got, err := s.Query(s.ctx(), &kindpb.QueryRequest{SchemaType: "Item", Field: "color", Value: "red"})
	if err != nil || len(got.GetRecords()) != 1 {
		t.Fatalf("query: %v, %v", got, err)
	}
}

// TestSchemaTellsWhatChanges checks, loads, forces and removes a text, and looks at what the answers say.
func TestSchemaTellsWhatChanges(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	text := `enum Colour { red, blue } @prefix("shop:item") type Item { @indexed colour: Colour, price: U32 }`
	ask := func(text string, check, force bool) (*kindpb.SchemaResponse, error) {
		return s.Schema(s.ctx(), &kindpb.SchemaRequest{Name: "shop", Text: []byte(text), CheckOnly: check, Force: force})
	}
	if _, err := ask(text, false, false); err != nil {
		t.Fatal(err)
	}
	s.put("shop:item:1", `{"colour":"red","price":3}`)
	breaking := strings.Replace(text, "price: U32", "price: String, size: U8?", 1)
	checked, err := ask(breaking, true, false)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range checked.GetDifferences() {
		got = append(got, fmt.Sprintf("%s %t", d.GetPath(), d.GetBreaking()))
	}
	if diff := cmp.Diff([]string{"Item.price true", "Item.size false", "Item true"}, got); diff != "" {
		t.Errorf("wrong differences (-want +got):\n%s", diff)
	}
	_, err = ask(breaking, false, false)
	wantCode(t, "a breaking text", err, codes.InvalidArgument)
	if _, err = ask(breaking, false, true); err != nil {
		t.Fatalf("a breaking text by force: %v", err)
	}
	listed, err := s.Schema(s.ctx(), &kindpb.SchemaRequest{})
	if err != nil {
		t.Fatal(err)
	}
	texts := listed.GetTexts()
	if len(texts) != 2 || texts[0].GetRevision() != 0 || texts[1].GetName() != "shop" || string(texts[1].GetText()) != breaking || texts[1].GetRevision() == 0 {
		t.Errorf("wrong texts: %v", texts[min(1, len(texts)):])
	}
	for _, typ := range listed.GetTypes() {
		want := "enum Colour { red, blue }\n\n@prefix(\"shop:item\")\ntype Item {\n    @indexed colour: Colour,\n    price: String,\n    size: U8?\n}\n"
		if typ.GetName() == "Item" && typ.GetDefinition() != want {
			t.Errorf("wrong definition:\n%s", typ.GetDefinition())
		}
	}
	_, err = s.Put(s.ctx(), &kindpb.PutRequest{Key: "vortex:schema:shop", Value: []byte(text)})
	wantCode(t, "a breaking text by Put", err, codes.InvalidArgument)
	_, err = s.Delete(s.ctx(), &kindpb.DeleteRequest{Key: "vortex:schema:shop"})
	wantCode(t, "its removal by Delete", err, codes.InvalidArgument)
}

func TestStatusTellsWhere(t *testing.T) {
	s := serve(t, kindrpc.AnonymousOff)
	rev := s.put("k", "v")
	st, err := s.Status(s.ctx(), &kindpb.StatusRequest{})
	if err != nil || st.GetRevision() < rev || st.GetRecords() != 1 || st.GetStale() || st.GetVersion() != "v-test" {
		t.Fatalf("status %v, %v", st, err)
	}
}

func TestWrongTokenIsRefusedEverywhere(t *testing.T) {
	for _, mode := range []kindrpc.Anonymous{kindrpc.AnonymousOff, kindrpc.AnonymousLimited, kindrpc.AnonymousFull} {
		s := serve(t, mode)
		for what, md := range map[string]metadata.MD{
			"wrong":   metadata.Pairs("authorization", "Bearer wrong"),
			"no type": metadata.Pairs("authorization", token),
			"longer":  metadata.Pairs("authorization", "Bearer "+token+"x"),
			"empty":   metadata.Pairs("authorization", ""),
		} {
			ctx := metadata.NewOutgoingContext(s.ctx(), md)
			_, err := s.client("").Get(ctx, &kindpb.GetRequest{Key: "k"})
			wantCode(t, string(mode)+" "+what, err, codes.Unauthenticated)
			_, err = s.client("").Txn(ctx, &kindpb.TxnRequest{})
			wantCode(t, string(mode)+" "+what+" txn", err, codes.Unauthenticated)
		}
	}
}
