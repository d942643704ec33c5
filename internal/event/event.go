// Package event records what happened, and what caused it, for `vortex events`, the API and `why`.
//
// Recording never delays or fails the part that records: events are written in batches by the recorder's own goroutine,
// and when the store does not take them for long the oldest are dropped and counted.
package event

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"vortex"
	"vortex/internal/kind"
)

const (
	retention  = 24 * time.Hour
	maxPending = 10_000
	maxBatch   = 500
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
				r.Log.Warn("Events not written yet", "err", err)
				select {
				case <-ctx.Done():
				case <-time.After(retryAfter):
				}
			}
		}
	}
}

// flush writes one batch and returns how many events it held.
func (r *Recorder) flush(ctx context.Context) (int, error) {
	r.mu.Lock()
	batch := r.pending[:min(len(r.pending), maxBatch)]
	dropped := r.dropped
	r.dropped = 0
	r.mu.Unlock()
	if dropped > 0 {
		r.Log.Error("Events dropped because the store did not take them", "count", dropped)
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
	if _, err := r.Store.Commit(ctx, kind.Txn{Ops: ops}); err != nil {
		return 0, fmt.Errorf("write events: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending = r.pending[min(len(batch), len(r.pending)):]
	return len(batch), nil
}

// NewID returns an id that sorts by time: milliseconds in hex, and eight random digits.
func NewID(at time.Time) string {
	var random [4]byte
	_, _ = rand.Read(random[:])
	return strings.ToLower(fmt.Sprintf("%012x", at.UnixMilli())) + hex.EncodeToString(random[:])
}
