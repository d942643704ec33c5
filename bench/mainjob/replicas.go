package main

import (
	"context"
	"errors"
	"time"

	"vortex/bench/report"
)

// measureReplicas measures how long it takes from nothing to many instances, beside Docker Swarm, in turns. Ours
// ends when every instance has answered a request through the edge; the peer's when its tasks run.
func (b *bench) measureReplicas(ctx context.Context) (err error) {
	dock, err := openDocker(ctx, b.hello)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dock.close(ctx)) }()
	if err := dock.joinSwarm(ctx); err != nil {
		return err
	}
	l, err := b.openWithImage(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	if err := l.deploy(ctx, app("many", healthCheck(), manual(0))); err != nil {
		return err
	}
	var ours, theirs []time.Duration
	for range b.scaleUps {
		own, err := l.scaleUp(ctx, "many", b.replicas)
		if err != nil {
			return err
		}
		other, err := dock.serve(ctx, b.replicas)
		if err != nil {
			return err
		}
		ours, theirs = append(ours, own), append(theirs, other)
	}
	own, other := millis(ours), millis(theirs)
	ratios := ratiosOf(own, other)
	b.report.Add(report.Figure{
		Name: "main/replicas", Value: report.Percentile(own, 0.5), Unit: "ms",
		Peer: "docker service create", PeerValue: report.Percentile(other, 0.5), Ratio: report.Percentile(ratios, 0.5),
		RatioLow: report.Percentile(ratios, 0.25), RatioHigh: report.Percentile(ratios, 0.75), Limit: 0.25, Samples: len(own),
	})
	return nil
}

// scaleUp scales an app from 0 to n, and back when all instances have answered.
func (l *live) scaleUp(ctx context.Context, name string, n int) (time.Duration, error) {
	address, err := l.edgeAddress()
	if err != nil {
		return 0, err
	}
	from, began := l.changes.mark(), time.Now()
	if err := l.scale(ctx, name, n); err != nil {
		return 0, err
	}
	if _, err := l.changes.next(ctx, from, "every instance is routed to", routedOf(name, n)); err != nil {
		return 0, err
	}
	edge := asker{address: address, host: host(name)}
	defer edge.close()
	answered := map[string]bool{}
	err = await(ctx, time.Millisecond, "every instance answers through the edge", func() (bool, error) {
		for range n {
			who, err := edge.ask(ctx)
			if err != nil {
				return false, err
			}
			answered[who] = true
		}
		return len(answered) >= n, nil
	})
	took := time.Since(began)
	if err != nil {
		return 0, err
	}
	if err := l.scale(ctx, name, 0); err != nil {
		return 0, err
	}
	return took, await(ctx, 50*time.Millisecond, "the instances are gone", func() (bool, error) {
		list, err := l.API.Instances(ctx, name)
		return len(list.Instances) == 0, err
	})
}
