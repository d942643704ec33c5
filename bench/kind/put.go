package main

import (
	"context"
	"errors"
	"fmt"

	"vortex/bench/report"
)

const (
	putRateLimit = 0.8
	putCPULimit  = 1.3
	putP99Limit  = 1.5
)

// measurePut measures single puts at several numbers of clients.
func (b *bench) measurePut(ctx context.Context) (err error) {
	p, err := b.start(ctx, keys)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	for _, clients := range []int{1, 16, 200} {
		if err := b.putWith(ctx, p, clients); err != nil {
			return err
		}
	}
	return nil
}

// putWith measures puts of a number of clients.
func (b *bench) putWith(ctx context.Context, p *pair, clients int) (err error) {
	ours, etcd, err := p.gather(clients)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ours.close(), etcd.close()) }()
	put := func(ctx context.Context, s store, n int) error {
		return s.put(ctx, key(n%keys), value(n%keys, uint64(n)))
	}
	var rate, cpu, p99 report.Compared
	err = b.takeTurns(ctx, ours, etcd, put, put, func(mine, theirs sample) {
		rate.Add(mine.rate(), theirs.rate())
		cpu.Add(mine.cost(), theirs.cost())
		p99.Add(mine.p99, theirs.p99)
	})
	if err != nil {
		return err
	}
	name := fmt.Sprintf("kind/put/%d_clients/", clients)
	b.report.Add(rate.Figure(name+"throughput", "1/s", "etcd", "higher", putRateLimit))
	b.report.Add(cpu.Figure(name+"cpu", "us", "etcd", "", putCPULimit))
	b.report.Add(p99.Figure(name+"p99", "ms", "etcd", "", putP99Limit))
	return nil
}

// takeTurns loads both stores in turn, after a warm-up, and hands over each round.
func (b *bench) takeTurns(ctx context.Context, ours, etcd *fleet, mine, theirs operation, take func(ours, etcd sample)) error {
	for round := -1; round < b.rounds; round++ {
		d := b.round
		if round < 0 {
			d = b.warmUp
		}
		first, err := ours.load(ctx, d, mine)
		if err != nil {
			return fmt.Errorf("vortex: %w", err)
		}
		second, err := etcd.load(ctx, d, theirs)
		if err != nil {
			return fmt.Errorf("etcd: %w", err)
		}
		if round >= 0 {
			take(first, second)
		}
	}
	return nil
}
