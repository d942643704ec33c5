package backup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"vortex/internal/kind"
)

// WriteFile makes a file appear whole or not at all, readable by its owner only: it is written beside its place, brought
// to the disk, checked, and renamed.
func WriteFile(path string, write func(*os.File) error, check func(path string) error) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name())
		}
	}()
	if err := errors.Join(write(tmp), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := check(tmp.Name()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	return syncDir(path)
}

// syncDir brings the name of a file to the disk.
func syncDir(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Verify reads a whole snapshot file and holds it to its checksums. each, unless nil, is called with every record.
func Verify(path string, each func(key string, value []byte)) (Summary, error) {
	file, err := os.Open(path)
	if err != nil {
		return Summary{}, err
	}
	defer func() { _ = file.Close() }()
	r, err := NewReader(file, path)
	if err != nil {
		return Summary{}, err
	}
	for rec, err := range r.All() {
		if err != nil {
			return r.Summary(), err
		}
		if each != nil {
			each(rec.Key, rec.Value)
		}
	}
	return r.Summary(), nil
}

// readSnapshot yields the records of a snapshot file.
func readSnapshot(path string) func(yield func(*kind.Record, error) bool) {
	return func(yield func(*kind.Record, error) bool) {
		file, err := os.Open(path)
		if err != nil {
			yield(nil, err)
			return
		}
		defer func() { _ = file.Close() }()
		r, err := NewReader(file, path)
		if err != nil {
			yield(nil, fmt.Errorf("read snapshot: %w", err))
			return
		}
		r.All()(yield)
	}
}
