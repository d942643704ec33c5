package kind

import (
	"context"
	"fmt"
	"log/slog"
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
	// WatchBuffer and WatchBytes are how many batches, and bytes of values, a watcher may lag behind
	// before it is dropped; defaults 4096 and 16 MiB.
	WatchBuffer, WatchBytes int
	// Bridge lets watches outlive a gap in the engine's log: what is different after it comes as one transaction. Without it
	// they end with OutOfRange, for their readers may count on every transaction.
	Bridge bool
	// Name is this server's, which no two may share. Servers that share an engine need one to agree on the time.
	Name string
	// Wall is this server's clock; nil is the machine's.
	Wall func() time.Time
	// KeepExpired is for a store that has a part of the records only: it does not know the time that the servers agree on, so what has
	// expired is there until its deletion comes.
	KeepExpired bool
	// Log receives what an operator would act on; nil discards.
	Log *slog.Logger
}

const (
	defaultMaxKey      = 1024
	defaultMaxValue    = 3 << 19
	defaultWatchBuffer = 4096
	defaultWatchBytes  = 16 << 20
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
	waiters waiters       // for revisions that memory has not taken in yet
}

// Open reads the engine's current records. The store answers reads from then on; Run must be
// running for writes to return and for watchers to see anything.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	s := &Store{cfg: cfg, log: cfg.Log, lost: make(chan struct{}, 1), broken: make(chan struct{}, 1)}
	if s.cfg.MaxKeyBytes == 0 {
		s.cfg.MaxKeyBytes = defaultMaxKey
	}
	if s.cfg.MaxValueBytes == 0 {
		s.cfg.MaxValueBytes = defaultMaxValue
	}
	if s.cfg.WatchBuffer == 0 {
		s.cfg.WatchBuffer = defaultWatchBuffer
	}
	if s.cfg.WatchBytes == 0 {
		s.cfg.WatchBytes = defaultWatchBytes
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.cfg.Schema == nil {
		s.cfg.Schema = &ksl.Schema{}
	}
	if s.cfg.Wall == nil {
		s.cfg.Wall = time.Now
	}
	s.state = newState(s.cfg.Schema)
	s.hub = newHub(lag{int64(s.cfg.WatchBuffer), int64(s.cfg.WatchBytes)})
	if err := s.load(ctx); err != nil {
		return nil, fmt.Errorf("load store: %w", err)
	}
	s.startClock(ctx)
	return s, nil
}

// load reads every record at one revision into an empty state.
func (s *Store) load(ctx context.Context) error {
	var rev int64
	fresh := newState(s.cfg.Schema)
	p := &fresh.clock.pace
	p.name, p.wall, p.off = s.cfg.Name, s.cfg.Wall, s.cfg.KeepExpired
	for kv, err := range s.cfg.Engine.Range(ctx, "", "", &rev) {
		if err != nil {
			return err
		}
		if kv.Key == unfinishedKey {
			return errUnfinished
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
	for _, err := range fresh.ignored {
		s.log.WarnContext(ctx, "Stored schema ignored", "err", err)
	}
	s.state = fresh
	s.hub.reset(rev)
	return nil
}

// Revision returns the newest revision whose changes this store has taken in.
func (s *Store) Revision() int64 {
	s.state.mu.RLock()
	defer s.state.mu.RUnlock()
	return s.state.rev
}

// now is the time that expiry is judged by, in Unix milliseconds.
func (s *Store) now() int64 { return s.state.clock.pace.now() }
