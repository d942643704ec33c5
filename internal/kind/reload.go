package kind

import (
	"bytes"
	"context"

	"vortex/internal/kind/engine"
)

// reload makes memory what the engine holds now, whatever happened since, and ends every watch, for nobody can tell what was
// between, unless the store bridges gaps. It is all one change to readers: they see the state before or the state after.
func (s *Store) reload(ctx context.Context) error {
	batch, err := s.difference(ctx)
	if err != nil {
		return err
	}
	before := s.Revision()
	events, err := s.state.apply(batch)
	if err != nil {
		return err
	}
	s.oldest.Store(0)
	s.gap.Store(false)
	select {
	case <-s.broken:
	default:
	}
	switch {
	case s.cfg.Bridge && batch.Revision > before:
		s.hub.bridge(Batch{Revision: batch.Revision, Time: s.state.clock.time(), Events: events})
	case s.cfg.Bridge && batch.Revision == before && len(events) == 0: // nothing was missed
	default:
		s.hub.reset(batch.Revision)
	}
	s.announce()
	s.log.WarnContext(ctx, "Store loaded anew", "revision", batch.Revision, "changes", len(batch.Changes))
	return nil
}

// difference is what makes memory the engine's state at its newest revision.
func (s *Store) difference(ctx context.Context) (batch engine.Batch, err error) {
	there := map[string]struct{}{}
	for kv, err := range s.cfg.Engine.Range(ctx, "", "", &batch.Revision) {
		if err != nil {
			return engine.Batch{}, err
		}
		there[kv.Key] = struct{}{}
		if !s.state.holds(kv) {
			batch.Changes = append(batch.Changes, engine.Change{KV: kv})
		}
	}
	for _, key := range s.state.keys() {
		if _, ok := there[key]; !ok {
			batch.Changes = append(batch.Changes, engine.Change{KV: engine.KV{Key: key}, Delete: true})
		}
	}
	return batch, nil
}

// holds reports whether memory has exactly what the engine has at a key.
func (s *state) holds(kv engine.KV) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if Hidden(kv.Key) {
		return s.hiddenRevision(kv.Key) == kv.ModRevision
	}
	rec, ok := s.records.Get(kv.Key)
	if !ok || rec.ModRevision != kv.ModRevision || rec.CreateRevision != kv.CreateRevision {
		return false
	}
	value, expires, err := unseal(kv.Value)
	return err == nil && expires == rec.ExpiresAt && bytes.Equal(value, rec.Value)
}

// keys returns every key in memory, the store's own included.
func (s *state) keys() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	keys := make([]string, 0, s.records.Len()+len(s.guards))
	s.records.Scan(func(key string, _ *Record) bool {
		keys = append(keys, key)
		return true
	})
	if s.clock.writtenAt() != 0 {
		keys = append(keys, clockKey)
	}
	for key := range s.guards {
		keys = append(keys, key)
	}
	return keys
}
