package etcd

import (
	"context"
	"sync"

	"vortex"
	"vortex/internal/kind/engine"
)

// groups lets transactions that are committed at the same time share a round of the engine: while two rounds are under
// way others wait, and the next round carries them together. Each has its own outcome. A lone writer never waits.
//
// A round holds no two transactions of which one writes what the other writes or compares, so that any order of them is
// the same. Those that do meet go in rounds of their own.
type groups struct {
	// send commits transactions that do not meet, in one round, and returns the outcome of each.
	send func(ctx context.Context, txns []engine.Txn) ([]engine.Result, error)
	room bounds

	mu      sync.Mutex
	flying  int        // rounds under way
	waiting []*pending // for the next round
	rounds  sync.WaitGroup
}

// bounds are what a round may hold. A larger transaction goes alone.
type bounds struct{ operations, bytes int }

// pipelined is how many rounds may be under way before others wait: while one is written to disk the next is prepared.
const pipelined = 2

// pending is a transaction that waits for its round.
type pending struct {
	txn    engine.Txn
	done   chan struct{} // closed when result and err are set
	result engine.Result
	err    error
}

// commit sends a transaction at once, or with others when enough is under way. The end of ctx ends the wait; a
// transaction whose round has begun goes on.
func (g *groups) commit(ctx context.Context, txn engine.Txn) (engine.Result, error) {
	g.mu.Lock()
	if g.flying < pipelined {
		g.flying++
		g.mu.Unlock()
		return g.alone(ctx, txn)
	}
	p := &pending{txn: txn, done: make(chan struct{})}
	g.waiting = append(g.waiting, p)
	g.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errSilent)
	defer cancel()
	select {
	case <-p.done:
		return p.result, p.err
	case <-ctx.Done():
		g.leave(p)
		return engine.Result{}, classify(ctx, "commit", ctx.Err())
	}
}

// alone is a round of one.
func (g *groups) alone(ctx context.Context, txn engine.Txn) (engine.Result, error) {
	defer func() {
		if next := g.land(); next != nil {
			g.rounds.Go(func() { g.fly(next) })
		}
	}()
	results, err := g.send(ctx, []engine.Txn{txn})
	if err != nil {
		return engine.Result{}, err
	}
	return results[0], nil
}

// leave takes a transaction back whose round has not begun.
func (g *groups) leave(p *pending) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, other := range g.waiting {
		if other == p {
			g.waiting = append(g.waiting[:i], g.waiting[i+1:]...)
			return
		}
	}
}

// land ends a round. It returns the next one for the caller to carry out, nil when nobody waits, and starts
// the others that are needed beside it.
func (g *groups) land() []*pending {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.flying--
	if g.flying >= pipelined || len(g.waiting) == 0 {
		return nil
	}
	rounds := divide(g.waiting, g.room)
	g.waiting = nil
	g.flying += len(rounds)
	for _, round := range rounds[1:] {
		g.rounds.Go(func() { g.fly(round) })
	}
	return rounds[0]
}

// fly carries out rounds until nobody waits.
func (g *groups) fly(round []*pending) {
	for ; round != nil; round = g.land() {
		g.deliver(round)
	}
}

// deliver commits a round, and tells everybody in it. One that the engine refuses as a whole is done one by one, so
// that nobody is refused for another's sake.
func (g *groups) deliver(round []*pending) {
	txns := make([]engine.Txn, len(round))
	for i, p := range round {
		txns[i] = p.txn
	}
	results, err := g.send(context.Background(), txns) // nobody who leaves takes the others along
	if len(round) > 1 && vortex.IsKind(err, vortex.Invalid) {
		for i := range round {
			g.deliver(round[i : i+1])
		}
		return
	}
	for i, p := range round {
		if p.err = err; err == nil {
			p.result = results[i]
		}
		close(p.done)
	}
}

// wait returns when no round is under way that nobody waits for.
func (g *groups) wait() { g.rounds.Wait() }
