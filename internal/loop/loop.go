// Package loop is the shape that every control loop shares: watch some keys of the store, gather
// what changed, and call one function that compares wanted with observed.
//
// It guarantees that every change below the watched prefixes is followed by a tick that started after it, that
// changes made during a tick are gathered into the next one, and that a tick which failed is tried again. Nothing polls: the
// periodic full tick is a safety net only. A loop's tick must not depend on having seen every event, for
// after an overflow or an error it is told to look at everything.
package loop

import (
	"context"
	"log/slog"
	"time"

	"vortex"
	"vortex/internal/kind"
)

// Loop watches keys and calls its tick.
type Loop struct {
	Store *kind.Store
	// Prefixes select the keys whose changes cause a tick.
	Prefixes []string
	// Resync is how often a full tick happens though nothing changed; default 30 s.
	Resync time.Duration
	Log    *slog.Logger
}

// Changes are what a tick is called for: everything when Full is set, else what the events name.
type Changes struct {
	Full   bool
	Events []kind.Event
}

// Tick is one pass of a loop. It returns how long from now it wants to be called again though nothing changes, 0 for
// not at all; it is called then with no changes and has to know itself what it waited for. After an error it is
// called again with Full set.
type Tick func(ctx context.Context, changes Changes) (again time.Duration, err error)

const (
	defaultResync = 30 * time.Second
	firstRetry    = 20 * time.Millisecond
	lastRetry     = 2 * time.Second
)

// Run calls tick until ctx ends.
func (l Loop) Run(ctx context.Context, tick Tick) error {
	if l.Resync == 0 {
		l.Resync = defaultResync
	}
	watch := l.Store.Watch(kind.WatchOptions{Prefixes: l.Prefixes})
	defer func() { watch.Close() }()
	resync := time.NewTimer(l.Resync)
	defer resync.Stop()
	again := time.NewTimer(0)
	defer again.Stop()
	changes := Changes{Full: true}
	retry := firstRetry
	for ctx.Err() == nil {
		wait, err := tick(ctx, changes)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			l.Log.Log(ctx, level(err), "Pass failed", "err", err, "retry_in", retry)
			wait, retry = retry, min(2*retry, lastRetry)
		default:
			retry = firstRetry
		}
		changes = Changes{Full: err != nil}
		setTimer(again, wait)
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
		case <-resync.C:
			resync.Reset(l.Resync)
			changes.Full = true
		case <-watch.Ready():
		}
		if err := l.gather(watch, &changes); err != nil {
			watch.Close()
			if !vortex.IsKind(err, vortex.Exhausted) && !pause(ctx, firstRetry) {
				return nil // the store stops, and so shall we
			}
			watch = l.Store.Watch(kind.WatchOptions{Prefixes: l.Prefixes})
			changes.Full = true
		}
	}
	return nil
}

// level is how much an operator cares: that somebody else changed a record meanwhile is everyday.
func level(err error) slog.Level {
	if vortex.IsKind(err, vortex.Conflict) {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

// gather adds everything the watch holds to changes.
func (l Loop) gather(watch *kind.Watch, changes *Changes) error {
	batches, err := watch.Take()
	for _, b := range batches {
		changes.Events = append(changes.Events, b.Events...)
	}
	if vortex.IsKind(err, vortex.Exhausted) {
		l.Log.Warn("Loop fell behind and looks at everything again", "err", err)
	}
	return err
}

// pause waits for d and reports whether ctx still lives.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// setTimer makes t fire once after d, or never when d is 0.
func setTimer(t *time.Timer, d time.Duration) {
	t.Stop()
	if d > 0 {
		t.Reset(d)
	}
}
