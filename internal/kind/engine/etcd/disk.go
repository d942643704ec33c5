package etcd

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"vortex"
)

const (
	// reserve is the free space below which nothing more is written: etcd ends its process when a write of its own
	// files fails, and with it would end the edge and the agent.
	reserve      = 16 << 20
	lockPatience = time.Second // for another process that has the database open
)

// roomOn returns a check of the disk that a directory is on. It answers an error of kind Exhausted while
// less than the reserve is free.
func roomOn(dir string) func() error {
	return func() error {
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err != nil {
			return nil //nolint:nilerr // what cannot be measured is no reason to refuse; the write itself tells
		}
		free := fs.Bavail * uint64(fs.Bsize) //nolint:gosec // a block size is positive
		if free >= reserve {
			return nil
		}
		return vortex.Errorf(vortex.Exhausted,
			"the disk of %s is full, %d MiB are free: nothing can be changed until %d MiB are; free space on it", dir, free>>20, reserve>>20)
	}
}

// checkFiles reads the head of the member's database, if there is one. etcd panics where it is damaged, on a goroutine
// that nobody can recover.
func checkFiles(memberDir string) (err error) {
	path := filepath.Join(memberDir, "member", "snap", "db")
	if _, err := os.Stat(path); err != nil {
		return nil // none yet: etcd makes one
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("read %s: %v", path, r)
		}
	}()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: lockPatience})
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	defer func() { _ = db.Close() }()
	return db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func([]byte, *bolt.Bucket) error { return nil })
	})
}
