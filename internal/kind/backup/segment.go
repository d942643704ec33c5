package backup

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"time"

	"vortex/internal/kind"
)

const logFormat = "vortex-log 1\n"

// segmentHeader is what a segment of a log says of itself before its transactions.
type segmentHeader struct {
	// Log names the chain this segment is a part of.
	Log string `json:"log"`
	// After is the revision after which its transactions begin: the last of the segment before, or the snapshot's.
	After int64 `json:"after"`
	// Time is when it was begun.
	Time    time.Time `json:"time"`
	Version string    `json:"version,omitempty"`
}

// segment is a segment being written. What append was given is in the file at once, and on the disk after sync.
type segment struct {
	file   *os.File
	frames *frameWriter
	end    trailer // of what is in the file
	synced int64   // bytes that are on the disk
	broken bool    // a write failed: nothing more may be written
}

// createSegment begins a segment.
func createSegment(path string, h segmentHeader) (*segment, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	s := &segment{file: file, end: trailer{Revision: h.After}}
	if s.frames, err = newFrameWriter(file, logFormat); err == nil {
		err = s.frames.writeJSON(frameHeader, h)
	}
	if err == nil {
		err = errors.Join(s.sync(), syncDir(path))
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return s, nil
}

// append writes transactions, many in a frame. Time never runs backwards in a log.
func (s *segment) append(batches []kind.Batch) error {
	var payload []byte
	end := s.end
	for n, b := range batches {
		end.Time = later(end.Time, b.Time)
		payload = appendTxn(payload, b, end.Time)
		end.Revision = b.Revision
		end.Count++
		if len(payload) < blockBytes && n < len(batches)-1 {
			continue
		}
		if err := s.write(payload); err != nil {
			return err
		}
		s.end, payload = end, payload[:0]
	}
	return nil
}

// later is the later of the time of what came before and that of a transaction, now where that is not known.
func later(before, at time.Time) time.Time {
	if at.IsZero() {
		at = time.Now()
	}
	if at.Before(before) {
		return before
	}
	return at
}

func (s *segment) write(payload []byte) error {
	packed, err := compress(payload)
	if err != nil {
		return err
	}
	good := s.frames.size
	if err := s.frames.write(frameTxns, packed); err != nil {
		return s.fail(good, err)
	}
	return nil
}

// sync brings what was appended to the disk.
func (s *segment) sync() error {
	if s.synced == s.frames.size {
		return nil
	}
	if err := s.file.Sync(); err != nil {
		return s.fail(s.synced, err)
	}
	s.synced = s.frames.size
	return nil
}

// fail takes back what may not be good. Where that fails too, readers see where the file is torn.
func (s *segment) fail(good int64, err error) error {
	s.broken = true
	_ = s.file.Truncate(good)
	return err
}

// close ends the segment, in good order unless it is broken.
func (s *segment) close() error {
	var err error
	if !s.broken {
		s.end.SHA256 = s.frames.sum()
		good := s.frames.size
		if err = s.frames.writeJSON(frameEnd, s.end); err != nil {
			err = s.fail(good, err)
		} else {
			err = s.sync()
		}
	}
	return errors.Join(err, s.file.Close())
}

// segmentReader reads a segment.
type segmentReader struct {
	segmentHeader

	file   *os.File
	frames *frameReader
	// sealed and torn are known once all was read: whether the segment was ended, and where it ends too early.
	sealed bool
	torn   *DamageError
}

// openSegment reads a segment's header.
func openSegment(path string) (*segmentReader, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	s := &segmentReader{file: file}
	if s.frames, err = newFrameReader(file, path, logFormat); err == nil {
		err = s.frames.readHeader(&s.segmentHeader)
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return s, nil
}

func (s *segmentReader) close() { _ = s.file.Close() }

// all yields every transaction. A segment whose writer was killed ends where it is torn; one that
// is damaged otherwise ends with an error.
func (s *segmentReader) all() iter.Seq2[txn, error] {
	return func(yield func(txn, error) bool) {
		for n := 0; ; {
			count, more, err := s.frame(n, yield)
			if err != nil {
				yield(txn{}, err)
				return
			}
			if !more {
				return
			}
			n += count
		}
	}
}

// frame yields what is in the next frame, and reports how much that was and whether to go on.
func (s *segmentReader) frame(before int, yield func(txn, error) bool) (n int, more bool, err error) {
	what, payload, err := s.frames.next()
	damage, damaged := errors.AsType[*DamageError](err)
	switch {
	case err == io.EOF: //nolint:errorlint // next returns it as it is
		s.torn = s.frames.torn()
		return 0, false, nil
	case damaged && damage.Torn:
		s.torn = damage
		return 0, false, nil
	case err != nil:
		return 0, false, err
	case what == frameEnd:
		_, err := s.frames.end(payload, before)
		s.sealed = err == nil
		return 0, false, err
	}
	data, err := s.frames.unpack(what, frameTxns, payload)
	if err != nil {
		return 0, false, err
	}
	for scan := (scanner{data: data}); len(scan.data) > 0; n++ {
		t := scan.txn()
		if scan.bad {
			return 0, false, s.frames.damage("%v", errEncoding)
		}
		if !yield(t, nil) {
			return 0, false, nil
		}
	}
	return n, true, nil
}

// read calls yield with every transaction of a segment until it returns false.
func (f segmentFile) read(yield func(txn) bool) (*segmentReader, error) {
	s, err := openSegment(f.path)
	if err != nil {
		return nil, err
	}
	defer s.close()
	for t, err := range s.all() {
		if err != nil {
			return s, err
		}
		if !yield(t) {
			break
		}
	}
	return s, nil
}

// cut removes the torn end of a segment, so that a chain can go on after it.
func (f segmentFile) cut() error {
	s, err := f.read(func(txn) bool { return true })
	if err != nil || s.torn == nil {
		return err
	}
	if err := os.Truncate(f.path, s.torn.Offset); err != nil {
		return fmt.Errorf("cut the torn end of %s: %w", f.path, err)
	}
	return nil
}
