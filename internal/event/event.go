// Package event records what happened, and what caused it, for `vortex events`, the API and `why`.
//
// Recording never delays or fails the part that records: events are written in batches by the recorder's own goroutine,
// and when the store does not take them for long the oldest are dropped and counted.
package event

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"vortex"
	"vortex/internal/kind"
)

const (
	retention  = 24 * time.Hour
	maxPending = 10_000
	maxBatch   = 100 // an external etcd takes 128 writes in a transaction unless told otherwise
	retryAfter = time.Second
)

// Recorder writes events into the store.
type Recorder struct {
	Store *kind.Store
	Log   *slog.Logger

	mu      sync.Mutex
	pending []vortex.EventRecord
	dropped int
	dirty   chan struct{}
	once    sync.Once
}

// Record queues an event. ID, time and severity are filled in when they are missing.
func (r *Recorder) Record(ev vortex.EventRecord) {
	if ev.At.IsZero() {
		ev.At = time.Now()
	}
	ev.At = ev.At.UTC()
	if ev.ID == "" {
		ev.ID = NewID(ev.At)
	}
	if ev.Severity == "" {
		ev.Severity = vortex.SeverityInfo
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.pending) >= maxPending {
		r.pending = r.pending[1:]
		r.dropped++
	}
	r.pending = append(r.pending, ev)
	select {
	case r.wake() <- struct{}{}:
	default:
	}
}

// wake returns the channel that tells Run of new events.
func (r *Recorder) wake() chan struct{} {
	r.once.Do(func() { r.dirty = make(chan struct{}, 1) })
	return r.dirty
}

// Run writes queued events until ctx ends.
func (r *Recorder) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake():
		}
		for ctx.Err() == nil {
			n, err := r.flush(ctx)
			if err == nil && n == 0 {
				break
			}
			if err != nil && ctx.Err() == nil {
				r.Log.WarnContext(ctx, "Events not written yet", "err", err)
				select {
				case <-ctx.Done():
				case <-time.After(retryAfter):
				}
			}
		}
	}
}

// flush writes one batch and returns how many events it held. What the store does not take is queued again.
func (r *Recorder) flush(ctx context.Context) (int, error) {
	batch, dropped := r.take()
	if dropped > 0 {
		r.Log.ErrorContext(ctx, "Events dropped because the store did not take them", "count", dropped)
	}
	if len(batch) == 0 {
		return 0, nil
	}
	ops := make([]kind.Op, len(batch))
	for i := range batch {
		op, err := kind.PutOp(vortex.Events, &batch[i], batch[i].ID)
		if err != nil {
			return 0, err
		}
		op.TTL = retention
		ops[i] = op
	}
	_, err := r.Store.Commit(ctx, kind.Txn{Ops: ops})
	switch {
	case err == nil:
		return len(batch), nil
	case vortex.IsKind(err, vortex.Invalid):
		return 0, fmt.Errorf("events that the store refuses are dropped: %w", err)
	default:
		r.giveBack(batch)
		return 0, fmt.Errorf("write events: %w", err)
	}
}

// take removes the oldest events from the queue, and tells how many were dropped since the last time.
func (r *Recorder) take() (batch []vortex.EventRecord, dropped int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	dropped, r.dropped = r.dropped, 0
	n := min(len(r.pending), maxBatch)
	batch = slices.Clone(r.pending[:n])
	r.pending = r.pending[n:]
	return batch, dropped
}

// giveBack queues events again before those that came meanwhile, as far as there is room.
func (r *Recorder) giveBack(batch []vortex.EventRecord) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending = append(batch, r.pending...)
	if over := len(r.pending) - maxPending; over > 0 {
		r.pending = r.pending[over:]
		r.dropped += over
	}
}

// sequence orders the events of one millisecond.
var sequence atomic.Uint32

// NewID returns an id that sorts by time: milliseconds in hex, four digits that count, and four that are random.
func NewID(at time.Time) string {
	var random [2]byte
	_, _ = rand.Read(random[:])
	return fmt.Sprintf("%012x%04x%x", at.UnixMilli(), uint16(sequence.Add(1)), random)
}
