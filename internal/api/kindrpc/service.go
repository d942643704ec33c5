// Package kindrpc serves the store's wire contract, proto/kind/kind.proto, over gRPC.
//
// It translates: requests to the store's calls, records to messages, errors to codes, and it holds every caller to
// what its role may read and write. It never decides anything about the data; the store validates.
//
//	srv := grpc.NewServer(kindrpc.Options()...)
//	kindpb.RegisterKindServiceServer(srv, &kindrpc.Service{Store: store, Token: token, Anonymous: kindrpc.AnonymousLimited})
package kindrpc

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"

	"vortex"
	"vortex/internal/kind"
	kindpb "vortex/proto/kind"
)

// Service implements the KindService of the wire contract.
type Service struct {
	kindpb.UnimplementedKindServiceServer

	Store *kind.Store
	// Token is the bearer token that gives every right; empty accepts none.
	Token string
	// Anonymous is what clients without a token may do; "" is off.
	Anonymous Anonymous
	// Version is reported by Status.
	Version string
	// Log receives internal errors; nil discards.
	Log *slog.Logger
}

const (
	maxMessage       = 16 << 20
	maxStreams       = 4096
	keepAliveTime    = 30 * time.Second
	keepAliveTimeout = 10 * time.Second
)

// Options are the gRPC server options the service expects: bounds on messages and streams, and dead peers noticed.
func Options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepAliveTime, Timeout: keepAliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	}
}

// StaleHeader is in the header of an answer that was read from memory while the engine was away, though the request asked for
// a linearizable one: it may be out of date.
const StaleHeader = "vortex-stale"

// fresh waits until memory is as new as the consistency asks for. While the engine is away reads go on from memory, and
// the answer is marked with StaleHeader.
func (s *Service) fresh(ctx context.Context, c kindpb.Consistency) error {
	if c == kindpb.Consistency_SNAPSHOT {
		return nil
	}
	if !s.Store.Stale() {
		if err := s.Store.Sync(ctx); !vortex.IsKind(err, vortex.Unavailable) {
			return err
		}
	}
	if err := grpc.SetHeader(ctx, metadata.Pairs(StaleHeader, "true")); err != nil {
		return fmt.Errorf("mark the answer as stale: %w", err)
	}
	return nil
}

// Get implements the wire contract.
func (s *Service) Get(ctx context.Context, req *kindpb.GetRequest) (*kindpb.Record, error) {
	acc, err := s.authorize(ctx)
	if err != nil {
		return nil, s.fail(err)
	}
	if err := acc.read(req.GetKey()); err != nil {
		return nil, s.fail(err)
	}
	if err := s.fresh(ctx, req.GetConsistency()); err != nil {
		return nil, s.fail(err)
	}
	rec, err := s.Store.Get(req.GetKey())
	if err != nil {
		return nil, s.fail(err)
	}
	return message(rec), nil
}

// RangeScan implements the wire contract.
func (s *Service) RangeScan(ctx context.Context, req *kindpb.RangeScanRequest) (*kindpb.RangeScanResponse, error) {
	return s.scan(ctx, commonPrefix(req.GetLo(), req.GetHi()), req.GetConsistency(), func() []*kind.Record {
		return s.Store.RangeScan(req.GetLo(), req.GetHi(), filters(req.GetFilters())...)
	})
}

// PrefixScan implements the wire contract.
func (s *Service) PrefixScan(ctx context.Context, req *kindpb.PrefixScanRequest) (*kindpb.RangeScanResponse, error) {
	return s.scan(ctx, req.GetPrefix(), req.GetConsistency(), func() []*kind.Record {
		return s.Store.PrefixScan(req.GetPrefix(), filters(req.GetFilters())...)
	})
}

// scan answers with what read finds, less what the caller may not see.
func (s *Service) scan(ctx context.Context, prefix string, c kindpb.Consistency, read func() []*kind.Record) (*kindpb.RangeScanResponse, error) {
	acc, err := s.authorize(ctx)
	if err != nil {
		return nil, s.fail(err)
	}
	if err := acc.scan(prefix); err != nil {
		return nil, s.fail(err)
	}
	if err := s.fresh(ctx, c); err != nil {
		return nil, s.fail(err)
	}
	rev := s.Store.Revision()
	return &kindpb.RangeScanResponse{Records: messages(read(), acc), Revision: uint64(rev)}, nil
}

// Query implements the wire contract.
func (s *Service) Query(ctx context.Context, req *kindpb.QueryRequest) (*kindpb.QueryResponse, error) {
	acc, err := s.authorize(ctx)
	if err != nil {
		return nil, s.fail(err)
	}
	if typ, ok := s.Store.Schema().Type(req.GetSchemaType()); ok && typ.Prefix != "" {
		if err := acc.read(typ.Prefix); err != nil {
			return nil, s.fail(err)
		}
	}
	if err := s.fresh(ctx, req.GetConsistency()); err != nil {
		return nil, s.fail(err)
	}
	rev := s.Store.Revision()
	f := kind.Filter{Field: req.GetField(), Value: req.GetValue()}
	found, err := s.Store.Query(req.GetSchemaType(), f, int(req.GetLimit()), int(req.GetOffset()))
	if err != nil {
		return nil, s.fail(err)
	}
	return &kindpb.QueryResponse{Records: messages(found, acc), Revision: uint64(rev)}, nil
}

// Schema implements the wire contract.
func (s *Service) Schema(ctx context.Context, req *kindpb.SchemaRequest) (*kindpb.SchemaResponse, error) {
	acc, err := s.authorize(ctx)
	if err != nil {
		return nil, s.fail(err)
	}
	schema := s.Store.Schema()
	if len(req.GetText()) > 0 {
		if !acc.all {
			return nil, s.fail(vortex.Errorf(vortex.Denied, "anonymous clients may not load a schema; send a token"))
		}
		if schema, err = s.loadSchema(ctx, req); err != nil {
			return nil, s.fail(err)
		}
	}
	resp := &kindpb.SchemaResponse{}
	for _, typ := range schema.Types {
		t := &kindpb.SchemaType{Name: typ.Name, Prefix: typ.Prefix}
		for _, f := range typ.Fields {
			t.Fields = append(t.Fields, f.Name)
			if f.Indexed || f.Unique {
				t.Indexed = append(t.Indexed, f.Name)
			}
		}
		resp.Types = append(resp.Types, t)
	}
	return resp, nil
}

// Status implements the wire contract.
func (s *Service) Status(ctx context.Context, _ *kindpb.StatusRequest) (*kindpb.StatusResponse, error) {
	if _, err := s.authorize(ctx); err != nil {
		return nil, s.fail(err)
	}
	return &kindpb.StatusResponse{
		Revision: uint64(s.Store.Revision()),
		Records:  uint64(s.Store.Len()),
		Stale:    s.Store.Stale(),
		Version:  s.Version,
	}, nil
}

// messages turns records into messages, leaving out what the caller may not read.
func messages(records []*kind.Record, acc access) []*kindpb.Record {
	out := make([]*kindpb.Record, 0, len(records))
	for _, rec := range records {
		if acc.mayRead(rec.Key) {
			out = append(out, message(rec))
		}
	}
	return out
}

func message(rec *kind.Record) *kindpb.Record {
	m := &kindpb.Record{
		Key: rec.Key, Value: rec.Value,
		CreateRevision: uint64(rec.CreateRevision), ModRevision: uint64(rec.ModRevision),
	}
	if rec.ExpiresAt != 0 {
		expires := uint64(rec.ExpiresAt)
		m.ExpiresAt = &expires
	}
	return m
}

func filters(in []*kindpb.ScanFilter) []kind.Filter {
	out := make([]kind.Filter, len(in))
	for i, f := range in {
		out[i] = kind.Filter{Field: f.GetField(), Value: f.GetValue()}
	}
	return out
}

func commonPrefix(a, b string) string {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return a[:n]
}
