package backup

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"vortex"
)

// Names of the files of a directory; they sort by time.
const (
	namePrefix     = "vortex-"
	snapshotSuffix = ".snap"
	segmentSuffix  = ".log"
	nameTime       = "20060102T150405Z"
)

func snapshotName(h Header) string {
	return fmt.Sprintf("%s%s-r%d%s", namePrefix, h.Taken.UTC().Format(nameTime), h.Revision, snapshotSuffix)
}

func segmentName(h segmentHeader) string {
	return fmt.Sprintf("%s%s-r%d-%s%s", namePrefix, h.Time.UTC().Format(nameTime), h.After, h.Log, segmentSuffix)
}

// Catalog is what a backup directory holds, as far as the heads of its files tell.
type Catalog struct {
	Dir string
	// Snapshots are the newest first.
	Snapshots []SnapshotFile
	// Damaged are the files whose heads cannot be read.
	Damaged []error

	segments map[string][]segmentFile // of each log, in their order
}

// SnapshotFile is a snapshot in a directory.
type SnapshotFile struct {
	Header

	Path  string `json:"path"`
	Bytes int64  `json:"bytes"`

	headless bool // its head is damaged
}

// segmentFile is a segment of a log in a directory.
type segmentFile struct {
	segmentHeader

	path  string
	bytes int64
}

// List reads the heads of the files in a backup directory.
func List(dir string) (*Catalog, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, vortex.Errorf(vortex.NotFound, "the backup directory cannot be read: %w", err)
	}
	c := &Catalog{Dir: dir, segments: map[string][]segmentFile{}}
	for _, entry := range entries {
		name := entry.Name()
		if !strings.HasPrefix(name, namePrefix) || !entry.Type().IsRegular() {
			continue
		}
		switch filepath.Ext(name) {
		case snapshotSuffix:
			err = c.addSnapshot(filepath.Join(dir, name))
		case segmentSuffix:
			err = c.addSegment(filepath.Join(dir, name))
		}
		if damage, ok := errors.AsType[*DamageError](err); ok {
			c.Damaged = append(c.Damaged, damage)
		} else if err != nil && !errors.Is(err, os.ErrNotExist) { // pruned just now
			return nil, err
		}
	}
	slices.SortFunc(c.Snapshots, func(a, b SnapshotFile) int {
		return cmp.Or(b.Time.Compare(a.Time), b.Taken.Compare(a.Taken))
	})
	for _, chain := range c.segments {
		slices.SortFunc(chain, func(a, b segmentFile) int { return cmp.Or(cmp.Compare(a.After, b.After), a.Time.Compare(b.Time)) })
	}
	return c, nil
}

// addSnapshot adds a snapshot. Of one whose head is damaged it takes what the name tells.
func (c *Catalog) addSnapshot(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	snap := SnapshotFile{Path: path, Bytes: fileSize(file)}
	r, err := NewReader(file, path)
	if err == nil {
		snap.Header = r.Header
	} else {
		snap.headless = true
		snap.Taken, snap.Revision, _ = parseName(path)
		snap.Time = snap.Taken
	}
	c.Snapshots = append(c.Snapshots, snap)
	return err
}

// addSegment adds a segment. One that ends within its head holds nothing: its writer was killed while it began. One
// whose head is damaged has its place in the log by its name, so that what it held is missed.
func (c *Catalog) addSegment(path string) error {
	f := segmentFile{path: path}
	s, err := openSegment(path)
	damage, damaged := errors.AsType[*DamageError](err)
	switch {
	case err == nil:
		f.segmentHeader, f.bytes = s.segmentHeader, fileSize(s.file)
		s.close()
	case damaged && damage.Torn:
		return nil
	default:
		f.Time, f.After, f.Log = parseName(path)
	}
	c.segments[f.Log] = append(c.segments[f.Log], f)
	return err
}

// parseName reads what a file's name tells.
func parseName(path string) (at time.Time, revision int64, log string) {
	name, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(path), namePrefix), ".")
	parts := strings.SplitN(name, "-", 3)
	at, _ = time.Parse(nameTime, parts[0])
	if len(parts) > 1 {
		revision, _ = strconv.ParseInt(strings.TrimPrefix(parts[1], "r"), 10, 64)
	}
	if len(parts) > 2 {
		log = parts[2]
	}
	return at, revision, log
}

func fileSize(file *os.File) int64 {
	info, err := file.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

// after returns the segments of a log that may hold transactions after a revision.
func (c *Catalog) after(log string, revision int64) []segmentFile {
	chain := c.segments[log]
	for len(chain) > 1 && chain[1].After <= revision {
		chain = chain[1:]
	}
	return chain
}

// Moment is what to go back to: the last transaction not after a time, or a revision. The zero value is the newest.
type Moment struct {
	Time     time.Time
	Revision int64
}

// String says it as people do.
func (m Moment) String() string {
	switch {
	case m.Revision != 0:
		return fmt.Sprintf("revision %d", m.Revision)
	case !m.Time.IsZero():
		return m.Time.Local().Format(time.RFC3339Nano)
	default:
		return "the newest moment"
	}
}

// before reports whether m lies before what happened at a time and revision.
func (m Moment) before(at time.Time, revision int64) bool {
	return m.Revision != 0 && revision > m.Revision || !m.Time.IsZero() && at.After(m.Time)
}
