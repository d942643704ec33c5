package client

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	"vortex"
	kindpb "vortex/proto/kind"
)

// KeyChange is a change of one key, as Watch and Follow yield it.
type KeyChange struct {
	Key       string
	Value     []byte // nil when it was deleted
	Old       []byte // what stood there before, where WatchOptions.Previous asked for it and it is known
	Deleted   bool
	Progress  bool      // no change: everything up to Revision was yielded
	ExpiresAt time.Time // zero: never
	Revision  uint64
}

// WatchOptions select changes. The zero value is every change from now on.
type WatchOptions struct {
	// From replays every change from this revision on first; 0 starts now.
	From uint64
	// Filter selects the changes of records that match it, or matched it before. Below a typed prefix its field must be indexed.
	Filter *Filter
	// Previous asks for Old.
	Previous bool
	// Progress asks for markers that tell how far the watch is.
	Progress bool
	// Broken, when set, is told each time Follow lost the server and is about to connect again.
	Broken func(error)
}

// Watch yields every change of keys that start with prefix until ctx ends or the watch breaks; the last pair then
// holds the error. From replays every change from that revision on first; 0 starts now.
func (k *Kind) Watch(ctx context.Context, prefix string, from uint64) iter.Seq2[KeyChange, error] {
	return k.watch(ctx, &kindpb.WatchRequest{KeyPrefix: &prefix, StartRevision: from})
}

func (k *Kind) watch(ctx context.Context, req *kindpb.WatchRequest) iter.Seq2[KeyChange, error] {
	return func(yield func(KeyChange, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := k.client.Watch(ctx, req)
		if err != nil {
			yield(KeyChange{}, k.fail(ctx, err))
			return
		}
		for {
			ev, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(KeyChange{}, k.fail(ctx, err))
				return
			}
			if !yield(keyChange(ev), nil) {
				return
			}
		}
	}
}

func keyChange(ev *kindpb.WatchEvent) KeyChange {
	ch := KeyChange{
		Key: ev.GetKey(), Value: ev.GetNewValue(), Old: ev.GetOldValue(), Revision: ev.GetRevision(),
		Deleted: ev.GetOperationType() == "DELETE", Progress: ev.GetOperationType() == "PROGRESS",
	}
	if ms := ev.GetExpiresAt(); ms != 0 {
		ch.ExpiresAt = time.UnixMilli(int64(ms)) //nolint:gosec // moments of this era
	}
	return ch
}

// Follow is a Watch that outlives its connection: once it was heard from, a server that goes away, restarts or drops the
// watch is connected to again, and the watch resumes where it was, without a gap and without a repetition. It ends
// with ctx, or with an error that trying again does not help, such as OutOfRange when the server no longer keeps what
// was missed.
func (k *Kind) Follow(ctx context.Context, prefix string, opts WatchOptions) iter.Seq2[KeyChange, error] {
	return func(yield func(KeyChange, error) bool) {
		at := position{from: opts.From, seen: map[string]struct{}{}}
		for wait := firstWait; ; wait = min(2*wait, lastWait) {
			heard, done, err := k.followOnce(ctx, prefix, opts, &at, yield)
			if done {
				return
			}
			if heard {
				wait = firstWait
			}
			if ctx.Err() != nil || !at.heard || !passing(err) {
				yield(KeyChange{}, err)
				return
			}
			if opts.Broken != nil {
				opts.Broken(err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
		}
	}
}

// The pauses before Follow connects again.
const (
	firstWait = 100 * time.Millisecond
	lastWait  = 3 * time.Second
)

// passing reports whether what an error tells of may be over when it is tried again.
func passing(err error) bool {
	return vortex.IsKind(err, vortex.Unavailable) || vortex.IsKind(err, vortex.Exhausted)
}

// position is how far a watch has come.
type position struct {
	heard bool
	from  uint64              // the revision to ask for next
	seen  map[string]struct{} // the keys of that revision that were seen already
}

// takes notes a change and reports whether it is new.
func (p *position) takes(ch KeyChange) bool {
	p.heard = true
	if ch.Progress {
		if ch.Revision >= p.from {
			p.from = ch.Revision + 1
			clear(p.seen)
		}
		return true
	}
	if ch.Revision != p.from {
		p.from = ch.Revision
		clear(p.seen)
	}
	_, twice := p.seen[ch.Key]
	p.seen[ch.Key] = struct{}{}
	return !twice
}

// followOnce watches from a position until that breaks. done is true when the consumer wants no more.
func (k *Kind) followOnce(ctx context.Context, prefix string, opts WatchOptions, at *position, yield func(KeyChange, error) bool) (heard, done bool, err error) {
	req := &kindpb.WatchRequest{KeyPrefix: &prefix, StartRevision: at.from, Previous: opts.Previous, Progress: true}
	if f := opts.Filter; f != nil {
		req.Filter = &kindpb.ScanFilter{Field: f.Field, Value: f.Value}
	}
	for ch, err := range k.watch(ctx, req) {
		if err != nil {
			return heard, false, err
		}
		heard = true
		if !at.takes(ch) || ch.Progress && !opts.Progress {
			continue
		}
		if !yield(ch, nil) {
			return heard, true, nil
		}
	}
	return heard, false, vortex.Errorf(vortex.Unavailable, "the server ended the watch")
}
