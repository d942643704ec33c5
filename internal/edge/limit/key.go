package limit

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
)

// Key is who is counted. The zero Key is everybody together.
type Key struct{ high, low uint64 }

// Address returns the key of a client's address: of an IPv6 address its /64.
func Address(addr netip.Addr) Key {
	addr = addr.Unmap()
	b := addr.As16()
	k := Key{binary.BigEndian.Uint64(b[:8]), 0}
	if addr.Is4() {
		k.low = binary.BigEndian.Uint64(b[8:])
	}
	return k
}

// Value returns the key of a header's value. Nobody can find another value with the same one, or the value from the key.
func Value(value []byte) Key {
	sum := sha256.Sum256(value)
	return Key{binary.BigEndian.Uint64(sum[:8]), binary.BigEndian.Uint64(sum[8:16])}
}

// String is the key as other edges read it.
func (k Key) String() string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], k.high)
	binary.BigEndian.PutUint64(b[8:], k.low)
	return hex.EncodeToString(b[:])
}

// ParseKey reads what String wrote.
func ParseKey(s string) (Key, bool) {
	var b [16]byte
	if len(s) != 2*len(b) {
		return Key{}, false
	}
	if _, err := hex.Decode(b[:], []byte(s)); err != nil {
		return Key{}, false
	}
	return Key{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}, true
}
