package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"vortex/bench/report"
)

const (
	watchers   = 100
	watchRate  = 100 // puts a second, whatever the answers take
	watchLimit = 5   // ms
	settled    = 2 * time.Second
)

// measureWatch measures the time from the start of a put to each watcher's event.
func (b *bench) measureWatch(ctx context.Context) (err error) {
	p, err := b.start(ctx, keys)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	ours, err := b.delaysOf(ctx, p.ours)
	if err != nil {
		return err
	}
	etcd, err := b.delaysOf(ctx, p.etcd)
	if err != nil {
		return err
	}
	floor, err := b.floorDelays(ctx)
	if err != nil {
		return err
	}
	b.report.Add(report.Figure{Name: "kind/watch/100_watchers/p99", Unit: "ms", Value: report.Percentile(ours, p99), Limit: watchLimit, Samples: len(ours)})
	b.report.Add(report.Figure{
		Name: "kind/watch/100_watchers/p99", Unit: "ms", Value: report.Percentile(ours, p99), Samples: len(ours),
		Peer: "etcd", PeerValue: report.Percentile(etcd, p99),
	})
	b.report.Add(report.Figure{
		Name: "kind/watch/100_watchers/p99", Unit: "ms", Value: report.Percentile(ours, p99), Samples: len(ours),
		Peer: "fsync and 100 writes", PeerValue: report.Percentile(floor, p99),
	})
	b.report.Add(report.Figure{
		Name: "kind/watch/100_watchers/p50", Unit: "ms", Value: report.Percentile(ours, 0.5), Samples: len(ours),
		Peer: "fsync and 100 writes", PeerValue: report.Percentile(floor, 0.5),
	})
	return nil
}

// delays collects how long after its put each watcher saw a key.
type delays struct {
	mu   sync.Mutex
	sent map[string]time.Time
	took []float64
}

func (d *delays) saw(key string) {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if at, ok := d.sent[key]; ok {
		d.took = append(d.took, float64(now.Sub(at))/float64(time.Millisecond))
	}
}

func (d *delays) send(key string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sent[key] = time.Now()
}

func (d *delays) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.took)
}

// delaysOf returns the delays in ms of one server's watchers.
func (b *bench) delaysOf(ctx context.Context, s server) (took []float64, err error) {
	f, err := gather(s, 1)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	d := &delays{sent: map[string]time.Time{}}
	watching, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	for range watchers {
		ready := make(chan struct{})
		failed := make(chan error, 1)
		wg.Go(func() { failed <- f.clients[0].watch(watching, s.address(), ready, d.saw) })
		select {
		case <-ready:
		case err := <-failed:
			return nil, fmt.Errorf("watch: %w", err)
		}
	}
	sent, err := b.putSteadily(ctx, f.clients[0], d)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(settled); d.count() < sent*watchers; {
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%d of %d events came", d.count(), sent*watchers)
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return nil, err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.took, nil
}

// putSteadily puts at a fixed rate and returns how often it did.
func (b *bench) putSteadily(ctx context.Context, s store, d *delays) (n int, err error) {
	ticker := time.NewTicker(time.Second / watchRate)
	defer ticker.Stop()
	var wg sync.WaitGroup
	var mu sync.Mutex
	for end := time.Now().Add(b.watched); time.Now().Before(end); n++ {
		select {
		case <-ctx.Done():
			return n, context.Cause(ctx)
		case <-ticker.C:
		}
		key, value := key(n), value(n, 1)
		wg.Go(func() {
			d.send(key)
			if perr := s.put(ctx, key, value); perr != nil {
				mu.Lock()
				defer mu.Unlock()
				err = perr
			}
		})
	}
	wg.Wait()
	return n, err
}

// sleep waits; the error is why ctx ended first.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
