package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"vortex/bench/report"
)

const (
	cpuLimit     = 0.9     // of the better of nginx and HAProxy
	rateLimit    = 1.0     // of the better
	reverseLimit = 1.0 / 6 // of the proxy of net/http/httputil
	webRoutes    = 100
	webConns     = 64
)

// sample is what one proxy did in one round.
type sample struct {
	cost float64 // CPU time of one request, in us
	rate float64 // requests a second
	busy float64 // of the proxy's cores, in %
}

// measureHTTP measures small answers over connections that are kept alive: with a core for the proxy alone, and with all on all cores.
func (b *bench) measureHTTP(ctx context.Context) error {
	if err := b.compareHTTP(ctx, apart(), b.edge, nginx, haproxy, b.reverse); err != nil {
		return err
	}
	return b.compareHTTP(ctx, together(), b.edge, nginx, haproxy)
}

// compareHTTP measures our edge, which comes first, beside peers.
func (b *bench) compareHTTP(ctx context.Context, l layout, begin ...starter) (err error) {
	s, err := b.open(ctx, l, webRoutes)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	proxies, err := s.serveAll(ctx, begin...)
	if err != nil {
		return err
	}
	defer stopAll(proxies)
	for _, p := range proxies {
		if err := edits(ctx, p.addr); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	costs, rates := map[string][]float64{}, map[string][]float64{}
	err = b.takeTurns(ctx, proxies, func(p *proxy, d time.Duration) (sample, error) { return s.hammer(ctx, p, webConns, d) },
		func(name string, one sample) {
			costs[name] = append(costs[name], one.cost)
			rates[name] = append(rates[name], one.rate)
		})
	if err != nil {
		return err
	}
	name := "edge/http1/" + l.name + "/"
	costs[better], rates[better] = lowest(costs, "nginx", "HAProxy"), highest(rates, "nginx", "HAProxy")
	peers := []string{better, "nginx", "HAProxy"}
	for _, peer := range peers {
		b.against(name+"cpu_per_request", "us", peer, costs, cpuLimit)
	}
	if costs["ReverseProxy"] != nil {
		b.against(name+"cpu_per_request", "us", "ReverseProxy", costs, reverseLimit)
	}
	for _, peer := range peers {
		b.against(name+"throughput", "1/s", peer, rates, rateLimit)
	}
	return nil
}

// better stands for the better of nginx and HAProxy in each round.
const better = "the better"

// against adds our figure beside a peer's. Limits are for the better of two peers and for one that has no rival.
func (b *bench) against(name, unit, peer string, values map[string][]float64, limit float64) {
	c := report.Compared{Ours: values["edge"], Peer: values[peer]}
	direction := ""
	if unit == "1/s" {
		direction = "higher"
	}
	if peer != better && values[better] != nil && peer != "ReverseProxy" {
		limit = 0
	}
	b.report.Add(c.Figure(name, unit, peer, direction, limit))
}

// lowest is the lowest value of some proxies in each round.
func lowest(values map[string][]float64, names ...string) []float64 {
	return best(func(a, b float64) bool { return a < b }, values, names)
}

// highest is the highest value of some proxies in each round.
func highest(values map[string][]float64, names ...string) []float64 {
	return best(func(a, b float64) bool { return a > b }, values, names)
}

func best(beats func(a, b float64) bool, values map[string][]float64, names []string) []float64 {
	chosen := slices.Clone(values[names[0]])
	for _, name := range names[1:] {
		for i, v := range values[name] {
			if beats(v, chosen[i]) {
				chosen[i] = v
			}
		}
	}
	return chosen
}

// takeTurns lets every proxy do something in every round, after a warm-up, and hands over what each did.
func (b *bench) takeTurns(ctx context.Context, proxies []*proxy, do func(*proxy, time.Duration) (sample, error), take func(name string, s sample)) error {
	for round := -1; round < b.rounds; round++ {
		d := b.round
		if round < 0 {
			d = b.warmUp
		}
		for _, p := range rotated(proxies, round) {
			one, err := do(p, d)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if round >= 0 {
				take(p.name, one)
			}
		}
	}
	return nil
}

// hammer loads a proxy with as many requests as it takes.
func (s *site) hammer(ctx context.Context, p *proxy, conns int, d time.Duration) (sample, error) {
	before, err := p.cpu()
	if err != nil {
		return sample{}, err
	}
	counted, err := s.wrk(ctx, p.addr, conns, d)
	if err != nil {
		return sample{}, err
	}
	after, err := p.cpu()
	return sample{
		cost: float64((after - before).Microseconds()) / float64(counted.requests),
		rate: float64(counted.requests) / counted.took.Seconds(),
	}, err
}
