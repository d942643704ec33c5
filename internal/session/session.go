// Package session holds the streams by which servers know who lives: every node's process keeps one to every server.
//
// The stream's end tells a process's death, for the kernel closes it, and on a busy machine heartbeats tell it sooner. Over the stream both sides agree on the keys
// of heartbeats (package heartbeat), which tell what a stream cannot: that a machine froze, or a link is cut. When a node falls silent its server asks others, over their
// streams, to carry a sealed ping to it; only when nobody reaches it either is its death confirmed.
//
// A Server has opinions and tells them to whoever asked; it writes nothing. A new stream of a node takes the place of its earlier one, and no
// late end of that one is taken for the new one's. Who may call itself what is decided outside, as are the connections' credentials.
package session

import (
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"time"

	"vortex"
	"vortex/internal/heartbeat/pulse"
)

const (
	// aliveEvery is how often both sides say on the stream that they live, and aliveLimit how long they may not: it counts
	// where no heartbeat gets through.
	aliveEvery = time.Second
	aliveLimit = 5 * time.Second
	helloLimit = 5 * time.Second
	queueSize  = 256
)

// keyPair returns one side's half of a session's keys.
func keyPair() (*ecdh.PrivateKey, error) {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return key, nil
}

// keys returns the keys for the datagrams from the node to the server, and back.
func keys(own *ecdh.PrivateKey, public []byte) (up, down [pulse.KeySize]byte, err error) {
	peer, err := ecdh.X25519().NewPublicKey(public)
	if err != nil {
		return up, down, vortex.Errorf(vortex.Invalid, "the public key must be 32 bytes of X25519, got %d bytes", len(public))
	}
	secret, err := own.ECDH(peer)
	if err != nil {
		return up, down, vortex.Errorf(vortex.Invalid, "the public key is not usable: %w", err)
	}
	both, err := hkdf.Key(sha256.New, secret, nil, "vortex heartbeats", 2*pulse.KeySize)
	if err != nil {
		return up, down, fmt.Errorf("derive keys: %w", err)
	}
	return [pulse.KeySize]byte(both), [pulse.KeySize]byte(both[pulse.KeySize:]), nil
}
