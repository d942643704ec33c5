package remote

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/engine"
	kindpb "vortex/proto/kind"
)

// tries is how many servers are asked, one after the other, for what can be asked again.
const tries = 4

// ask puts a question without effect to the server in use, and to the next one when that one goes away over it.
func (e *Engine) ask(ctx context.Context, verb string, question func(context.Context, *link) error) error {
	var last error
	for range tries {
		l, changed := e.route.now()
		if l == nil {
			return e.route.away()
		}
		err := e.once(ctx, l, question)
		if err == nil {
			return nil
		}
		if last = classify(ctx, verb, err); !vortex.IsKind(last, vortex.Unavailable) {
			return last
		}
		e.route.doubtful(l)
		select {
		case <-changed:
		case <-ctx.Done():
			return classify(ctx, verb, err)
		case <-time.After(leastDoubt):
			return last
		}
	}
	return last
}

// once asks one server.
func (e *Engine) once(ctx context.Context, l *link, question func(context.Context, *link) error) error {
	l.expect()
	bound, release := l.bind(ctx)
	defer release()
	err := question(bound, l)
	if err == nil {
		l.hear()
	} else if ctx.Err() == nil && l.ctx.Err() != nil {
		return &vortex.Error{Kind: vortex.Unavailable, Msg: "the server " + l.addr + " went away", Err: context.Cause(l.ctx)}
	}
	return err
}

// ReadIndex implements engine.Engine.
func (e *Engine) ReadIndex(ctx context.Context) (rev int64, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errSilent)
	defer cancel()
	err = e.ask(ctx, "read index", func(ctx context.Context, l *link) error {
		resp, err := l.kind.Index(ctx, &kindpb.IndexRequest{})
		rev = int64(resp.GetRevision())
		return err
	})
	if err != nil {
		return 0, err
	}
	e.reach(rev)
	return rev, nil
}

// Commit implements engine.Engine.
func (e *Engine) Commit(ctx context.Context, txn engine.Txn) (engine.Result, error) {
	if err := ctx.Err(); err != nil {
		return engine.Result{}, classify(ctx, "commit", err)
	}
	req, err := request(txn)
	if err != nil {
		return engine.Result{}, err
	}
	if len(req.GetExact()) == 0 && len(req.GetWrites()) == 0 {
		rev, err := e.ReadIndex(ctx)
		return engine.Result{Committed: true, Revision: rev}, err
	}
	l, _ := e.route.now()
	if l == nil {
		return engine.Result{}, e.route.away()
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errSilent)
	defer cancel()
	var resp *kindpb.TxnResponse
	err = e.once(ctx, l, func(ctx context.Context, l *link) (err error) {
		resp, err = l.kind.Txn(ctx, req)
		return err
	})
	if err != nil {
		err = classify(ctx, "commit", err)
		if vortex.IsKind(err, vortex.Unavailable) {
			e.route.doubtful(l)
		}
		return engine.Result{}, err
	}
	rev := int64(resp.GetRevision())
	e.reach(rev)
	return engine.Result{Committed: resp.GetSuccess(), Revision: rev}, nil
}

// request translates a transaction, less what the server's own store adds to it. Lives are counted from when the server takes it: its
// clock need not be ours.
func request(txn engine.Txn) (*kindpb.TxnRequest, error) {
	req := &kindpb.TxnRequest{}
	for _, c := range txn.Compares {
		if !kind.Hidden(c.Key) {
			req.Exact = append(req.Exact, &kindpb.ExactCompare{Key: []byte(c.Key), ModRevision: uint64(c.ModRevision)})
		}
	}
	for _, w := range txn.Writes {
		if kind.Hidden(w.Key) {
			continue
		}
		write := &kindpb.KeyWrite{Key: []byte(w.Key), Deleted: w.Delete}
		if !w.Delete {
			value, expires, err := kind.Unseal(w.Value)
			if err != nil {
				return nil, err
			}
			write.Value = value
			switch {
			case w.TTL > 0:
				write.TtlMs = uint64(max(w.TTL.Milliseconds(), 1))
			case expires != 0:
				write.TtlMs = uint64(max(expires-time.Now().UnixMilli(), 1))
			}
		}
		req.Writes = append(req.Writes, write)
	}
	return req, nil
}

// Compact implements engine.Engine.
func (e *Engine) Compact(ctx context.Context, rev int64) error {
	err := e.ask(ctx, "compact", func(ctx context.Context, l *link) error {
		_, err := l.kind.Compact(ctx, &kindpb.CompactRequest{Revision: uint64(rev)})
		return err
	})
	if vortex.IsKind(err, vortex.Invalid) {
		return &vortex.Error{Kind: vortex.OutOfRange, Msg: err.Error(), Err: err} // it has not happened
	}
	return err
}

// Range implements engine.Engine. It goes on at another server, at the same revision, when one goes away in the middle.
func (e *Engine) Range(ctx context.Context, lo, hi string, rev *int64) iter.Seq2[engine.KV, error] {
	return func(yield func(engine.KV, error) bool) {
		stopped := false
		err := e.ask(ctx, "range", func(ctx context.Context, l *link) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			stream, err := l.kind.Range(ctx, &kindpb.RangeRequest{Lo: []byte(lo), Hi: []byte(hi), AtRevision: uint64(*rev), Selections: e.hold})
			if err != nil {
				return err
			}
			for {
				p, err := stream.Recv()
				if err != nil {
					return ended(err)
				}
				l.hear()
				*rev = int64(p.GetRevision())
				for _, entry := range p.GetEntries() {
					kv := keyValue(entry)
					if !yield(kv, nil) {
						stopped = true
						return nil
					}
					lo = kv.Key + "\x00" // in key order: what comes next is after it
				}
			}
		})
		if err != nil && !stopped {
			yield(engine.KV{}, err)
		}
	}
}

// keyValue translates a record into what an engine of a store's own would hold.
func keyValue(entry *kindpb.Entry) engine.KV {
	kv := engine.KV{Key: string(entry.GetKey()), CreateRevision: int64(entry.GetCreateRevision()), ModRevision: int64(entry.GetModRevision())}
	if !entry.GetDeleted() {
		kv.Value = kind.Seal(entry.GetValue(), int64(entry.GetExpiresAt()))
	}
	return kv
}

// kinds is the way back from the wire's codes.
var kinds = map[codes.Code]vortex.ErrorKind{
	codes.InvalidArgument:    vortex.Invalid,
	codes.NotFound:           vortex.NotFound,
	codes.AlreadyExists:      vortex.Exists,
	codes.Aborted:            vortex.Conflict,
	codes.FailedPrecondition: vortex.Precondition,
	codes.Unavailable:        vortex.Unavailable,
	codes.DeadlineExceeded:   vortex.Unavailable,
	codes.Canceled:           vortex.Unavailable,
	codes.PermissionDenied:   vortex.Denied,
	codes.Unauthenticated:    vortex.Unauthenticated,
	codes.ResourceExhausted:  vortex.Exhausted,
	codes.OutOfRange:         vortex.OutOfRange,
}

// classify turns an error of a call into one of the domain.
func classify(ctx context.Context, verb string, err error) error {
	switch known, ok := errors.AsType[*vortex.Error](err); {
	case errors.Is(context.Cause(ctx), errSilent):
		return &vortex.Error{Kind: vortex.Unavailable, Msg: "the servers do not answer; retry", Err: fmt.Errorf("%s: %w", verb, err)}
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", verb, context.Cause(ctx))
	case ok:
		return known
	}
	st := status.Convert(err)
	class := kinds[st.Code()]
	if class == vortex.Unavailable {
		return &vortex.Error{Kind: class, Msg: "the server does not answer; retry", Err: fmt.Errorf("%s: %w", verb, err)}
	}
	return &vortex.Error{Kind: class, Msg: st.Message(), Err: fmt.Errorf("%s: %w", verb, err)}
}
