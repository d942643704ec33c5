// Package etcd is Kind's engine on etcd, either embedded in this process or an external cluster.
//
// Both speak through the same client, so that they behave alike; the embedded one skips the network.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"

	"vortex"
)

const (
	reconnect = 200 * time.Millisecond // pause before a broken watch is made again
	patience  = 5 * time.Second        // after which a request that is not answered is given up
)

// errSilent is why a request was given up.
var errSilent = errors.New("no answer in time")

// Engine stores keys in etcd below a prefix.
type Engine struct {
	route   *route
	prefix  string
	index   func(context.Context) (int64, error)
	follow  follower
	close   func() error
	settle  func()                // after much was read: gives back memory that will not be needed soon; may be nil
	room    func(bytes int) error // an error while so much cannot be written; nil where the disk is another machine's
	ours    progress
	groups  *groups
	group   *Group                 // nil where the members are other processes
	changed func() <-chan struct{} // closed when the members have another leader; nil where there is one member, or they are other processes
}

// newEngine returns an engine on the way to a cluster, all but index, follow and close.
func newEngine(way *route, prefix string, room bounds) *Engine {
	e := &Engine{route: way, prefix: prefix}
	e.groups = &groups{send: e.send, room: room}
	return e
}

// Trouble is why nothing can be written, nil while it can.
func (e *Engine) Trouble() error {
	if e.room == nil {
		return nil
	}
	return e.room(0)
}

// ReadIndex implements engine.Engine.
func (e *Engine) ReadIndex(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errSilent)
	defer cancel()
	rev, err := e.index(ctx)
	if err != nil {
		if vortex.IsKind(err, vortex.Unavailable) {
			return 0, err // it is said in our words already
		}
		return 0, classify(ctx, "read index", err)
	}
	return rev, nil
}

// Compact implements engine.Engine.
func (e *Engine) Compact(ctx context.Context, rev int64) error {
	member, ctx, release := e.route.bind(ctx)
	defer release()
	if _, err := member.Compact(ctx, rev); err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return classify(ctx, "compact", err)
	}
	return nil
}

// Close implements engine.Engine.
func (e *Engine) Close() error {
	e.groups.wait()
	return e.close()
}

// classify turns etcd's errors into ours.
func classify(ctx context.Context, verb string, err error) error {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errSilent), errors.Is(cause, errLeft):
		return &vortex.Error{Kind: vortex.Unavailable, Msg: "the store's engine does not answer; retry", Err: fmt.Errorf("%s: %w", verb, err)}
	case ctx.Err() != nil && !errors.Is(err, ctx.Err()): // etcd has a limit of its own, and may be the sooner to say so
		return fmt.Errorf("%s: %w: %w", verb, ctx.Err(), err)
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", verb, err)
	case errors.Is(err, rpctypes.ErrTooManyOps):
		return &vortex.Error{Kind: vortex.Invalid, Msg: "the transaction is larger than etcd takes; start it with --max-txn-ops=20000", Err: err}
	}
	etcdErr, ok := errors.AsType[rpctypes.EtcdError](rpctypes.Error(err))
	if !ok {
		return &vortex.Error{Kind: vortex.Unavailable, Msg: "the store's engine does not answer; retry", Err: fmt.Errorf("%s: %w", verb, err)}
	}
	wrapped := fmt.Errorf("%s: %w", verb, err)
	switch etcdErr.Code() {
	case codes.OutOfRange:
		return &vortex.Error{Kind: vortex.OutOfRange, Msg: "the revision asked for is not kept; list again", Err: wrapped}
	case codes.InvalidArgument:
		return &vortex.Error{Kind: vortex.Invalid, Msg: "the store refuses the request: " + etcdErr.Error(), Err: wrapped}
	case codes.ResourceExhausted:
		return &vortex.Error{Kind: vortex.Exhausted, Msg: "the store is full or overloaded: " + etcdErr.Error(), Err: wrapped}
	default:
		return &vortex.Error{Kind: vortex.Unavailable, Msg: "the store's engine does not answer; retry", Err: wrapped}
	}
}
