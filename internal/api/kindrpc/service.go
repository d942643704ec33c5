// Package kindrpc serves the store's wire contract, proto/kind/kind.proto, over gRPC.
//
// It translates: requests to the store's calls, records to messages, errors to codes, and it holds every caller to
// what its role may read and write. It never decides anything about the data; the store validates.
//
//	srv := kindrpc.NewServer(&kindrpc.Service{Store: store, Token: token, Anonymous: kindrpc.AnonymousLimited})
package kindrpc

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"vortex"
	"vortex/internal/authz"
	"vortex/internal/kind"
	kindpb "vortex/proto/kind"
)

// Service implements the KindService of the wire contract.
type Service struct {
	kindpb.UnimplementedKindServiceServer

	Store *kind.Store
	// Access knows who may do what; nil is an authority over the store with the Token and Anonymous below. Where it runs, streams end
	// as soon as their caller loses what it may do.
	Access *authz.Authority
	// Token is the bearer token that gives every right; empty accepts none.
	Token string
	// Anonymous is what clients without a token may do; "" is off.
	Anonymous Anonymous
	// Public are full names of methods of other services on the same gRPC server that anybody may call.
	Public []string
	// Version is reported by Status.
	Version string
	// Limits bound what clients can make the server hold.
	Limits Limits
	// Log receives internal errors; nil discards.
	Log *slog.Logger

	load load
	once sync.Once
	own  *authz.Authority // when Access is nil
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
		return gone(err)
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
	rec, err := s.get(ctx, req)
	if err != nil {
		return nil, s.fail(err)
	}
	return message(rec), nil
}

// RangeScan implements the wire contract.
func (s *Service) RangeScan(ctx context.Context, req *kindpb.RangeScanRequest) (*kindpb.RangeScanResponse, error) {
	wanted := filters(req.GetFilters())
	return s.scan(ctx, commonPrefix(req.GetLo(), req.GetHi()), req, reading{
		now: func() []*kind.Record { return s.Store.RangeScan(req.GetLo(), req.GetHi(), wanted...) },
		then: func(p kind.Past) records {
			return kind.Matching(p.Scan(ctx, req.GetLo(), req.GetHi()+"\x00"), wanted...)
		},
	})
}

// PrefixScan implements the wire contract.
func (s *Service) PrefixScan(ctx context.Context, req *kindpb.PrefixScanRequest) (*kindpb.RangeScanResponse, error) {
	wanted := filters(req.GetFilters())
	return s.scan(ctx, req.GetPrefix(), req, reading{
		now:  func() []*kind.Record { return s.Store.PrefixScan(req.GetPrefix(), wanted...) },
		then: func(p kind.Past) records { return kind.Matching(p.Prefix(ctx, req.GetPrefix()), wanted...) },
	})
}

// scan answers with what r finds, less what the caller may not see.
func (s *Service) scan(ctx context.Context, prefix string, req asOf, r reading) (*kindpb.RangeScanResponse, error) {
	acc, err := s.authorize(ctx)
	if err != nil {
		return nil, s.fail(err)
	}
	if err := acc.scan(prefix); err != nil {
		return nil, s.fail(err)
	}
	found, rev, err := s.read(ctx, req, acc, r)
	if err != nil {
		return nil, s.fail(err)
	}
	if err := s.fits(ctx, found); err != nil {
		return nil, s.fail(err)
	}
	return &kindpb.RangeScanResponse{Records: messages(found, acc), Revision: uint64(rev)}, nil
}

// Query implements the wire contract.
func (s *Service) Query(ctx context.Context, req *kindpb.QueryRequest) (*kindpb.QueryResponse, error) {
	acc, err := s.authorize(ctx)
	if err != nil {
		return nil, s.fail(err)
	}
	if typ, ok := s.Store.Schema().Type(req.GetSchemaType()); ok && typ.Prefix != "" {
		if err := acc.scan(typ.Prefix); err != nil {
			return nil, s.fail(err)
		}
	}
	found, rev, err := s.query(ctx, req, acc)
	if err == nil {
		err = s.fits(ctx, found)
	}
	if err != nil {
		return nil, s.fail(err)
	}
	return &kindpb.QueryResponse{Records: messages(found, acc), Revision: uint64(rev)}, nil
}

// query finds the records that the caller may read. Those it may not read count for nothing, neither for the limit nor the offset.
func (s *Service) query(ctx context.Context, req *kindpb.QueryRequest, acc access) (found []*kind.Record, rev int64, err error) {
	limit, offset := int(req.GetLimit()), int(req.GetOffset())
	f := kind.Filter{Field: req.GetField(), Value: req.GetValue()}
	typ, ok := s.Store.Schema().Type(req.GetSchemaType())
	quick := (!ok || acc.ReadsAll(typ.Prefix)) && !past(req)
	if quick {
		if err := s.fresh(ctx, req.GetConsistency()); err != nil {
			return nil, 0, err
		}
		rev := s.Store.Revision()
		found, err = s.Store.Query(req.GetSchemaType(), f, limit, offset)
		return found, rev, err
	}
	var refused error
	found, rev, err = s.read(ctx, req, acc, reading{
		now: func() (all []*kind.Record) {
			all, refused = s.Store.Query(req.GetSchemaType(), f, 0, 0)
			return all
		},
		then: func(p kind.Past) records { return p.Find(ctx, req.GetSchemaType(), f.Field, f.Value) },
	})
	found = found[min(offset, len(found)):]
	if limit > 0 {
		found = found[:min(limit, len(found))]
	}
	return found, rev, cmp.Or(err, refused)
}

// readable returns those of the records that the caller may read.
func readable(records []*kind.Record, acc access) []*kind.Record {
	if acc.ReadsAll("") {
		return records
	}
	return slices.DeleteFunc(records, func(rec *kind.Record) bool { return !acc.mayRead(rec.Key) })
}

// Status implements the wire contract.
func (s *Service) Status(ctx context.Context, _ *kindpb.StatusRequest) (*kindpb.StatusResponse, error) {
	if _, err := s.authorize(ctx); err != nil {
		return nil, s.fail(err)
	}
	resp := &kindpb.StatusResponse{
		Revision:    uint64(s.Store.Revision()),
		Records:     uint64(s.Store.Len()),
		Stale:       s.Store.Stale(),
		Watchers:    uint64(s.Store.Watchers()),
		Version:     s.Version,
		MemoryBytes: uint64(s.Store.MemoryBytes()),
	}
	if err := s.Store.Trouble(); err != nil {
		resp.Trouble = err.Error()
	}
	s.tellHistory(ctx, resp)
	return resp, nil
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
