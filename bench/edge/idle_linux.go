package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vortex/bench/edge/load"
	"vortex/bench/report"
)

const (
	idleLimit = 8192 // bytes of a connection
	idleHot   = 16   // routes that the connections have asked before they idle
	idleAsked = 1000 // routes that those ask for
	reserve   = 4000 // descriptors that a proxy needs for other things
)

// maxConnections is how many descriptors a process may have.
func maxConnections() int {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return 1024 //nolint:mnd // what is common
	}
	return int(limit.Cur)
}

// raiseFiles allows this process and its children as many descriptors as it may.
func raiseFiles() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	const wanted = 200_000
	more := unix.Rlimit{Cur: max(wanted, limit.Max), Max: max(wanted, limit.Max)}
	if unix.Setrlimit(unix.RLIMIT_NOFILE, &more) == nil {
		return nil
	}
	limit.Cur = limit.Max // it may not be raised beyond that
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
}

// measureIdle measures what connections that wait cost, and how long answers take beside them, with many routes.
func (b *bench) measureIdle(ctx context.Context) error {
	if err := raiseFiles(); err != nil {
		return err
	}
	conns := min(b.idle, maxConnections()-reserve)
	if conns < b.idle {
		b.say("a process may have %d open files here: %d connections idle, not %d", maxConnections(), conns, b.idle)
	}
	for _, one := range []struct {
		begin starter
		conns int
	}{{b.edge, conns}, {nginx, conns}, {haproxy, min(conns, (maxConnections()-reserve)/2)}} {
		if err := b.idleAt(ctx, one.begin, one.conns); err != nil {
			return err
		}
	}
	return nil
}

// idleAt measures one proxy. Ours alone has to keep limits.
func (b *bench) idleAt(ctx context.Context, begin starter, conns int) (err error) {
	s, err := b.open(ctx, together(), b.routes)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	p, err := s.serve(ctx, begin)
	if err != nil {
		return err
	}
	defer p.stop()
	if _, err := s.rated(p, b.idleRate, b.round, s.heads(idleHot)); err != nil { // everything it needs once is there
		return fmt.Errorf("%s: %w", p.name, err)
	}
	before, err := settled(ctx, p, b.settle)
	if err != nil {
		return err
	}
	began := time.Now()
	idle, err := load.OpenIdle(p.addr, conns, s.heads(idleHot))
	defer idle.Close() //nolint:staticcheck // those that were opened before an error too
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	opened := time.Since(began)
	after, err := settled(ctx, p, b.settle)
	if err != nil {
		return err
	}
	if open := idle.Open(); open != conns {
		return fmt.Errorf("%s: only %d of %d connections are still open", p.name, open, conns)
	}
	result, err := s.rated(p, b.idleRate, b.round, s.heads(min(idleAsked, s.routes)))
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	b.say("%s: %d connections were opened and asked in %s", p.name, conns, opened.Round(time.Second/10))
	limit := 0.0
	if p.name == "edge" {
		limit = idleLimit
	}
	name := fmt.Sprintf("edge/idle/%d_connections/%d_routes/%s/", conns, s.routes, strings.ToLower(p.name))
	b.report.Add(report.Figure{Name: name + "memory_per_connection", Value: (after - before) / float64(conns), Unit: "bytes", Limit: limit, Samples: conns})
	b.report.Add(report.Figure{Name: name + "memory_before", Value: before / 1e6, Unit: "MB", Samples: 1})
	b.percentiles(name+"latency", result.Took, 0)
	return nil
}

// settled waits and reads a program's memory.
func settled(ctx context.Context, p *proxy, d time.Duration) (float64, error) {
	select {
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	case <-time.After(d):
		return p.resident()
	}
}
