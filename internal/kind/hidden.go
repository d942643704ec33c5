package kind

import (
	"strings"

	"vortex/internal/kind/engine"
)

// Keys that the engine holds for the store's own use. Readers, watchers and backups never see them, and no
// transaction may name them.
const (
	guardPrefix = "vortex:unique:" // see unique.go
	clockKey    = "vortex:clock"   // see clock.go

	// unfinishedKey is there while the engine's content is being replaced. A store does not open on it; see restore.go.
	unfinishedKey = "vortex:unfinished"
)

// Hidden reports whether a key is the store's own.
func Hidden(key string) bool {
	return key == clockKey || key == unfinishedKey || strings.HasPrefix(key, guardPrefix)
}

// takeHidden takes in a change of one of the store's own keys, and reports whether it is one.
func (s *state) takeHidden(kv engine.KV) bool {
	switch {
	case kv.Key == clockKey:
		s.clock.take(kv)
	case strings.HasPrefix(kv.Key, guardPrefix) && kv.ModRevision == 0:
		delete(s.guards, kv.Key) // only what is loaded anew loses one
	case strings.HasPrefix(kv.Key, guardPrefix):
		s.guards[kv.Key] = kv.ModRevision
	case kv.Key == unfinishedKey: // it concerns who opens a store
	default:
		return false
	}
	return true
}

// hiddenRevision returns the revision of one of the store's own keys as memory has it, 0 when it is not there.
func (s *state) hiddenRevision(key string) int64 {
	if key == clockKey {
		return s.clock.writtenAt()
	}
	return s.guards[key]
}
