package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"vortex/internal/kind"
	"vortex/internal/kind/engine"
	"vortex/internal/kind/ksl"
)

// errDiffers says that a restored store does not hold what the backup does.
var errDiffers = errors.New("the restored store differs from the backup")

// Prove restores a state into an empty engine, opens a store on it, and compares every record.
func Prove(ctx context.Context, eng engine.Engine, s *State, schema *ksl.Schema) (Report, error) {
	report, err := Restore(ctx, eng, s, Options{Schema: schema})
	if err != nil {
		return report, err
	}
	store, err := kind.Open(ctx, kind.Config{Engine: eng, Schema: schema})
	if err != nil {
		return report, fmt.Errorf("open a store on what was restored: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { _ = store.Run(ctx) })
	if err := store.Sync(ctx); err != nil {
		return report, err
	}
	return report, compare(store.Snapshot(), s)
}

// compare tells the first difference between a store and a state. What expires meanwhile is none.
func compare(snap *kind.Snapshot, s *State) error {
	restored := make(map[string]*kind.Record, snap.Len())
	for rec := range snap.All() {
		restored[rec.Key] = rec
	}
	expired := func(rec *kind.Record) bool { return rec.ExpiresAt != 0 && rec.ExpiresAt <= snap.Taken.UnixMilli() }
	for want, err := range s.Records() {
		if err != nil {
			return err
		}
		got, ok := restored[want.Key]
		delete(restored, want.Key)
		if expired(want) {
			continue
		}
		if !ok || got.ExpiresAt != want.ExpiresAt || !bytes.Equal(got.Value, want.Value) {
			return fmt.Errorf("%w at %s", errDiffers, want.Key)
		}
	}
	for key := range restored {
		return fmt.Errorf("%w: it has %s as well", errDiffers, key)
	}
	return nil
}
