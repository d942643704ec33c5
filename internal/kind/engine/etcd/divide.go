package etcd

import "vortex/internal/kind/engine"

// divide puts transactions into as few rounds as it easily can, such that none in a round writes what another one
// writes or compares, and that each round keeps its bounds.
func divide(waiting []*pending, room bounds) [][]*pending {
	d := divider{room: room, written: make(map[string]int, len(waiting)), compared: map[string]int{}}
	for _, p := range waiting {
		d.add(p)
	}
	return d.rounds
}

// divider remembers, for each key, the first round after all that write it, or compare it.
type divider struct {
	room              bounds
	rounds            [][]*pending
	used              []bounds
	written, compared map[string]int
}

// add puts a transaction into the first round that has nothing to do with its keys, and room for it.
func (d *divider) add(p *pending) {
	at := 0
	for _, c := range p.txn.Compares {
		at = max(at, d.written[c.Key])
	}
	for _, w := range p.txn.Writes {
		at = max(at, d.written[w.Key], d.compared[w.Key])
	}
	size := sizeOf(p.txn)
	for at < len(d.rounds) && !d.used[at].take(size, d.room) {
		at++
	}
	for at >= len(d.rounds) {
		d.rounds, d.used = append(d.rounds, nil), append(d.used, size)
	}
	d.rounds[at] = append(d.rounds[at], p)
	for _, c := range p.txn.Compares {
		d.compared[c.Key] = max(d.compared[c.Key], at+1)
	}
	for _, w := range p.txn.Writes {
		d.written[w.Key] = max(d.written[w.Key], at+1)
	}
}

// take adds size when the sum keeps within room.
func (b *bounds) take(size, room bounds) bool {
	sum := bounds{b.operations + size.operations, b.bytes + size.bytes}
	if sum.operations > room.operations || sum.bytes > room.bytes {
		return false
	}
	*b = sum
	return true
}

// sizeOf is what a transaction takes of a round.
func sizeOf(txn engine.Txn) bounds {
	size := bounds{operations: 1 + len(txn.Compares) + len(txn.Writes)}
	for _, w := range txn.Writes {
		size.bytes += len(w.Key) + len(w.Value)
	}
	return size
}
