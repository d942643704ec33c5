package client

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"vortex"
	kindpb "vortex/proto/kind"
)

// Kind is a client of the state store. Its methods are safe for concurrent use.
type Kind struct {
	conn   *grpc.ClientConn
	client kindpb.KindServiceClient
	target string
	secure bool
}

// Record is a key with its value and the revisions that made it what it is.
type Record struct {
	Key            string
	Value          []byte
	ExpiresAt      time.Time // zero: never
	CreateRevision uint64
	ModRevision    uint64
}

// Filter selects records whose field has a value.
type Filter struct{ Field, Value string }

// redial is how soon a lost server is tried again.
var redial = backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second}

// dialTimeout is how long a server may take to accept a connection.
const dialTimeout = 5 * time.Second

// OpenKind returns a client for the store at addr: host:port, http://host:port, or https://host:port for TLS.
// Nothing is sent yet. An empty token makes the client anonymous, unless it shows a certificate; at most one TLS says which.
func OpenKind(addr, token string, security ...TLS) (*Kind, error) {
	transport := insecure.NewCredentials()
	target := addr
	if strings.Contains(addr, "://") {
		u, err := url.Parse(addr)
		if err != nil || u.Host == "" {
			return nil, vortex.Errorf(vortex.Invalid, "the store's address must be host:port, got %q", addr)
		}
		target = u.Host
		if u.Scheme == "https" {
			cfg, err := append(security, TLS{})[0].Config()
			if err != nil {
				return nil, err
			}
			transport = credentials.NewTLS(cfg)
		}
	}
	opts := []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{Backoff: redial, MinConnectTimeout: dialTimeout}), grpc.WithTransportCredentials(transport), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1 << 30))}
	if token != "" {
		opts = append(opts, grpc.WithUnaryInterceptor(withTokenUnary(token)), grpc.WithStreamInterceptor(withTokenStream(token)))
	}
	conn, err := grpc.NewClient("passthrough:///"+target, opts...)
	if err != nil {
		return nil, vortex.Errorf(vortex.Invalid, "the store's address must be host:port, got %q: %w", addr, err)
	}
	return &Kind{conn: conn, client: kindpb.NewKindServiceClient(conn), target: target, secure: transport.Info().SecurityProtocol == "tls"}, nil
}

func withTokenUnary(token string) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		return invoke(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token), method, req, reply, cc, opts...)
	}
}

func withTokenStream(token string) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		return open(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token), desc, cc, method, opts...)
	}
}

// Close lets go of the connection.
func (k *Kind) Close() error { return k.conn.Close() }

// Service returns the generated client, for what has no method here.
func (k *Kind) Service() kindpb.KindServiceClient { return k.client }

// Get returns the record at key, or an error of kind NotFound.
func (k *Kind) Get(ctx context.Context, key string) (Record, error) {
	return k.GetAt(ctx, key, At{})
}

// GetSnapshot is Get of what the server has in memory, which may be a little older than what was acknowledged last.
func (k *Kind) GetSnapshot(ctx context.Context, key string) (Record, error) {
	rec, err := k.client.Get(ctx, &kindpb.GetRequest{Key: key, Consistency: kindpb.Consistency_SNAPSHOT})
	if err != nil {
		return Record{}, k.fail(ctx, err)
	}
	return record(rec), nil
}

// Commit does all operations at one revision, which it returns, or none.
func (k *Kind) Commit(ctx context.Context, ops ...*kindpb.Operation) (uint64, error) {
	resp, err := k.client.Txn(ctx, &kindpb.TxnRequest{Operations: ops})
	if err != nil {
		return 0, k.fail(ctx, err)
	}
	return resp.GetRevision(), nil
}

// Put writes a record; ttl 0 never expires. It returns the revision at which it happened.
func (k *Kind) Put(ctx context.Context, key string, value []byte, ttl time.Duration) (uint64, error) {
	resp, err := k.client.Put(ctx, &kindpb.PutRequest{Key: key, Value: value, TtlMs: millis(ttl)})
	if err != nil {
		return 0, k.fail(ctx, err)
	}
	return resp.GetRevision(), nil
}

// Delete removes a record and reports whether there was one.
func (k *Kind) Delete(ctx context.Context, key string) (bool, error) {
	resp, err := k.client.Delete(ctx, &kindpb.DeleteRequest{Key: key})
	if err != nil {
		return false, k.fail(ctx, err)
	}
	return resp.GetSuccess(), nil
}

// CompareAndSwap writes value if key holds exactly expected, empty meaning absent, and reports whether it did.
func (k *Kind) CompareAndSwap(ctx context.Context, key string, expected, value []byte, ttl time.Duration) (bool, error) {
	resp, err := k.client.Cas(ctx, &kindpb.CasRequest{Key: key, ExpectedValue: expected, NewValue: value, TtlMs: millis(ttl)})
	if err != nil {
		return false, k.fail(ctx, err)
	}
	return resp.GetSuccess(), nil
}

// Scan returns the records whose key starts with prefix and that pass all filters, in key order.
func (k *Kind) Scan(ctx context.Context, prefix string, filters ...Filter) ([]Record, error) {
	return k.ScanAt(ctx, prefix, At{}, filters...)
}

// Query returns the records of a type whose indexed field has a value; limit 0 is all.
func (k *Kind) Query(ctx context.Context, typeName string, f Filter, limit uint32) ([]Record, error) {
	return k.QueryAt(ctx, typeName, f, limit, At{})
}

// Status tells how the store is.
func (k *Kind) Status(ctx context.Context) (*kindpb.StatusResponse, error) {
	resp, err := k.client.Status(ctx, &kindpb.StatusRequest{})
	if err != nil {
		return nil, k.fail(ctx, err)
	}
	return resp, nil
}

func millis(ttl time.Duration) *uint64 {
	if ttl <= 0 {
		return nil
	}
	ms := uint64(max(ttl.Milliseconds(), 1))
	return &ms
}

func record(rec *kindpb.Record) Record {
	out := Record{Key: rec.GetKey(), Value: rec.GetValue(), CreateRevision: rec.GetCreateRevision(), ModRevision: rec.GetModRevision()}
	if ms := rec.GetExpiresAt(); ms != 0 {
		out.ExpiresAt = time.UnixMilli(int64(ms)) //nolint:gosec // moments of this era
	}
	return out
}

func records(list []*kindpb.Record) []Record {
	out := make([]Record, len(list))
	for i, rec := range list {
		out[i] = record(rec)
	}
	return out
}

// kindsByCode is the way back from the wire's codes.
var kindsByCode = map[codes.Code]vortex.ErrorKind{
	codes.InvalidArgument:    vortex.Invalid,
	codes.NotFound:           vortex.NotFound,
	codes.AlreadyExists:      vortex.Exists,
	codes.Aborted:            vortex.Conflict,
	codes.FailedPrecondition: vortex.Precondition,
	codes.Unavailable:        vortex.Unavailable,
	codes.PermissionDenied:   vortex.Denied,
	codes.Unauthenticated:    vortex.Unauthenticated,
	codes.ResourceExhausted:  vortex.Exhausted,
	codes.OutOfRange:         vortex.OutOfRange,
}

// KindOfCode returns the kind of error that a code on the wire stands for.
func KindOfCode(code codes.Code) vortex.ErrorKind { return kindsByCode[code] }

// dialError is what went wrong, without what gRPC says around it.
func dialError(text string) string {
	if _, inner, ok := strings.Cut(text, "Error while dialing: "); ok {
		return strings.TrimSuffix(inner, `"`)
	}
	return text
}

// fail turns a gRPC error into one of the domain.
func (k *Kind) fail(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	st := status.Convert(err)
	if st.Code() == codes.DeadlineExceeded {
		return context.DeadlineExceeded
	}
	kind := KindOfCode(st.Code())
	if hint := tlsHint(st.Message(), k.secure); kind == vortex.Unavailable && hint != "" {
		return &vortex.Error{Kind: kind, Msg: fmt.Sprintf("the store at %s and this client do not agree: %s\n%s", k.target, st.Message(), hint)}
	}
	if kind == vortex.Unavailable && strings.Contains(st.Message(), "connect") {
		return &vortex.Error{Kind: kind, Msg: fmt.Sprintf("no store answers at %s: %s\nstart a server with `vortex up`, or name another with --kind", k.target, dialError(st.Message()))}
	}
	return &vortex.Error{Kind: kind, Msg: st.Message()}
}
