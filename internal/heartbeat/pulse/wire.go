// Package pulse is the part of heartbeats that must never wait: it sends beats, watches for those of others and judges silence.
//
// It runs in a small process of its own, with a real-time priority and locked memory, because nothing inside a large Go process
// can promise milliseconds: the collector and the scheduler stop even a thread of the highest priority (docs/adr/0012-heartbeats.md has the figures). It
// knows links, not nodes: a number, an address, two keys. What it finds it writes to a page of memory that it shares
// with its parent, and tells over a socket. It ends the moment its parent does, allocates nothing once a link stands, and never
// decides what a silence means for anybody.
package pulse

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
)

// The kinds of datagrams.
const (
	kindBeat = 1 // I live
	kindPing = 2 // do you? It may come through somebody else, who cannot read or make one
	kindPong = 3 // I do, sent to where the ping came from
	kindBye  = 4 // my parent has ended, and I end too
)

const (
	// KeySize is the size of a link's keys, one for each direction.
	KeySize = 16
	// DatagramSize is the size of every datagram: a head that tells which key to use, and what that key protects.
	DatagramSize = headSize + bodySize + tagSize

	headSize  = 16
	bodySize  = 24
	tagSize   = 16
	nonceSize = 12
	version   = 1
)

// body is what a datagram says.
type body struct {
	interval int64  // nanoseconds between the sender's beats
	stall    int64  // how late the sender is with it: it was kept from running
	parent   int64  // how long ago the sender's parent last said that it runs
	echo     uint32 // the number of the beat; of a pong that of the ping
	flags    uint32
}

// flagRealTime is that the sender runs at a real-time priority.
const flagRealTime = 1

var (
	errDatagram = errors.New("not a datagram of ours")
	errSeal     = errors.New("the datagram's seal is wrong")
)

// sealer seals one direction of a link. Its key is new with every session, so that a number never comes twice under one key.
type sealer struct {
	aead  cipher.AEAD
	seq   uint64
	nonce [nonceSize]byte
	plain [bodySize]byte
}

func newAEAD(key [KeySize]byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// seal writes a datagram into out, which has room for it, and returns it.
func (s *sealer) seal(out []byte, kind byte, channel uint32, b body) []byte {
	s.seq++
	out = out[:headSize]
	out[0], out[1], out[2], out[3] = 'V', 'B', version, kind
	binary.BigEndian.PutUint32(out[4:], channel)
	binary.BigEndian.PutUint64(out[8:], s.seq)
	copy(s.nonce[:], out[4:headSize])
	binary.BigEndian.PutUint32(s.plain[0:], micros(b.interval))
	binary.BigEndian.PutUint32(s.plain[4:], micros(b.stall))
	binary.BigEndian.PutUint64(s.plain[8:], uint64(max(b.parent, 0)))
	binary.BigEndian.PutUint32(s.plain[16:], b.echo)
	binary.BigEndian.PutUint32(s.plain[20:], b.flags)
	return s.aead.Seal(out, s.nonce[:], s.plain[:], out[:headSize])
}

const nanosInMicro = 1000

func micros(ns int64) uint32 { return uint32(min(max(ns, 0)/nanosInMicro, 1<<32-1)) } //nolint:gosec // bounded

// opener opens one direction of a link. What comes twice it refuses, and a beat that others have overtaken. What others carry takes longer than the
// beats on the link itself, and may be behind by less than window (RFC 4303, 3.4.3).
type opener struct {
	aead  cipher.AEAD
	seq   uint64 // the highest that has come
	seen  uint64 // which have come: bit i is that of seq-i
	nonce [nonceSize]byte
	plain [bodySize]byte
}

// channelOf returns which link a datagram is for and what kind it is.
func channelOf(d []byte) (channel uint32, kind byte, err error) {
	if len(d) != DatagramSize || d[0] != 'V' || d[1] != 'B' || d[2] != version {
		return 0, 0, errDatagram
	}
	return binary.BigEndian.Uint32(d[4:]), d[3], nil
}

// open returns what a datagram says.
func (o *opener) open(d []byte) (b body, err error) {
	seq := binary.BigEndian.Uint64(d[8:])
	if seq <= o.seq && !o.mayCome(seq, d[3]) {
		return b, errSeal
	}
	copy(o.nonce[:], d[4:headSize])
	if _, err := o.aead.Open(o.plain[:0], o.nonce[:], d[headSize:], d[:headSize]); err != nil {
		return b, errSeal
	}
	o.came(seq)
	b.interval = int64(binary.BigEndian.Uint32(o.plain[0:])) * nanosInMicro
	b.stall = int64(binary.BigEndian.Uint32(o.plain[4:])) * nanosInMicro
	b.parent = int64(binary.BigEndian.Uint64(o.plain[8:]) & (1<<63 - 1)) //nolint:gosec // bounded
	b.echo = binary.BigEndian.Uint32(o.plain[16:])
	b.flags = binary.BigEndian.Uint32(o.plain[20:])
	return b, nil
}

// window is how many numbers an opener remembers.
const window = 64

// resume goes on after a number, up to which everything has come.
func (o *opener) resume(seq uint64) { o.seq, o.seen = seq, 1<<window-1 }

// mayCome reports whether a datagram of a number that is not the highest has not come yet, and is of a kind that may still.
func (o *opener) mayCome(seq uint64, kind byte) bool {
	behind := o.seq - seq
	return (kind == kindPing || kind == kindPong) && behind < window && o.seen>>behind&1 == 0
}

func (o *opener) came(seq uint64) {
	if seq > o.seq {
		o.seen = o.seen<<(seq-o.seq) | 1
		o.seq = seq
		return
	}
	o.seen |= 1 << (o.seq - seq)
}
