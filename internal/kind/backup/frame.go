package backup

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
)

// A file is a line that names its format, then frames: a byte that says what it holds, four bytes with the length of its
// payload, four with the CRC-32C of these five, four with the CRC-32C of all that and the payload, and the payload. Numbers are
// big-endian. The head has a checksum of its own, so that a wrong length is not taken for a file that ends too early.
const (
	frameHead = 13
	maxFrame  = 64 << 20 // a longer one is not ours
)

// What a frame holds.
const (
	frameHeader  byte = 'H' // JSON, first
	frameRecords byte = 'R' // records, compressed
	frameTxns    byte = 'T' // transactions, compressed
	frameEnd     byte = 'E' // JSON, last: the digest of all before it
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// DamageError tells what is wrong with a file, and where.
type DamageError struct {
	File   string
	Offset int64 // of the first byte that is not good
	What   string
	// Torn tells that the file merely ends too early, as one does whose writer was killed.
	Torn bool
}

// Error implements error.
func (e *DamageError) Error() string {
	return fmt.Sprintf("%s is damaged at byte %d: %s", e.File, e.Offset, e.What)
}

// frameWriter writes a file in frames.
type frameWriter struct {
	w      io.Writer
	digest hash.Hash
	size   int64
}

// newFrameWriter writes the line that names the format.
func newFrameWriter(w io.Writer, format string) (*frameWriter, error) {
	f := &frameWriter{w: w, digest: sha256.New()}
	return f, f.emit([]byte(format))
}

func (f *frameWriter) emit(data []byte) error {
	n, err := f.w.Write(data)
	f.size += int64(n)
	f.digest.Write(data[:n])
	return err
}

// write appends a frame with one call of the underlying Write.
func (f *frameWriter) write(kind byte, payload []byte) error {
	if len(payload) > maxFrame {
		return fmt.Errorf("a frame holds at most %d bytes, got %d", maxFrame, len(payload))
	}
	frame := make([]byte, frameHead, frameHead+len(payload))
	frame[0] = kind
	binary.BigEndian.PutUint32(frame[1:], uint32(len(payload))) //nolint:gosec // bounded above
	binary.BigEndian.PutUint32(frame[5:], checksum(frame[:5], nil))
	binary.BigEndian.PutUint32(frame[9:], checksum(frame[:9], payload))
	return f.emit(append(frame, payload...))
}

func checksum(head, payload []byte) uint32 {
	return crc32.Update(crc32.Checksum(head, castagnoli), castagnoli, payload)
}

// sum is the digest of everything so far.
func (f *frameWriter) sum() string { return hex.EncodeToString(f.digest.Sum(nil)) }

// frameReader reads a file in frames and holds it to its checksums.
type frameReader struct {
	name   string
	r      *bufio.Reader
	digest hash.Hash
	before string // the digest of everything before the last frame
	offset int64  // of the next frame
}

// newFrameReader reads the line that names the format.
func newFrameReader(r io.Reader, name, format string) (*frameReader, error) {
	const buffer = 256 << 10
	f := &frameReader{name: name, r: bufio.NewReaderSize(r, buffer), digest: sha256.New()}
	line := make([]byte, len(format))
	n, err := io.ReadFull(f.r, line)
	switch {
	case err != nil && !ended(err):
		return nil, fmt.Errorf("read %s: %w", name, err)
	case !bytes.HasPrefix([]byte(format), line[:n]):
		return nil, f.damage("it does not begin as a file of this kind and version does, %q", format)
	case err != nil:
		return nil, f.torn()
	}
	f.take(line)
	return f, nil
}

// ended reports whether an error says that there is no more.
func ended(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

func (f *frameReader) take(data []byte) {
	f.digest.Write(data)
	f.offset += int64(len(data))
}

func (f *frameReader) damage(format string, args ...any) *DamageError {
	return &DamageError{File: f.name, Offset: f.offset, What: fmt.Sprintf(format, args...)}
}

func (f *frameReader) torn() *DamageError {
	return &DamageError{File: f.name, Offset: f.offset, What: "it ends too early", Torn: true}
}

// next reads a frame: io.EOF where the file ends between frames, a DamageError where it is not what was written.
func (f *frameReader) next() (kind byte, payload []byte, err error) {
	head := make([]byte, frameHead)
	if _, err := io.ReadFull(f.r, head); errors.Is(err, io.EOF) {
		return 0, nil, io.EOF
	} else if err != nil {
		return 0, nil, f.failed(err)
	}
	if checksum(head[:5], nil) != binary.BigEndian.Uint32(head[5:]) {
		err := f.damage("the checksum of the head of a frame does not match")
		err.Torn = f.onlyZeros(nil)
		return 0, nil, err
	}
	length := binary.BigEndian.Uint32(head[1:])
	if length > maxFrame {
		return 0, nil, f.damage("the length of a frame is not possible")
	}
	if payload, err = readExactly(f.r, int(length)); err != nil {
		return 0, nil, f.failed(err)
	}
	if checksum(head[:9], payload) != binary.BigEndian.Uint32(head[9:]) {
		err := f.damage("the checksum of the %d bytes from there does not match", frameHead+len(payload))
		err.Torn = f.onlyZeros(payload[max(0, len(payload)-frameHead):])
		return 0, nil, err
	}
	f.before = hex.EncodeToString(f.digest.Sum(nil))
	f.take(head)
	f.take(payload)
	return head[0], payload, nil
}

// readExactly reads n bytes, and allocates no more than there are.
func readExactly(r io.Reader, n int) ([]byte, error) {
	var buf bytes.Buffer
	if _, err := io.CopyN(&buf, r, int64(n)); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return buf.Bytes(), nil
}

// failed turns an error of the underlying reader into one that says where.
func (f *frameReader) failed(err error) error {
	if ended(err) {
		return f.torn()
	}
	return fmt.Errorf("read %s: %w", f.name, err)
}

// onlyZeros reports whether the end of a frame and the rest of the file are zeros, which is what some
// file systems leave where a machine lost power while the file grew.
func (f *frameReader) onlyZeros(end []byte) bool {
	if len(bytes.Trim(end, "\x00")) > 0 {
		return false
	}
	for {
		b, err := f.r.ReadByte()
		if err != nil {
			return ended(err)
		}
		if b != 0 {
			return false
		}
	}
}

// atEnd reports whether nothing follows.
func (f *frameReader) atEnd() bool {
	_, err := f.r.Peek(1)
	return errors.Is(err, io.EOF)
}
