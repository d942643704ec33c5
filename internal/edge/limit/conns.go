package limit

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
)

// Conns bounds how many connections each key has open. Use NewConns. A key without connections takes no memory.
type Conns struct {
	most   atomic.Int64
	seed   maphash.Seed
	shards [shardCount]connShard
}

type connShard struct {
	mu   sync.Mutex
	open map[Key]int64
}

// NewConns returns a Conns that lets each key have that many connections at once; 0 is any number.
func NewConns(most int) *Conns {
	c := &Conns{seed: maphash.MakeSeed()}
	for i := range c.shards {
		c.shards[i].open = map[Key]int64{}
	}
	c.Set(most)
	return c
}

// Set changes how many connections a key may open from now on.
func (c *Conns) Set(most int) { c.most.Store(int64(most)) }

// Enter counts a connection, unless the key has as many as it may. What was counted must Leave.
func (c *Conns) Enter(key Key) bool {
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if most := c.most.Load(); most > 0 && s.open[key] >= most {
		return false
	}
	s.open[key]++
	return true
}

// Leave counts a connection off.
func (c *Conns) Leave(key Key) {
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[key]--; s.open[key] <= 0 {
		delete(s.open, key)
	}
}

func (c *Conns) shard(key Key) *connShard {
	return &c.shards[maphash.Comparable(c.seed, key)%shardCount]
}
