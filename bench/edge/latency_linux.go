package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"vortex/bench/edge/load"
	"vortex/bench/report"
)

const (
	p50, p99 = 0.5, 0.99

	latencyLimit = 1.1 // of HAProxy's p99
	latencyShare = 0.7 // of what the slowest peer takes
)

// measureLatency measures how long answers take at a load that all of them can bear.
func (b *bench) measureLatency(ctx context.Context) (err error) {
	s, err := b.open(ctx, apart(), webRoutes)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	proxies, err := s.serveAll(ctx, b.edge, nginx, haproxy)
	if err != nil {
		return err
	}
	defer stopAll(proxies)
	rate, err := b.bearable(ctx, s, proxies[1:])
	if err != nil {
		return err
	}
	middle, tail, late := map[string][]float64{}, map[string][]float64{}, []float64{}
	err = b.takeTurns(ctx, proxies, func(p *proxy, d time.Duration) (sample, error) {
		result, err := s.rated(p, rate, d, s.heads(hot))
		late = append(late, report.Percentile(result.Late, p99))
		return sample{cost: report.Percentile(result.Took, p50), rate: report.Percentile(result.Took, p99)}, err
	}, func(name string, one sample) {
		middle[name] = append(middle[name], one.cost)
		tail[name] = append(tail[name], one.rate)
	})
	if err != nil {
		return err
	}
	name := fmt.Sprintf("edge/http1/latency/%d_per_second/", rate)
	for _, peer := range []string{"HAProxy", "nginx"} {
		limit := map[string]float64{"HAProxy": latencyLimit}[peer]
		b.against(name+"p50", "ms", peer, middle, 0)
		b.against(name+"p99", "ms", peer, tail, limit)
	}
	b.report.Add(report.Figure{Name: name + "client_late/p99", Value: report.Percentile(late, p50), Unit: "ms", Samples: len(late)})
	return nil
}

// bearable is the share of the slowest peer's throughput, in whole hundreds a second.
func (b *bench) bearable(ctx context.Context, s *site, peers []*proxy) (int, error) {
	const hundred = 100
	least := math.Inf(1)
	for _, p := range peers {
		for _, d := range []time.Duration{b.warmUp, b.round} {
			one, err := s.hammer(ctx, p, webConns, d)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", p.name, err)
			}
			if d == b.round {
				least = min(least, one.rate)
			}
		}
	}
	return int(least*latencyShare/hundred) * hundred, nil
}

// rated sends requests at a rate and wants each of them answered.
func (s *site) rated(p *proxy, rate int, d time.Duration, heads [][]byte) (load.Result, error) {
	r := load.Rated{Addr: p.addr, Requests: heads, Conns: webConns, Rate: rate, For: d, Cores: s.layout.rest}
	result, err := r.Run()
	if err == nil && result.Failed+result.Unsent > 0 {
		err = errors.Join(fmt.Errorf("%d of %d requests failed and %d were not sent", result.Failed, len(result.Late), result.Unsent), result.Failures)
	}
	return result, err
}

// percentiles adds the p50 and the p99 of milliseconds as figures; the limit, 0 for none, holds for the p99.
func (b *bench) percentiles(name string, took []float64, limit float64) {
	b.report.Add(report.Figure{Name: name + "/p50", Value: report.Percentile(took, p50), Unit: "ms", Samples: len(took)})
	b.report.Add(report.Figure{Name: name + "/p99", Value: report.Percentile(took, p99), Unit: "ms", Limit: limit, Samples: len(took)})
}
