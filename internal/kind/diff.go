package kind

import (
	"bytes"
	"cmp"
	"context"
	"iter"
)

// Diff yields, in key order, what is different below prefix between two states: a record that only one of them has,
// or that has another value or expiry. However often a record changed in between, it comes once. It reads both states side by side
// and holds neither. The last pair may hold an error.
func Diff(ctx context.Context, from, to Past, prefix string) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		before, stopBefore := side(from.Prefix(ctx, prefix))
		defer stopBefore()
		after, stopAfter := side(to.Prefix(ctx, prefix))
		defer stopAfter()
		for before.err == nil && after.err == nil && (before.rec != nil || after.rec != nil) {
			ev := Event{Revision: to.Revision}
			if after.rec == nil || before.rec != nil && before.rec.Key <= after.rec.Key {
				ev.Key, ev.Prev = before.rec.Key, before.rec
			}
			if ev.Prev == nil || after.rec != nil && after.rec.Key == ev.Key {
				ev.Key, ev.Record = after.rec.Key, after.rec
			}
			ev.Deleted = ev.Record == nil
			if !same(ev.Prev, ev.Record) && !yield(ev, nil) {
				return
			}
			before.pass(ev.Key)
			after.pass(ev.Key)
		}
		if err := cmp.Or(before.err, after.err); err != nil {
			yield(Event{}, err)
		}
	}
}

// reader reads one side of a difference. Its rec is nil at the end, or when err is set.
type reader struct {
	next func() (*Record, error, bool)
	rec  *Record
	err  error
}

// side begins to read one side. Call stop at the end.
func side(records iter.Seq2[*Record, error]) (r *reader, stop func()) {
	next, stop := iter.Pull2(records)
	r = &reader{next: next}
	r.rec, r.err, _ = next()
	return r, stop
}

// pass goes on to the next record when the side stands at key.
func (r *reader) pass(key string) {
	if r.rec != nil && r.rec.Key == key {
		r.rec, r.err, _ = r.next()
	}
}

// same reports whether two records say the same.
func same(a, b *Record) bool {
	return a != nil && b != nil && a.ExpiresAt == b.ExpiresAt && bytes.Equal(a.Value, b.Value)
}
