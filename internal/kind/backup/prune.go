package backup

import (
	"errors"
	"os"
)

// prune removes all but the newest snapshots of a directory, and the segments that none of those kept needs.
func prune(dir string, keep int) error {
	c, err := List(dir)
	if err != nil {
		return err
	}
	oldest := map[string]int64{} // of the snapshots kept, by log
	var problems []error
	for n, snap := range c.Snapshots {
		if n >= keep {
			problems = append(problems, os.Remove(snap.Path))
			continue
		}
		oldest[snap.Log] = snap.Revision // they are the newest first
	}
	for log, chain := range c.segments {
		needed := []segmentFile{}
		if revision, kept := oldest[log]; kept {
			needed = c.after(log, revision)
		}
		for _, f := range chain[:len(chain)-len(needed)] {
			problems = append(problems, os.Remove(f.path))
		}
	}
	return errors.Join(problems...)
}
