package etcd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"golang.org/x/sys/unix"

	"vortex"
)

const (
	// segmentBytes is how large etcd makes a file of its write-ahead log. It takes the room for the next one in advance, when
	// it begins one, and gives up for good where there is none.
	segmentBytes = 16 << 20
	// growthBytes is how much room beyond its end the database has always taken for itself already.
	growthBytes = 32 << 20
	// reserve is the free space below which nothing more is written: room for a file of the log, and for what others write
	// at the same time.
	reserve      = segmentBytes + 32<<20
	recheck      = 1 << 20     // so much is written between two looks at the database's own room
	lockPatience = time.Second // for another process that has the database open
)

func init() { wal.SegmentSizeBytes = segmentBytes } //nolint:gochecknoinits // etcd's is a variable of the whole process

// disk watches over the space of a member's files, so that etcd never meets a write that fails: it ends its process then.
type disk struct {
	dir      string
	database string

	mu      sync.Mutex
	written int // bytes since the last look at the database's room
}

func newDisk(dir string) *disk {
	return &disk{dir: dir, database: filepath.Join(dir, memberData, "member", "snap", "db"), written: recheck}
}

// room answers an error of kind Exhausted where so many bytes more might not find their place.
func (d *disk) room(bytes int) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(d.dir, &fs); err != nil {
		return nil // what cannot be measured is no reason to refuse; the write itself tells
	}
	free := fs.Bavail * uint64(fs.Bsize) //nolint:gosec // a block size is positive
	if free < reserve+uint64(bytes) {    //nolint:gosec // a length is positive
		return d.full(free)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.written += bytes; d.written < recheck {
		return nil
	}
	if err := d.grow(); err != nil {
		return d.full(free)
	}
	d.written = 0
	return nil
}

func (d *disk) full(free uint64) error {
	return vortex.Errorf(vortex.Exhausted,
		"the disk of %s is full, %d MiB are free: nothing can be changed until %d MiB are; free space on it", d.dir, free>>20, reserve>>20)
}

// grow takes room for the database beyond its end. Only a full disk is an error; where room cannot be taken in advance,
// the reserve has to do.
func (d *disk) grow() error {
	f, err := os.OpenFile(d.database, os.O_WRONLY, 0)
	if err != nil {
		return nil // etcd is just replacing it
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil // it is the reserve that has to do then
	}
	err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, info.Size()+growthBytes)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return err
	}
	return nil
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
