package kindrpc

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	kindpb "vortex/proto/kind"
)

const (
	maxMessage       = 16 << 20         // of a request
	maxAnswer        = 64 << 20         // of an answer; Sync sends more in parts
	maxStreams       = 4096             // of one connection
	maxHeaders       = 16 << 10         // of a request
	workers          = 64               // goroutines that answer requests one after the other: their stacks have grown already
	handshakeTimeout = 10 * time.Second // for TLS and the beginning of HTTP/2
	keepAliveTime    = 30 * time.Second
	keepAliveTimeout = 10 * time.Second
)

// Options are the gRPC server options the service expects: bounds on messages and streams, and dead peers noticed.
func Options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxAnswer + maxMessage),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.NumStreamWorkers(workers),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepAliveTime, Timeout: keepAliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	}
}

// NewServer returns a gRPC server with the service in it, which asks who calls before it reads a request.
func NewServer(s *Service, opts ...grpc.ServerOption) *grpc.Server {
	opts = append(append(Options(), grpc.ForceServerCodecV2(&codec{load: &s.load}), grpc.InTapHandle(s.admit), grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.stream)), opts...)
	srv := grpc.NewServer(opts...)
	kindpb.RegisterKindServiceServer(srv, s)
	return srv
}

// unary keeps a panic of a handler from ending the process, and puts the errors of other services into the wire's form.
func (s *Service) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (resp any, err error) {
	defer s.recovered(&err)
	resp, err = handle(ctx, req)
	return resp, s.coded(err)
}

// coded returns an error with its code on the wire.
func (s *Service) coded(err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	return s.fail(err)
}

// recovered makes a panic an internal error.
func (s *Service) recovered(err *error) {
	if r := recover(); r != nil {
		*err = s.fail(fmt.Errorf("panic: %v\n%s", r, debug.Stack()))
	}
}

// stream ends a stream when its caller loses what it may do, and keeps a panic from ending the process.
func (s *Service) stream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
	defer s.recovered(&err)
	acc, err := s.authorize(ss.Context())
	if err != nil {
		return s.fail(err)
	}
	closed, err := s.openStream()
	if err != nil {
		return s.fail(err)
	}
	defer closed()
	ctx, release := acc.Hold(ss.Context())
	defer release()
	err = handle(srv, &heldStream{ServerStream: ss, ctx: ctx})
	if ss.Context().Err() == nil && ctx.Err() != nil {
		return s.fail(context.Cause(ctx))
	}
	return s.coded(err)
}

// heldStream is a stream whose context ends when its caller loses what it may do.
type heldStream struct {
	grpc.ServerStream

	ctx context.Context //nolint:containedctx // it is what the stream's Context returns
}

// Context implements grpc.ServerStream.
func (h *heldStream) Context() context.Context { return h.ctx }

// SendMsg implements grpc.ServerStream. It gives nothing more to who lost the right to it.
func (h *heldStream) SendMsg(m any) error {
	if h.ctx.Err() != nil {
		return context.Cause(h.ctx)
	}
	return h.ServerStream.SendMsg(m)
}
