package kindrpc_test

import (
	"context"
	"io"
	"log/slog"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"vortex/internal/api/kindrpc"
	"vortex/internal/kind/kindtest"
	kindpb "vortex/proto/kind"
)

// sink is a stream of a call whose request is bytes and whose answers nobody reads.
type sink struct {
	grpc.ServerStream

	ctx     context.Context //nolint:containedctx // it is what the stream's Context returns
	message []byte
	read    bool
}

func (s *sink) Context() context.Context     { return s.ctx }
func (s *sink) SendMsg(any) error            { return nil }
func (s *sink) SendHeader(metadata.MD) error { return nil }
func (s *sink) SetHeader(metadata.MD) error  { return nil }

func (s *sink) RecvMsg(m any) error {
	if s.read {
		return io.EOF
	}
	s.read = true
	return unmarshal(s.message, m)
}

func unmarshal(data []byte, m any) error {
	if err := proto.Unmarshal(data, m.(proto.Message)); err != nil { //nolint:forcetypeassert // every request is one
		return status.Error(codes.Internal, "no message")
	}
	return nil
}

// FuzzRequests sends any bytes as the request of any call through the service on a store: it answers in time, never panics, and
// never says that anything inside went wrong.
func FuzzRequests(f *testing.F) {
	store := kindtest.Open(f)
	svc := &kindrpc.Service{Store: store, Token: token, Anonymous: kindrpc.AnonymousLimited, Log: slog.New(slog.DiscardHandler)}
	calls := kindpb.KindService_ServiceDesc
	ops := len(calls.Methods) + len(calls.Streams)
	for op := range ops {
		f.Add(uint8(op), true, []byte{})                                   //nolint:gosec // few
		f.Add(uint8(op), false, []byte("\x0a\x06vortex\x12\x011\x1a\x00")) //nolint:gosec // few
	}
	for _, m := range []proto.Message{
		&kindpb.PutRequest{Key: "vortex:metrics:a", Value: []byte(`{"client_id":"a","current_rps":1}`), TtlMs: new(uint64(5))},
		&kindpb.CasRequest{Key: "k", ExpectedValue: []byte("a"), NewValue: []byte("b")},
		&kindpb.QueryRequest{SchemaType: "ContainerRecord", Field: "client_id", Value: "a"},
		&kindpb.SchemaRequest{Name: "x", Text: []byte("@prefix(\"x\") type X { a: String }"), CheckOnly: true},
		&kindpb.TxnRequest{Compares: []*kindpb.Compare{{Key: "k"}}, Operations: []*kindpb.Operation{{}}},
	} {
		data, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		for op := range ops {
			f.Add(uint8(op), true, data) //nolint:gosec // few
		}
	}
	f.Fuzz(func(t *testing.T, op uint8, admin bool, message []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if admin {
			ctx = metadata.NewIncomingContext(ctx, metadata.Pairs("authorization", "Bearer "+token))
		}
		ctx = grpc.NewContextWithServerTransportStream(ctx, nothing{})
		var err error
		if n := int(op) % ops; n < len(calls.Methods) {
			_, err = calls.Methods[n].Handler(svc, ctx, func(m any) error { return unmarshal(message, m) }, nil)
		} else {
			err = calls.Streams[n-len(calls.Methods)].Handler(svc, &sink{ctx: ctx, message: message})
		}
		if st := status.Convert(err); st.Code() == codes.Internal && st.Message() != "no message" || st.Code() == codes.Unknown {
			t.Errorf("%v", err)
		}
	})
}

// nothing is the transport of a call that has none.
type nothing struct{}

func (nothing) Method() string               { return "" }
func (nothing) SetHeader(metadata.MD) error  { return nil }
func (nothing) SendHeader(metadata.MD) error { return nil }
func (nothing) SetTrailer(metadata.MD) error { return nil }
