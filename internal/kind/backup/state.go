package backup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"time"

	"vortex"
	"vortex/internal/kind"
)

// State is what a snapshot, with the log after it, says that a store was at a moment. Everything it
// stands on was read and checked.
type State struct {
	// Revision is the last transaction in it, and Time when that happened.
	Revision int64
	Time     time.Time
	// Snapshot is the file it begins with, Transactions how many of the log were applied to it.
	Snapshot     string
	Transactions int
	// Passed are damaged files that were newer, and not needed.
	Passed []error

	changes map[string]*kind.Record // by key, nil where it was deleted
}

// OpenFile checks a snapshot file and returns the state it holds.
func OpenFile(path string) (*State, error) {
	summary, err := Verify(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, vortex.Errorf(vortex.NotFound, "no snapshot at %s", path)
	}
	if err != nil {
		return nil, err
	}
	return &State{Revision: summary.Revision, Time: summary.Time, Snapshot: path}, nil
}

// OpenDir returns the state at a moment: the newest snapshot that is not after it, and what the log tells of
// the time between. A snapshot that is damaged is passed over where the log leads to the moment from one before.
func OpenDir(dir string, m Moment) (*State, error) {
	c, err := List(dir)
	if err != nil {
		return nil, err
	}
	return c.State(m)
}

// State returns the state at a moment.
func (c *Catalog) State(m Moment) (*State, error) {
	var first *SnapshotFile
	var passed []error
	for _, snap := range c.Snapshots {
		if m.before(snap.Time, snap.Revision) || first != nil && !snap.leadsTo(*first) && !m.searches(passed) {
			continue
		}
		if first == nil {
			first = &snap
		}
		state, err := c.replay(snap, m)
		if err == nil && state.Revision < first.Revision && !m.before(first.Time, first.Revision) && snap.leadsTo(*first) {
			err = fmt.Errorf("what follows from %s ends before %s", snap.Path, first.Path)
		}
		if err == nil {
			state.Passed = passed
			return state, nil
		}
		passed = append(passed, err)
	}
	if len(passed) > 0 {
		return nil, errors.Join(passed...)
	}
	return nil, c.none(m)
}

// none says that there is no snapshot to begin with.
func (c *Catalog) none(m Moment) error {
	if len(c.Snapshots) == 0 {
		return errors.Join(append(c.Damaged, vortex.Errorf(vortex.NotFound, "no snapshot in %s", c.Dir))...)
	}
	oldest := c.Snapshots[len(c.Snapshots)-1]
	return vortex.Errorf(vortex.NotFound, "no snapshot in %s is as old as %s; the oldest is of %s, revision %d",
		c.Dir, m, oldest.Time.Local().Format(time.RFC3339), oldest.Revision)
}

// leadsTo reports whether the log that goes on from a snapshot may pass another one.
func (f SnapshotFile) leadsTo(other SnapshotFile) bool {
	return f.Log != "" && (f.Log == other.Log || other.headless && f.Revision <= other.Revision)
}

// searches reports whether other logs may know the revision, because those looked at do not reach it.
func (m Moment) searches(passed []error) bool {
	return m.Revision != 0 && len(passed) > 0 && vortex.IsKind(passed[len(passed)-1], vortex.OutOfRange)
}

// replay reads a snapshot and applies the log up to a moment.
func (c *Catalog) replay(snap SnapshotFile, m Moment) (*State, error) {
	s, err := OpenFile(snap.Path)
	if err != nil {
		return nil, err
	}
	s.changes = map[string]*kind.Record{}
	if snap.Log != "" {
		for _, f := range c.after(snap.Log, s.Revision) {
			done, err := s.apply(f, m)
			if err != nil {
				return nil, fmt.Errorf("%w\nwhat was before can be restored: --at %d", err, s.Revision)
			}
			if done {
				return s, nil
			}
		}
	}
	if s.Revision < m.Revision {
		return nil, vortex.Errorf(vortex.OutOfRange, "revision %d is not in %s; what follows from %s ends at revision %d", m.Revision, c.Dir, snap.Path, s.Revision)
	}
	return s, nil
}

// apply takes in a segment's transactions up to a moment, and reports whether the moment was passed.
func (s *State) apply(f segmentFile, m Moment) (done bool, err error) {
	if m.Revision != 0 && m.Revision <= s.Revision {
		return true, nil
	}
	if f.After > s.Revision {
		return false, vortex.Errorf(vortex.NotFound, "the log lacks the transactions after revision %d: the next file, %s, begins after %d", s.Revision, f.path, f.After)
	}
	_, err = f.read(func(t txn) bool {
		if done = m.before(t.time, t.revision); done {
			return false
		}
		if t.revision > s.Revision {
			s.take(t)
		}
		return true
	})
	return done, err
}

func (s *State) take(t txn) {
	s.Revision, s.Time = t.revision, t.time
	s.Transactions++
	if s.changes == nil {
		return // only the span is asked for
	}
	for _, ch := range t.changes {
		if ch.rec != nil {
			ch.rec.Value = bytes.Clone(ch.rec.Value) // it keeps a whole frame in memory
		}
		s.changes[ch.key] = ch.rec
	}
}

// Records yields every record of the state, expired ones included: those of the snapshot in
// key order, then those that only the log has.
func (s *State) Records() iter.Seq2[*kind.Record, error] {
	return func(yield func(*kind.Record, error) bool) {
		seen := make(map[string]struct{}, len(s.changes))
		for rec, err := range readSnapshot(s.Snapshot) {
			if err != nil {
				yield(nil, err)
				return
			}
			newer, changed := s.changes[rec.Key]
			if changed {
				seen[rec.Key] = struct{}{}
				rec = newer
			}
			if rec != nil && !yield(rec, nil) {
				return
			}
		}
		for key, rec := range s.changes {
			if _, told := seen[key]; told || rec == nil {
				continue
			}
			if !yield(rec, nil) {
				return
			}
		}
	}
}
