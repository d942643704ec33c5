package bundle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"vortex/internal/runtime/shim"
)

// Open finds the instances below cfg.Dir, which it makes when it is missing, and begins to wait for their exits; Close ends that.
// What a killed agent left half started is cleaned up.
func Open(ctx context.Context, cfg Config) (*Set, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make instances directory: %w", err)
	}
	dirs, err := os.ReadDir(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("read instances directory: %w", err)
	}
	s := &Set{cfg: cfg, entries: map[string]*entry{}}
	for _, d := range dirs {
		e := newEntry(d.Name(), filepath.Join(cfg.Dir, d.Name()))
		running, err := s.adopt(e)
		if err != nil {
			cfg.Log.InfoContext(ctx, "Instance discarded", "instance", e.id, "err", err)
			s.discard(ctx, e)
			continue
		}
		s.entries[e.id] = e
		if !running {
			s.ended(e)
			continue
		}
		s.waits.Go(func() { s.await(e) })
	}
	return s, nil
}

// adopt reads an instance's directory and reports whether the instance runs. It fails when no driver ever reported that
// instance as started.
func (s *Set) adopt(e *entry) (running bool, err error) {
	b, err := os.ReadFile(e.recordPath())
	if err != nil {
		return false, errors.Join(errHalf, err)
	}
	if err := json.Unmarshal(b, &e.rec); err != nil {
		return false, errors.Join(errHalf, err)
	}
	inst, running, err := shim.Attach(e.dir)
	if err != nil {
		return false, errors.Join(errHalf, err)
	}
	if !running && inst.PID == 0 {
		return false, errHalf
	}
	e.inst = inst
	close(e.started)
	return running, nil
}
