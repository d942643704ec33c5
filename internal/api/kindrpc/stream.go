package kindrpc

import (
	"context"
	"math"
	"time"

	"google.golang.org/grpc"

	"vortex"
	"vortex/internal/kind"
	kindpb "vortex/proto/kind"
)

const (
	opPut      = "PUT"
	opDelete   = "DELETE"
	opProgress = "PROGRESS"

	progressEvery = time.Second // how often an idle stream tells how far it is, to a client that asked for it
)

// Watch implements the wire contract.
func (s *Service) Watch(req *kindpb.WatchRequest, stream grpc.ServerStreamingServer[kindpb.WatchEvent]) error {
	ctx := stream.Context()
	acc, err := s.authorize(ctx)
	if err != nil {
		return s.fail(err)
	}
	if err := acc.scan(req.GetKeyPrefix()); err != nil {
		return s.fail(err)
	}
	opts, err := watchOptions(req)
	if err != nil {
		return s.fail(err)
	}
	watch, err := s.Store.Subscribe(ctx, opts)
	if err != nil {
		return s.fail(err)
	}
	// The header tells the client that it is subscribed: what is written from now on will be seen.
	if err := stream.SendHeader(nil); err != nil {
		watch.Close()
		return gone(err)
	}
	out := s.outlet(stream)
	out.follows(watch)
	return out.run(func() error {
		defer watch.Close()
		return s.each(ctx, watch, func(b kind.Batch) error { return sendBatch(out, b, acc, req.GetPrevious()) })
	})
}

func watchOptions(req *kindpb.WatchRequest) (kind.WatchOptions, error) {
	from, err := revision(req.GetStartRevision())
	opts := kind.WatchOptions{Prefixes: []string{req.GetKeyPrefix()}, From: from, Previous: req.GetPrevious()}
	if f := req.GetFilter(); f != nil {
		opts.Filter = &kind.Filter{Field: f.GetField(), Value: f.GetValue()}
	}
	if req.GetProgress() {
		opts.Progress = progressEvery
	}
	return opts, err
}

// revision checks a revision that a client names.
func revision(n uint64) (int64, error) {
	if n >= math.MaxInt64 {
		return 0, vortex.Errorf(vortex.Invalid, "no revision is as large as %d", n)
	}
	return int64(n), nil
}

// each calls send with every batch until ctx ends, which is no error, or the watch does.
func (s *Service) each(ctx context.Context, watch *kind.Watch, send func(kind.Batch) error) error {
	for {
		batches, err := watch.Next(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the client has gone
		}
		if err != nil {
			return s.fail(err)
		}
		for _, b := range batches {
			if err := send(b); err != nil {
				return err
			}
		}
	}
}

// sendBatch sends what the caller may see of a batch. One without events tells how far the watch is.
func sendBatch(out *outlet, b kind.Batch, acc access, previous bool) error {
	if len(b.Events) == 0 {
		return out.send(&kindpb.WatchEvent{OperationType: opProgress, Revision: uint64(b.Revision)})
	}
	for _, ev := range b.Events {
		if !acc.mayRead(ev.Key) {
			continue
		}
		var message *packed
		if previous {
			message = pack(ev, true)
		} else {
			message = encoded(ev).event()
		}
		if err := out.send(message); err != nil {
			return err
		}
	}
	return nil
}
