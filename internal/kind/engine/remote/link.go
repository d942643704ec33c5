package remote

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"vortex"
	kindpb "vortex/proto/kind"
)

var (
	errBroken = errors.New("the connection broke")
	errSilent = errors.New("no answer in time")
	errUnused = errors.New("the server is not used any more")

	errRelayed = vortex.Errorf(vortex.Unavailable, "the server keeps no store of its own, and whoever holds everything follows one that does")
)

const (
	dialPatience = 3 * time.Second        // for a server to accept a connection and answer
	spareQuiet   = 4                      // the warm connection is asked so many times more seldom
	leastDoubt   = 200 * time.Millisecond // before an answer that does not come raises doubt
	recent       = 100 * time.Millisecond // a server that was heard since needs no doubt
	slowFactor   = 8                      // an answer that takes so many times longer than usual raises doubt
	mostMessage  = 1 << 30
	windowBytes  = 1 << 20 // that a server may send before we have read it
)

// link is a connection to a server that has answered on it.
type link struct {
	addr  string
	conn  *grpc.ClientConn
	kind  kindpb.KindServiceClient
	ctx   context.Context //nolint:containedctx // it lives as long as the connection is of use; its cause says why no longer
	cut   context.CancelCauseFunc
	heard atomic.Int64  // when something came from the server, Unix nanoseconds
	usual atomic.Int64  // how long an answer takes, smoothed, nanoseconds
	stale atomic.Bool   // the server's own engine is away
	whole bool          // everything is held: the server has to have a store of its own
	doubt chan struct{} // one slot: ask for a sign of life now
}

// dial connects to a server and returns when it has answered.
func dial(ctx context.Context, cfg Config, addr string) (*link, error) {
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(cfg.Credentials),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(mostMessage)),
		grpc.WithInitialWindowSize(windowBytes), grpc.WithInitialConnWindowSize(windowBytes),
		grpc.WithIdleTimeout(0),
	}
	if cfg.Token != "" {
		opts = append(opts, grpc.WithPerRPCCredentials(bearer(cfg.Token)))
	}
	conn, err := grpc.NewClient("passthrough:///"+addr, opts...)
	if err != nil {
		return nil, fmt.Errorf("server %q: %w", addr, err)
	}
	l := &link{addr: addr, conn: conn, kind: kindpb.NewKindServiceClient(conn), whole: len(cfg.Hold) == 0, doubt: make(chan struct{}, 1)}
	ctx, cancel := context.WithTimeoutCause(ctx, dialPatience, errSilent)
	defer cancel()
	if err = l.ping(ctx); err == nil {
		err = l.ready(ctx)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return l, nil
}

// ready waits until the connection calls itself ready, which it does a moment after the first call on it can have been answered.
func (l *link) ready(ctx context.Context) error {
	for state := l.conn.GetState(); state != connectivity.Ready; state = l.conn.GetState() {
		if !l.conn.WaitForStateChange(ctx, state) {
			return context.Cause(ctx)
		}
	}
	return nil
}

// ping asks for a sign of life.
func (l *link) ping(ctx context.Context) error {
	began := time.Now()
	resp, err := l.kind.Index(ctx, &kindpb.IndexRequest{Local: true})
	if err != nil {
		return err
	}
	l.hear()
	l.stale.Store(resp.GetStale())
	if l.whole && resp.GetRelayed() {
		return errRelayed
	}
	took, usual := int64(time.Since(began)), l.usual.Load()
	if usual == 0 {
		usual = took
	}
	l.usual.Store(usual + (took-usual)/8) // as TCP smooths its round trips, RFC 6298
	return nil
}

func (l *link) hear() { l.heard.Store(time.Now().UnixNano()) }

// expect is called by who waits for an answer: a server that said nothing for a while is asked whether it lives at once.
func (l *link) expect() {
	if time.Since(time.Unix(0, l.heard.Load())) > recent {
		signal(l.doubt)
	}
}

// patience is how long an answer may take before it raises doubt.
func (l *link) patience(most time.Duration) time.Duration {
	return min(max(slowFactor*time.Duration(l.usual.Load()), leastDoubt), most)
}

// tend asks for signs of life until the link is cut or breaks, and returns why.
func (l *link) tend(r *route) error {
	broken := make(chan struct{})
	go func() {
		defer close(broken)
		for l.conn.GetState() == connectivity.Ready && l.conn.WaitForStateChange(l.ctx, connectivity.Ready) {
		}
	}()
	quiet := r.cfg.Quiet
	timer := time.NewTimer(quiet)
	defer timer.Stop()
	for {
		asked := false
		select {
		case <-l.ctx.Done():
			return context.Cause(l.ctx)
		case <-broken:
			if l.ctx.Err() != nil {
				return context.Cause(l.ctx)
			}
			return errBroken
		case <-l.doubt:
			asked = true
		case <-timer.C:
		}
		wait := quiet
		if r.isSpare(l) {
			wait *= spareQuiet
		}
		if since := time.Since(time.Unix(0, l.heard.Load())); !asked && since < wait {
			timer.Reset(min(wait-since, quiet))
			continue
		}
		if err := l.alive(r, broken); err != nil {
			return err
		}
		timer.Reset(quiet)
	}
}

// alive returns nil when the server gives a sign of life in time.
func (l *link) alive(r *route, broken <-chan struct{}) error {
	ctx, cancel := context.WithTimeoutCause(l.ctx, r.cfg.Silence, errSilent)
	defer cancel()
	answer := make(chan error, 1)
	go func() { answer <- l.ping(ctx) }()
	doubtful := time.NewTimer(l.patience(r.cfg.Silence))
	defer doubtful.Stop()
	for {
		select {
		case err := <-answer:
			if err != nil && context.Cause(ctx) != nil {
				return context.Cause(ctx)
			}
			if err == nil && l.stale.Load() {
				r.doubtful(l)
			}
			return err
		case <-broken:
			return errBroken
		case <-doubtful.C:
			r.late(l)
		}
	}
}

// bind returns a context that ends with the link too.
func (l *link) bind(ctx context.Context) (bound context.Context, release func()) {
	bound, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(l.ctx, func() { cancel(context.Cause(l.ctx)) })
	return bound, func() { stop(); cancel(nil) }
}

// bearer is a token as every request carries it.
type bearer string

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (bearer) RequireTransportSecurity() bool { return false }

// signal fills a one-slot channel.
func signal(slot chan struct{}) {
	select {
	case slot <- struct{}{}:
	default:
	}
}
