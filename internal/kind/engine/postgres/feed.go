package postgres

import (
	"sync"
	"time"

	"vortex"
	"vortex/internal/kind/engine"
)

const (
	recentBatches = 4096     // kept in memory for watches, at most …
	recentBytes   = 16 << 20 // … and no more than this
)

// feed is the newest part of the log, in order and without gaps, for all watches of this engine.
type feed struct {
	mu      sync.Mutex
	epoch   int            // grows when the log turns out to be another one
	beyond  int64          // revisions of earlier logs up to this one may not be in this one
	floor   int64          // recent holds everything after this revision …
	last    int64          // … up to this one
	at      time.Time      // when last was made; zero in an empty log
	recent  []engine.Batch // oldest first
	bytes   int
	gone    int64         // the log is compacted up to here by this engine; others may have done more
	pending []group       // made by this process, at the end of a log that is not read so far yet
	changed chan struct{} // closed and replaced when something was added
}

// group is the batches that one SQL transaction appended to the log after revision base.
type group struct {
	base    int64
	batches []engine.Batch
	at      time.Time
}

func newFeed() *feed { return &feed{changed: make(chan struct{})} }

// end returns the newest revision and the time it was made at.
func (f *feed) end() (int64, time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last, f.at
}

// restart forgets everything: the log ends at last now. Watches of what was before end.
func (f *feed) restart(last int64, at time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.epoch++
	f.beyond = max(f.beyond, f.last)
	f.floor, f.last, f.at, f.gone = last, last, at, 0
	f.recent, f.bytes, f.pending = nil, 0, nil
	f.wake()
}

func (f *feed) wake() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// position returns how far the log is read, and in which epoch.
func (f *feed) position() (last int64, epoch int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last, f.epoch
}

// read takes in what the reader found after a position in an epoch. What was taken in meanwhile is left out.
func (f *feed) read(epoch int, batches []engine.Batch, at time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if epoch != f.epoch || len(batches) == 0 {
		return
	}
	f.add(batches, at)
	f.settle()
	f.wake()
}

// made takes in what this process itself committed, as soon as everything before it is there.
func (f *feed) made(epoch int, g group) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if epoch != f.epoch || len(g.batches) == 0 {
		return
	}
	f.pending = append(f.pending, g)
	if f.settle() {
		f.wake()
	}
}

// settle takes in pending groups that follow the last revision, and drops those that the reader has found.
func (f *feed) settle() (added bool) {
	for len(f.pending) > 0 && f.pending[0].base <= f.last {
		if g := f.pending[0]; g.base == f.last {
			f.add(g.batches, g.at)
			added = true
		}
		f.pending = f.pending[1:]
	}
	return added
}

// add appends the batches that are new.
func (f *feed) add(batches []engine.Batch, at time.Time) {
	for _, b := range batches {
		if b.Revision <= f.last {
			continue
		}
		f.recent = append(f.recent, b)
		f.bytes += size(b)
		f.last, f.at = b.Revision, at
	}
	f.forget()
}

// forget drops the oldest batches when there are a quarter more than are kept: seldom, because what stays is copied.
func (f *feed) forget() {
	if len(f.recent) <= recentBatches+recentBatches/4 && f.bytes <= recentBytes+recentBytes/4 {
		return
	}
	drop := 0
	for ; drop < len(f.recent) && (f.bytes > recentBytes || len(f.recent)-drop > recentBatches); drop++ {
		f.bytes -= size(f.recent[drop])
		f.floor = f.recent[drop].Revision
	}
	f.recent = append([]engine.Batch(nil), f.recent[drop:]...)
}

// size is what a batch takes in memory, about.
func size(b engine.Batch) (bytes int) {
	for _, c := range b.Changes {
		bytes += len(c.Key) + len(c.Value) + 100
	}
	return bytes
}

// errRestarted ends a watch of a log that is not the one it was.
func errRestarted(from int64) error {
	return vortex.Errorf(vortex.OutOfRange,
		"the database lacks revisions that were seen before %d, it was promoted without them or restored: list again and watch from there", from)
}

// after returns the batches from a revision on. When there are none yet, wait is closed as soon as there are. Both are nil when
// the revision is no longer in memory. An error says that the watch, begun in the given epoch, cannot go on.
func (f *feed) after(from int64, epoch int) (batches []engine.Batch, wait <-chan struct{}, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case epoch != f.epoch:
		return nil, nil, errRestarted(from)
	case from <= f.floor:
		return nil, nil, nil
	case from > f.last:
		return nil, f.changed, nil
	}
	lo, hi := 0, len(f.recent) // the first batch with a revision >= from
	for lo < hi {
		if mid := (lo + hi) / 2; f.recent[mid].Revision < from {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return f.recent[lo:len(f.recent):len(f.recent)], nil, nil
}

// begin returns the epoch in which a watch from a revision starts.
func (f *feed) begin(from int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case from-1 > f.last && from-1 <= f.beyond:
		return 0, errRestarted(from)
	case from < f.gone: // it may still be in memory, but not for long
		return 0, errCompacted(from, f.gone)
	}
	return f.epoch, nil
}

// compacted notes that revisions before rev are given up.
func (f *feed) compacted(rev int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gone = max(f.gone, rev)
}

// errCompacted is the error of a revision of which something may be gone.
func errCompacted(rev, oldest int64) error {
	return vortex.Errorf(vortex.OutOfRange, "revision %d is compacted; the oldest kept is %d: list again and watch from there", rev, oldest)
}
