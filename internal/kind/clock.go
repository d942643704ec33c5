package kind

import (
	"context"
	"slices"
	"sync"
	"time"

	"vortex"
	"vortex/internal/kind/engine"
)

// markEvery is how old the newest mark may grow before a transaction brings a new one. It is how exact
// the time of a revision is while much is written; after a pause it is exact to the millisecond.
const markEvery = 100 * time.Millisecond

// clock knows when revisions happened. A transaction that finds the newest mark too old writes the time to the hidden
// clockKey as well, so that knowing it costs no transaction of its own, on any engine. A mark is never older than
// the one before: a server whose clock is behind writes none, and of two that write one at the same time one loses.
type clock struct {
	mu       sync.Mutex
	newest   int64 // Unix milliseconds of the newest mark taken in; 0 before the first
	revision int64 // at which it was written
	writer   string
	others   int64 // the newest mark of another server; 0 before the first
	tried    int64 // when a transaction last took a mark along
	pace     pace
}

// take takes in a mark.
func (c *clock) take(kv engine.KV) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := readMark(kv.Value)
	c.newest, c.revision, c.writer = m.millis, kv.ModRevision, m.writer
	switch m.writer {
	case "":
	case c.pace.name:
		c.others = max(c.others, m.others)
	default:
		c.others = max(c.others, m.millis)
	}
	c.catchUp(m.millis)
}

// writtenAt returns the revision of the newest mark.
func (c *clock) writtenAt() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.revision
}

// time returns the newest mark, the zero time before the first.
func (c *clock) time() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return moment(c.newest)
}

// stamp adds a mark to a transaction that writes, when one is due at now, and reports whether it did.
func (c *clock) stamp(txn engine.Txn, now int64) (engine.Txn, bool) {
	if len(txn.Writes) == 0 {
		return txn, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	latest := c.newest
	if c.tried <= now { // else our clock was set back since
		latest = max(latest, c.tried)
	}
	if now-latest < markEvery.Milliseconds() {
		return txn, false
	}
	c.tried = now
	return c.marked(txn, now), true
}

// marked is the transaction with a mark. The caller holds the lock.
func (c *clock) marked(txn engine.Txn, now int64) engine.Txn {
	m := mark{millis: now, writer: c.pace.name, others: c.others}
	return engine.Txn{
		Compares: append(slices.Clip(txn.Compares), engine.Compare{Key: clockKey, ModRevision: c.revision}),
		Writes:   append(slices.Clip(txn.Writes), engine.Write{Key: clockKey, Value: seal(m.text(), 0)}),
	}
}

// commit passes a transaction to the engine, with the time when that is due. Every write of the store goes this way.
func (s *Store) commit(ctx context.Context, txn engine.Txn) (engine.Result, error) {
	s.state.clock.steer()
	marked, due := s.state.clock.stamp(txn, s.now())
	result, err := s.cfg.Engine.Commit(ctx, marked)
	if due && (err == nil && !result.Committed || vortex.IsKind(err, vortex.Invalid)) {
		// Another server may have written the mark just now, or there is no room for one write more.
		return s.cfg.Engine.Commit(ctx, txn)
	}
	return result, err
}

// markTime reads the time of a mark, 0 when it is none.
func markTime(envelope []byte) int64 { return readMark(envelope).millis }

// moment is a time in Unix milliseconds; 0 is not known.
func moment(millis int64) time.Time {
	if millis == 0 {
		return time.Time{}
	}
	return time.UnixMilli(millis)
}

// markAt returns the newest mark at a revision, 0 when there is none.
func (s *Store) markAt(ctx context.Context, rev int64) (millis int64, err error) {
	for kv, err := range s.cfg.Engine.Range(ctx, clockKey, clockKey+"\x00", &rev) {
		if err != nil {
			return 0, err
		}
		millis = markTime(kv.Value)
	}
	return millis, nil
}

// TimeOf returns when a revision happened: never later than it did, and at most a tenth of a second earlier. It is the zero time for
// what was written before the store kept the time. A revision that is not kept any more is
// OutOfRange, one that has not happened Invalid.
func (s *Store) TimeOf(ctx context.Context, rev int64) (time.Time, error) {
	if err := s.checkRevision(ctx, rev); err != nil {
		return time.Time{}, err
	}
	millis, err := s.markAt(ctx, rev)
	if err != nil {
		return time.Time{}, s.pastError(ctx, rev, err)
	}
	return moment(millis), nil
}

// RevisionAt returns the newest revision that is not later than t. A time before the oldest revision kept is OutOfRange,
// one in the future Invalid.
func (s *Store) RevisionAt(ctx context.Context, t time.Time) (int64, error) {
	if t.After(s.Now().Add(futureSlack)) {
		return 0, vortex.Errorf(vortex.Invalid, "%s has not come yet; name a time in the past", t.Format(time.RFC3339))
	}
	if err := s.Sync(ctx); err != nil {
		return 0, err
	}
	later := s.Revision() + 1 // the first revision known to be later than t
	low, err := s.Oldest(ctx)
	if err != nil {
		return 0, err
	}
	millis := t.UnixMilli()
	mark, err := s.markAt(ctx, low)
	if err != nil {
		return 0, s.noticed(err)
	}
	if mark > millis {
		return 0, vortex.Errorf(vortex.OutOfRange, "the history kept begins at %s, revision %d; name a later time",
			moment(mark).UTC().Format(time.RFC3339Nano), low)
	}
	for low+1 < later {
		mid := low + (later-low)/2
		mark, err := s.markAt(ctx, mid)
		if err != nil {
			return 0, s.noticed(err)
		}
		if mark <= millis {
			low = mid
		} else {
			later = mid
		}
	}
	return low, nil
}

// futureSlack is how far the clock of who names a time may be ahead of ours.
const futureSlack = 5 * time.Second
