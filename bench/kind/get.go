package main

import (
	"context"
	"errors"

	"vortex/bench/report"
)

const (
	getClients        = 16
	snapshotLimit     = 0.7
	linearizableLimit = 1.0
)

// measureGet measures reads of single keys beside etcd's linearizable ones.
func (b *bench) measureGet(ctx context.Context) (err error) {
	p, err := b.start(ctx, keys)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	ours, etcd, err := p.gather(getClients)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ours.close(), etcd.close()) }()
	get := func(linearizable bool) operation {
		return func(ctx context.Context, s store, n int) error { return s.get(ctx, key(n%keys), linearizable) }
	}
	for _, c := range []struct {
		name         string
		linearizable bool
		limit        float64
	}{
		{"snapshot", false, snapshotLimit},
		{"linearizable", true, linearizableLimit},
	} {
		var rate, cpu, p99 report.Compared
		err := b.takeTurns(ctx, ours, etcd, get(c.linearizable), get(true), func(mine, theirs sample) {
			rate.Add(mine.rate(), theirs.rate())
			cpu.Add(mine.cost(), theirs.cost())
			p99.Add(mine.p99, theirs.p99)
		})
		if err != nil {
			return err
		}
		name := "kind/get/" + c.name + "/"
		b.report.Add(cpu.Figure(name+"cpu", "us", "etcd, linearizable", "", c.limit))
		b.report.Add(rate.Figure(name+"throughput", "1/s", "etcd, linearizable", "higher", 0))
		b.report.Add(p99.Figure(name+"p99", "ms", "etcd, linearizable", "", 0))
	}
	return nil
}
