package backup

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"time"

	"vortex/internal/kind"
)

const (
	snapshotFormat = "vortex-snapshot 1\n"
	blockBytes     = 256 << 10 // of records in a frame, before compression
)

// Header is what a snapshot says of itself before its records.
type Header struct {
	// Revision is the newest transaction in it, and Time when that happened.
	Revision int64     `json:"revision"`
	Time     time.Time `json:"time"`
	// Taken is when the snapshot was taken.
	Taken time.Time `json:"taken"`
	// Log names the log that goes on from here; "" when none does.
	Log string `json:"log,omitempty"`
	// Version is that of the program that wrote the file.
	Version string `json:"version,omitempty"`
}

// Summary is what a whole snapshot comes to.
type Summary struct {
	Header

	Records int   `json:"records"`
	Bytes   int64 `json:"bytes"`
	// SHA256 is the digest of the whole file, as sha256sum prints it.
	SHA256 string `json:"sha256"`
}

// trailer ends a file.
type trailer struct {
	Count int `json:"count"` // of records or transactions
	// Revision is the last transaction of a log's segment, and Time when it happened.
	Revision int64     `json:"revision,omitempty"`
	Time     time.Time `json:"time,omitzero"`
	SHA256   string    `json:"sha256"` // of everything before this frame
}

// Write writes a snapshot file. Revision and times of the header are the snapshot's.
func Write(w io.Writer, snap *kind.Snapshot, h Header) (Summary, error) {
	h.Revision, h.Time, h.Taken = snap.Revision, snap.Time.UTC(), snap.Taken.UTC()
	f, err := newFrameWriter(w, snapshotFormat)
	if err != nil {
		return Summary{}, err
	}
	if err := f.writeJSON(frameHeader, h); err != nil {
		return Summary{}, err
	}
	n, err := f.writeRecords(snap.All())
	if err != nil {
		return Summary{}, err
	}
	if err := f.writeJSON(frameEnd, trailer{Count: n, SHA256: f.sum()}); err != nil {
		return Summary{}, err
	}
	return Summary{Header: h, Records: n, Bytes: f.size, SHA256: f.sum()}, nil
}

// writeRecords writes records in frames and returns how many there were.
func (f *frameWriter) writeRecords(records iter.Seq[*kind.Record]) (n int, err error) {
	var block []byte
	flush := func() error {
		if len(block) == 0 {
			return nil
		}
		packed, err := compress(block)
		block = block[:0]
		if err != nil {
			return err
		}
		return f.write(frameRecords, packed)
	}
	for rec := range records {
		block = appendRecord(block, rec)
		n++
		if len(block) >= blockBytes {
			if err := flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, flush()
}

func (f *frameWriter) writeJSON(kind byte, v any) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	return f.write(kind, payload)
}

// Reader reads a snapshot.
type Reader struct {
	Header

	frames  *frameReader
	summary Summary
}

// NewReader reads the header of a snapshot; name is what errors call it.
func NewReader(r io.Reader, name string) (*Reader, error) {
	frames, err := newFrameReader(r, name, snapshotFormat)
	if err != nil {
		return nil, err
	}
	s := &Reader{frames: frames}
	return s, frames.readHeader(&s.Header)
}

// readHeader reads the first frame.
func (f *frameReader) readHeader(header any) error {
	kind, payload, err := f.next()
	switch {
	case err == io.EOF: //nolint:errorlint // next returns it as it is
		return f.torn()
	case err != nil:
		return err
	case kind != frameHeader || json.Unmarshal(payload, header) != nil:
		return f.damage("its header cannot be read")
	}
	return nil
}

// All yields every record. The last pair holds the error where the file is damaged; without one the
// whole file was read and its digest is right, and Summary tells of it.
func (s *Reader) All() iter.Seq2[*kind.Record, error] {
	return func(yield func(*kind.Record, error) bool) {
		for n := 0; ; {
			what, payload, err := s.frames.next()
			if err == io.EOF { //nolint:errorlint // next returns it as it is
				err = s.frames.torn()
			}
			if err == nil && what == frameEnd {
				if err = s.finish(payload, n); err == nil {
					return
				}
			}
			if err != nil {
				yield(nil, err)
				return
			}
			count, more := s.block(what, payload, yield)
			if !more {
				return
			}
			n += count
		}
	}
}

// block yields the records of a frame, and reports how many there were and whether to go on.
func (s *Reader) block(what byte, payload []byte, yield func(*kind.Record, error) bool) (n int, more bool) {
	data, err := s.frames.unpack(what, frameRecords, payload)
	if err != nil {
		yield(nil, err)
		return 0, false
	}
	for scan := (scanner{data: data}); len(scan.data) > 0; n++ {
		rec := scan.record()
		if scan.bad {
			yield(nil, s.frames.damage("%v", errEncoding))
			return 0, false
		}
		if !yield(rec, nil) {
			return 0, false
		}
	}
	return n, true
}

// unpack decompresses a frame's payload.
func (f *frameReader) unpack(got, want byte, payload []byte) ([]byte, error) {
	if got != want {
		return nil, f.damage("a frame of kind %q where %q is expected", got, want)
	}
	data, err := decompress(payload)
	if err != nil {
		return nil, f.damage("%v: %v", errEncoding, err)
	}
	return data, nil
}

// end checks a trailer against what was read.
func (f *frameReader) end(payload []byte, count int) (t trailer, err error) {
	switch {
	case json.Unmarshal(payload, &t) != nil:
		return t, f.damage("its trailer cannot be read")
	case t.SHA256 != f.before:
		return t, f.damage("its digest is %s, its trailer says %s", f.before, t.SHA256)
	case t.Count != count:
		return t, f.damage("it holds %d entries, its trailer says %d", count, t.Count)
	case !f.atEnd():
		return t, f.damage("something follows its trailer")
	}
	return t, nil
}

func (s *Reader) finish(payload []byte, n int) error {
	if _, err := s.frames.end(payload, n); err != nil {
		return err
	}
	s.summary = Summary{Header: s.Header, Records: n, Bytes: s.frames.offset, SHA256: hex.EncodeToString(s.frames.digest.Sum(nil))}
	return nil
}

// Summary tells of the whole file, once All has read it.
func (s *Reader) Summary() Summary { return s.summary }
