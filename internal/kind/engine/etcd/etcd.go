// Package etcd is Kind's engine on etcd, either embedded in this process or an external cluster.
//
// Both speak through the same client, so that they behave alike; the embedded one skips the network.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"

	"vortex"
	"vortex/internal/kind/engine"
)

const (
	pageSize   = 2000                   // keys fetched in one round by Range
	largeRange = 20_000                 // keys read by one Range that leave much of the database in memory
	reconnect  = 200 * time.Millisecond // pause before a broken watch is made again
	patience   = 5 * time.Second        // after which a request that is not answered is given up
)

// errSilent is why a request was given up.
var errSilent = errors.New("no answer in time")

// Engine stores keys in etcd below a prefix.
type Engine struct {
	route  *route
	prefix string
	index  func(context.Context) (int64, error)
	follow follower
	close  func() error
	settle func()                // after much was read: gives back memory that will not be needed soon; may be nil
	room   func(bytes int) error // an error while so much cannot be written; nil where the disk is another machine's
	ours   progress
	groups *groups
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

// Range implements engine.Engine.
func (e *Engine) Range(ctx context.Context, lo, hi string, rev *int64) iter.Seq2[engine.KV, error] {
	return func(yield func(engine.KV, error) bool) {
		key, end := e.bounds(lo, hi)
		read := 0
		for {
			opts := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(*rev)}
			resp, err := e.route.client().Get(ctx, key, opts...)
			if err != nil {
				yield(engine.KV{}, classify(ctx, "range", err))
				return
			}
			if *rev == 0 {
				*rev = resp.Header.Revision
			}
			for _, kv := range resp.Kvs {
				if kv := e.kv(kv); kv.Key != markerKey && !yield(kv, nil) {
					return
				}
			}
			if !resp.More {
				if read > largeRange && e.settle != nil {
					e.settle()
				}
				return
			}
			read += len(resp.Kvs)
			key = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
		}
	}
}

// bounds translates a range of keys into etcd's terms.
func (e *Engine) bounds(lo, hi string) (key, end string) {
	key = e.prefix + lo
	switch {
	case hi != "":
		end = e.prefix + hi
	case e.prefix != "":
		end = clientv3.GetPrefixRangeEnd(e.prefix)
	default:
		end = "\x00"
	}
	if key == "" {
		key = "\x00"
	}
	return key, end
}

func (e *Engine) kv(kv *mvccpb.KeyValue) engine.KV {
	return engine.KV{
		Key:            string(kv.Key[len(e.prefix):]),
		Value:          kv.Value,
		CreateRevision: kv.CreateRevision,
		ModRevision:    kv.ModRevision,
	}
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
	if _, err := e.route.client().Compact(ctx, rev); err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
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
	switch {
	case errors.Is(context.Cause(ctx), errSilent):
		return &vortex.Error{Kind: vortex.Unavailable, Msg: "the store's engine does not answer; retry", Err: fmt.Errorf("%s: %w", verb, err)}
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
