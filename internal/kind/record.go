package kind

import (
	"encoding/binary"
	"sync/atomic"

	"vortex"
)

// Record is a key with its value and the revisions that made it what it is. Records are shared
// between readers: nobody may change Value.
type Record struct {
	Key            string
	Value          []byte
	ExpiresAt      int64 // Unix milliseconds; 0 never expires
	CreateRevision int64
	ModRevision    int64

	decoded atomic.Value // a pointer to its value as its type, once somebody asked
}

// recordCost is about what a record takes in memory besides its key and value: itself and its place in the tree.
const recordCost = 160

// size is about what the record takes in memory, 0 when there is none.
func (r *Record) size() int64 {
	if r == nil {
		return 0
	}
	return int64(len(r.Key) + len(r.Value) + recordCost)
}

// expired reports whether the record is invisible at now, in Unix milliseconds.
func (r *Record) expired(now int64) bool { return r.ExpiresAt != 0 && r.ExpiresAt <= now }

// The engine's value is an envelope: a format byte, the expiry as a varint, and the user's value.
const envelopeFormat = 1

// Seal makes what the engine keeps of a value that expires at a moment, in Unix milliseconds, 0 being never.
func Seal(value []byte, expiresAt int64) []byte { return seal(value, expiresAt) }

// Unseal is the opposite of Seal. The value is part of what it was given.
func Unseal(kept []byte) (value []byte, expiresAt int64, err error) { return unseal(kept) }

func seal(value []byte, expiresAt int64) []byte {
	buf := make([]byte, 0, 1+binary.MaxVarintLen64+len(value))
	buf = append(buf, envelopeFormat)
	buf = binary.AppendUvarint(buf, uint64(expiresAt))
	return append(buf, value...)
}

func unseal(envelope []byte) (value []byte, expiresAt int64, err error) {
	if len(envelope) == 0 || envelope[0] != envelopeFormat {
		return nil, 0, vortex.Errorf(vortex.Internal, "the engine holds a value that Kind did not write")
	}
	expires, n := binary.Uvarint(envelope[1:])
	if n <= 0 {
		return nil, 0, vortex.Errorf(vortex.Internal, "the engine holds a truncated value")
	}
	return envelope[1+n:], int64(expires), nil
}
