package kindrpc

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"google.golang.org/grpc"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/engine"
	kindpb "vortex/proto/kind"
)

// A store on another machine stands on these calls. It either holds what some selections name, which is served from this server's
// memory, or everything, the store's own keys included, which is passed on as the engine has it.

// Index implements the wire contract.
func (s *Service) Index(ctx context.Context, req *kindpb.IndexRequest) (*kindpb.IndexResponse, error) {
	if _, err := s.authorize(ctx); err != nil {
		return nil, s.fail(err)
	}
	if !req.GetLocal() {
		if err := s.Store.Sync(ctx); err != nil {
			return nil, s.fail(err)
		}
	}
	return &kindpb.IndexResponse{Revision: uint64(s.Store.Revision()), Stale: s.Store.Stale(), Relayed: s.relayed()}, nil
}

// relayed reports whether what this server has is passed on to it by others.
func (s *Service) relayed() bool {
	e, ok := s.Store.Engine().(interface{ Relayed() bool })
	return ok && e.Relayed()
}

// relay checks what a store on another machine asks for.
func (s *Service) relay(ctx context.Context, in []*kindpb.Selection) (access, []kind.Selection, error) {
	acc, err := s.authorize(ctx)
	if err != nil {
		return acc, nil, err
	}
	if len(in) == 0 {
		return acc, nil, s.whole(acc)
	}
	selections := make([]kind.Selection, len(in))
	for i, sel := range in {
		selections[i] = kind.Selection{Prefix: string(sel.GetPrefix())}
		if f := sel.GetFilter(); f != nil {
			selections[i].Filter = &kind.Filter{Field: f.GetField(), Value: f.GetValue()}
		}
		if via := sel.GetVia(); via != nil {
			selections[i].Via = &kind.Via{Prefix: string(via.GetPrefix()), Fields: via.GetFields()}
		}
		if err := acc.scan(selections[i].Prefix); err != nil {
			return acc, nil, err
		}
	}
	return acc, selections, s.Store.CheckSelections(selections)
}

// whole refuses to pass on everything to who may not read it, and from where it is itself passed on: servers that followed each
// other would all wait for the same news.
func (s *Service) whole(acc access) error {
	if err := acc.admin("follow the whole store"); err != nil {
		return err
	}
	if s.relayed() {
		return vortex.Errorf(vortex.Unavailable, "this server keeps no store of its own; follow one that does")
	}
	return nil
}

const (
	partEntries = 1000    // in one RangePart at most
	partSize    = 1 << 20 // of keys and values in one, unless a single record is larger
)

// Range implements the wire contract.
func (s *Service) Range(req *kindpb.RangeRequest, stream grpc.ServerStreamingServer[kindpb.RangePart]) error {
	ctx := stream.Context()
	acc, selections, err := s.relay(ctx, req.GetSelections())
	if err != nil {
		return s.fail(err)
	}
	rev, err := revision(req.GetAtRevision())
	if err != nil {
		return s.fail(err)
	}
	out := s.outlet(stream)
	return out.run(func() error {
		entries := s.entries(ctx, req, selections, &rev)
		if selections != nil && rev == 0 {
			if entries, err = s.selected(ctx, req, selections, &rev); err != nil {
				return s.fail(err)
			}
		}
		return s.sendRange(out, entries, acc, &rev)
	})
}

// selected reads from memory, as new as the engine.
func (s *Service) selected(ctx context.Context, req *kindpb.RangeRequest, selections []kind.Selection, rev *int64) (iter.Seq2[*kindpb.Entry, error], error) {
	if err := s.Store.Sync(ctx); err != nil {
		return nil, err
	}
	found, at := s.Store.Select(selections, string(req.GetLo()), string(req.GetHi()))
	*rev = at
	return func(yield func(*kindpb.Entry, error) bool) {
		for _, rec := range found {
			if !yield(entry(rec), nil) {
				return
			}
		}
	}, nil
}

// entries reads from the engine: the past of some selections, or everything at any revision.
func (s *Service) entries(ctx context.Context, req *kindpb.RangeRequest, selections []kind.Selection, rev *int64) iter.Seq2[*kindpb.Entry, error] {
	lo, hi := string(req.GetLo()), string(req.GetHi())
	return func(yield func(*kindpb.Entry, error) bool) {
		if selections == nil {
			for kv, err := range s.Store.Engine().Range(ctx, lo, hi, rev) {
				e, err := rawEntry(kv, false, err)
				if !yield(e, err) || err != nil {
					return
				}
			}
			return
		}
		past, err := s.Store.At(ctx, *rev)
		if vortex.IsKind(err, vortex.Invalid) {
			err = vortex.Errorf(vortex.OutOfRange, "%w", err) // as engines say it
		}
		if err != nil {
			yield(nil, err)
			return
		}
		for rec, err := range past.SelectAt(ctx, selections, lo, hi) {
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(entry(rec), nil) {
				return
			}
		}
	}
}

// sendRange sends what the caller may read, in parts; at least one, which tells the revision.
func (s *Service) sendRange(out *outlet, entries iter.Seq2[*kindpb.Entry, error], acc access, rev *int64) error {
	var batch []*kindpb.Entry
	size, sent := 0, false
	flush := func() error {
		p := &kindpb.RangePart{Revision: uint64(*rev), Entries: batch}
		batch, size, sent = nil, 0, true
		return out.send(p)
	}
	for e, err := range entries {
		if err != nil {
			return s.fail(err)
		}
		if !acc.mayRead(string(e.GetKey())) {
			continue
		}
		length := len(e.GetKey()) + len(e.GetValue())
		if len(batch) == partEntries || len(batch) > 0 && size+length > partSize {
			if err := flush(); err != nil {
				return err
			}
		}
		batch, size = append(batch, e), size+length
	}
	if sent && len(batch) == 0 {
		return nil
	}
	return flush()
}

func entry(rec *kind.Record) *kindpb.Entry {
	return &kindpb.Entry{
		Key: []byte(rec.Key), Value: rec.Value, ExpiresAt: uint64(rec.ExpiresAt),
		CreateRevision: uint64(rec.CreateRevision), ModRevision: uint64(rec.ModRevision),
	}
}

// rawEntry translates what the engine has.
func rawEntry(kv engine.KV, deleted bool, err error) (*kindpb.Entry, error) {
	if err != nil {
		return nil, err
	}
	e := &kindpb.Entry{Key: []byte(kv.Key), CreateRevision: uint64(kv.CreateRevision), ModRevision: uint64(kv.ModRevision), Deleted: deleted}
	if deleted {
		return e, nil
	}
	value, expires, err := kind.Unseal(kv.Value)
	if err != nil {
		return nil, fmt.Errorf("record %s: %w", kv.Key, err)
	}
	e.Value, e.ExpiresAt = value, uint64(expires)
	return e, nil
}

// Follow implements the wire contract.
func (s *Service) Follow(stream grpc.BidiStreamingServer[kindpb.FollowRequest, kindpb.FollowPart]) error {
	ctx := stream.Context()
	req, err := stream.Recv()
	if err != nil {
		return err // it is the client's, in the wire's terms
	}
	acc, selections, err := s.relay(ctx, req.GetSelections())
	if err != nil {
		return s.fail(err)
	}
	from, err := revision(req.GetFromRevision())
	if err == nil && from == 0 {
		err = vortex.Errorf(vortex.Invalid, "from_revision has to say which transaction is the first wanted; Range tells the revision that its records are of")
	}
	if err != nil {
		return s.fail(err)
	}
	if selections == nil {
		return s.followEngine(ctx, stream, from)
	}
	feed, err := s.Store.Feed(ctx, selections, from, progressEvery)
	if err != nil {
		return s.fail(err)
	}
	if err := stream.SendHeader(nil); err != nil {
		feed.Close()
		return gone(err)
	}
	out := s.outlet(stream)
	out.dropped <- feed.Dropped()
	return out.run(func() error {
		defer feed.Close()
		go mark(ctx, stream, feed, req) // ends with the stream
		return s.feedAll(ctx, out, feed, acc, selections)
	})
}

// mark hands the client's wishes for marks to the feed until the stream ends.
func mark(ctx context.Context, stream grpc.BidiStreamingServer[kindpb.FollowRequest, kindpb.FollowPart], feed *kind.Feed, req *kindpb.FollowRequest) {
	for wanted := uint64(0); ; {
		if req.GetReach() > wanted {
			wanted = req.GetReach()
			if feed.Reach(ctx, int64(wanted)) != nil { //nolint:gosec // a revision beyond all is waited for until the stream ends
				return
			}
		}
		var err error
		if req, err = stream.Recv(); err != nil {
			return
		}
	}
}

// feedAll sends what the caller may see of every transaction.
func (s *Service) feedAll(ctx context.Context, out *outlet, feed *kind.Feed, acc access, selections []kind.Selection) error {
	everything := !slices.ContainsFunc(selections, func(sel kind.Selection) bool { return !acc.ReadsAll(sel.Prefix) })
	for {
		batches, err := feed.Next(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the client has gone
		}
		if err != nil {
			return s.fail(err)
		}
		for _, b := range batches {
			p := &part{revision: b.Revision, entries: make([]*packed, 0, len(b.Events))}
			for _, ev := range b.Events {
				switch {
				case !everything && !acc.mayRead(ev.Key):
				case ev.Deleted || kind.Selected(selections, ev.Record):
					p.entries = append(p.entries, encoded(ev).entry())
				default: // it was selected before
					p.entries = append(p.entries, packGone(ev.Key))
				}
			}
			if err := out.send(p); err != nil {
				return err
			}
		}
	}
}

// followEngine passes on the engine's log.
func (s *Service) followEngine(ctx context.Context, stream grpc.BidiStreamingServer[kindpb.FollowRequest, kindpb.FollowPart], from int64) error {
	newest, err := s.Store.Engine().ReadIndex(ctx)
	if err == nil && from > newest+1 {
		err = vortex.Errorf(vortex.OutOfRange, "revision %d is of the future, the newest is %d; load anew", from, newest)
	}
	if err != nil {
		return s.fail(err)
	}
	if err := stream.SendHeader(nil); err != nil {
		return gone(err)
	}
	out := s.outlet(stream)
	return out.run(func() error {
		for b, err := range s.Store.Engine().Watch(ctx, from) {
			if err != nil {
				return s.fail(err)
			}
			p := &kindpb.FollowPart{Revision: uint64(b.Revision)}
			for _, ch := range b.Changes {
				e, err := rawEntry(ch.KV, ch.Delete, nil)
				if err != nil {
					return s.fail(err)
				}
				p.Entries = append(p.Entries, e)
			}
			if err := out.send(p); err != nil {
				return err
			}
		}
		return nil
	})
}
