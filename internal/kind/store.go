package kind

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"vortex/internal/kind/engine"
	"vortex/internal/kind/ksl"
)

// Config says what a Store stands on.
type Config struct {
	// Engine keeps the data. The store does not close it.
	Engine engine.Engine
	// Schema types the keys below its prefixes; nil leaves every key opaque.
	Schema *ksl.Schema
	// MaxKeyBytes and MaxValueBytes bound a record; defaults 1024 and 1.5 MiB.
	MaxKeyBytes, MaxValueBytes int
	// WatchBuffer is how many batches a watcher may lag behind before it is dropped; default 4096.
	WatchBuffer int
	// Log receives what an operator would act on; nil discards.
	Log *slog.Logger
}

const (
	defaultMaxKey      = 1024
	defaultMaxValue    = 3 << 19
	defaultWatchBuffer = 4096
)

// Store is the cluster's state: typed records in memory, fed by the engine's log.
// All methods are safe for concurrent use. Open fills it, Run keeps it current.
type Store struct {
	cfg   Config
	log   *slog.Logger
	state *state
	hub   *hub

	stale   atomic.Bool   // the engine does not answer now
	gap     atomic.Bool   // memory cannot go on from where it is: it has to be loaded anew
	oldest  atomic.Int64  // a revision before which nothing is kept, as far as was asked
	lost    chan struct{} // one slot: stale was set
	broken  chan struct{} // one slot: gap was set
	applied chan struct{} // closed and replaced at every applied batch, under appliedMu

	appliedMu sync.Mutex
	loaded    int64 // the revision of the last load, under the hub's lock
}

// Open reads the engine's current records. The store answers reads from then on; Run must be
// running for writes to return and for watchers to see anything.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	s := &Store{cfg: cfg, log: cfg.Log, applied: make(chan struct{}), lost: make(chan struct{}, 1), broken: make(chan struct{}, 1)}
	if s.cfg.MaxKeyBytes == 0 {
		s.cfg.MaxKeyBytes = defaultMaxKey
	}
	if s.cfg.MaxValueBytes == 0 {
		s.cfg.MaxValueBytes = defaultMaxValue
	}
	if s.cfg.WatchBuffer == 0 {
		s.cfg.WatchBuffer = defaultWatchBuffer
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.cfg.Schema == nil {
		s.cfg.Schema = &ksl.Schema{}
	}
	s.state = newState(s.cfg.Schema)
	s.hub = newHub(s.cfg.WatchBuffer)
	if err := s.load(ctx); err != nil {
		return nil, fmt.Errorf("load store: %w", err)
	}
	return s, nil
}

// load reads every record at one revision into an empty state.
func (s *Store) load(ctx context.Context) error {
	var rev int64
	fresh := newState(s.cfg.Schema)
	for kv, err := range s.cfg.Engine.Range(ctx, "", "", &rev) {
		if err != nil {
			return err
		}
		if fresh.takeHidden(kv) {
			continue
		}
		rec, err := fresh.record(kv)
		if err != nil {
			return err
		}
		fresh.replace(kv.Key, rec)
	}
	fresh.rev = rev
	fresh.takeSchemas()
	for fresh.build() { // nobody waits yet
	}
	s.state, s.loaded = fresh, rev
	return nil
}

// Revision returns the newest revision whose changes this store has taken in.
func (s *Store) Revision() int64 {
	s.state.mu.RLock()
	defer s.state.mu.RUnlock()
	return s.state.rev
}

// announce wakes everybody who waits for a revision.
func (s *Store) announce() {
	s.appliedMu.Lock()
	defer s.appliedMu.Unlock()
	close(s.applied)
	s.applied = make(chan struct{})
}

// WaitFor returns when the store has taken in rev.
func (s *Store) WaitFor(ctx context.Context, rev int64) error {
	for {
		s.appliedMu.Lock()
		applied := s.applied
		s.appliedMu.Unlock()
		if s.Revision() >= rev {
			return nil
		}
		select {
		case <-applied:
		case <-ctx.Done():
			return fmt.Errorf("wait for revision %d: %w", rev, context.Cause(ctx))
		}
	}
}

// nowMillis is the clock that expiry is judged by.
func nowMillis() int64 { return time.Now().UnixMilli() }
