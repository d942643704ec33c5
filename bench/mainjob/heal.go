package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"vortex"
)

const (
	healLimit = 500 // ms, of the p99
	askEvery  = time.Millisecond
)

// measureHeal kills the only container of an app and measures how long it takes until another one answers through the edge.
func (b *bench) measureHeal(ctx context.Context) (err error) {
	l, err := b.openWithImage(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	from := l.changes.mark()
	if err := l.deploy(ctx, app("heal", healthCheck(), manual(1))); err != nil {
		return err
	}
	if _, err := l.changes.next(ctx, from, "the app is routed to", routedOf("heal", 1)); err != nil {
		return err
	}
	var took []time.Duration
	for range b.kills {
		d, err := l.heal(ctx, "heal")
		if err != nil {
			return err
		}
		took = append(took, d)
	}
	b.percentiles("main/killed_to_serving", took, healLimit)
	return nil
}

// heal kills the instance that answers and waits for an answer of another.
func (l *live) heal(ctx context.Context, name string) (time.Duration, error) {
	address, err := l.edgeAddress()
	if err != nil {
		return 0, err
	}
	edge := asker{address: address, host: host(name)}
	defer edge.close()
	var victim string
	if err := await(ctx, askEvery, "the app answers", func() (bool, error) {
		victim, err = edge.ask(ctx)
		return err == nil, nil
	}); err != nil {
		return 0, err
	}
	pid, err := l.pidOf(ctx, victim)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return 0, fmt.Errorf("kill the container: %w", err)
	}
	err = await(ctx, askEvery, "another instance answers", func() (bool, error) {
		who, err := edge.ask(ctx)
		return err == nil && who != victim, nil
	})
	return time.Since(began), err
}

// pidOf returns the process id of a container's first process.
func (l *live) pidOf(ctx context.Context, instance string) (int, error) {
	rec, err := l.kind.Get(ctx, vortex.Containers.Key(instance))
	if err != nil {
		return 0, err
	}
	c, err := vortex.Containers.Decode(rec.Value)
	if err != nil {
		return 0, err
	}
	if c.PID == nil || *c.PID <= 1 {
		return 0, fmt.Errorf("the record of %s names no process", instance)
	}
	return int(*c.PID), nil
}
