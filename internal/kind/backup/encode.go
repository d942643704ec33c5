package backup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"vortex/internal/kind"
)

// A payload of records or transactions is compressed by itself, so that each frame can be read alone.
const maxPayload = 256 << 20 // what a frame may unpack to

var encoder = sync.OnceValues(func() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
})

var decoder = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxPayload))
})

func compress(payload []byte) ([]byte, error) {
	enc, err := encoder()
	if err != nil {
		return nil, fmt.Errorf("prepare compression: %w", err)
	}
	return enc.EncodeAll(payload, nil), nil
}

func decompress(payload []byte) ([]byte, error) {
	dec, err := decoder()
	if err != nil {
		return nil, fmt.Errorf("prepare decompression: %w", err)
	}
	return dec.DecodeAll(payload, nil)
}

// A record is its key, the moment it expires, in Unix milliseconds, and its value; texts follow their length.
func appendRecord(buf []byte, rec *kind.Record) []byte {
	buf = appendText(buf, rec.Key)
	buf = binary.AppendUvarint(buf, uint64(rec.ExpiresAt)) //nolint:gosec // moments are positive
	return appendText(buf, rec.Value)
}

// A transaction is its revision, its time, and its changes: a flag and a record, or a flag and a key where it was deleted.
func appendTxn(buf []byte, b kind.Batch, at time.Time) []byte {
	buf = binary.AppendUvarint(buf, uint64(b.Revision)) //nolint:gosec // revisions are positive
	buf = binary.AppendVarint(buf, at.UnixMilli())
	buf = binary.AppendUvarint(buf, uint64(len(b.Events)))
	for _, ev := range b.Events {
		if ev.Deleted {
			buf = appendText(append(buf, flagDelete), ev.Key)
		} else {
			buf = appendRecord(append(buf, flagPut), ev.Record)
		}
	}
	return buf
}

const (
	flagPut    = 'P'
	flagDelete = 'D'
)

func appendText[T string | []byte](buf []byte, text T) []byte {
	return append(binary.AppendUvarint(buf, uint64(len(text))), text...)
}

// txn is a transaction as the log has it.
type txn struct {
	revision int64
	time     time.Time
	changes  []change
}

// change is one key's part of a transaction; rec is nil where it was deleted.
type change struct {
	key string
	rec *kind.Record
}

// errEncoding says that a payload is not what was written, although its checksum is right.
var errEncoding = errors.New("its content is not encoded as it should be")

// scanner reads what was appended. After a mistake it returns zeros, and bad is set.
type scanner struct {
	data []byte
	bad  bool
}

func (s *scanner) uvarint() uint64 {
	n, size := binary.Uvarint(s.data)
	return n * s.advance(size)
}

func (s *scanner) varint() int64 {
	n, size := binary.Varint(s.data)
	return n * int64(s.advance(size)) //nolint:gosec // 0 or 1
}

// advance passes over a number of size bytes, and returns 1, or 0 where there was none.
func (s *scanner) advance(size int) uint64 {
	if size <= 0 {
		s.bad, s.data = true, nil
		return 0
	}
	s.data = s.data[size:]
	return 1
}

func (s *scanner) text() []byte {
	n := s.uvarint()
	if n > uint64(len(s.data)) {
		s.bad, s.data = true, nil
		return nil
	}
	text := s.data[:n:n]
	s.data = s.data[n:]
	return text
}

func (s *scanner) flag() byte {
	if len(s.data) == 0 {
		s.bad = true
		return 0
	}
	b := s.data[0]
	s.data = s.data[1:]
	return b
}

func (s *scanner) record() *kind.Record {
	return &kind.Record{Key: string(s.text()), ExpiresAt: int64(s.uvarint()), Value: s.text()} //nolint:gosec // as it was written
}

func (s *scanner) txn() txn {
	t := txn{revision: int64(s.uvarint()), time: time.UnixMilli(s.varint())} //nolint:gosec // as it was written
	for n := s.uvarint(); n > 0 && !s.bad; n-- {
		switch s.flag() {
		case flagPut:
			rec := s.record()
			t.changes = append(t.changes, change{rec.Key, rec})
		case flagDelete:
			t.changes = append(t.changes, change{key: string(s.text())})
		default:
			s.bad = true
		}
	}
	return t
}
