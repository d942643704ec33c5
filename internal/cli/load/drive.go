package load

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"vortex/client"
)

// operation is one kind of thing a client does; n counts over all clients.
type operation struct {
	name string
	do   func(ctx context.Context, k *client.Kind, n int) error
}

// operations returns what a mode does in turn.
func (l *Load) operations(m Mode) []operation {
	put := operation{string(Put), func(ctx context.Context, k *client.Kind, n int) error {
		_, err := k.Put(ctx, l.key(n), l.value(n), 0)
		return err
	}}
	get := operation{string(Get), func(ctx context.Context, k *client.Kind, n int) error {
		_, err := k.Get(ctx, l.key(n))
		return err
	}}
	switch m {
	case Get:
		return []operation{get}
	case GetSnapshot:
		return []operation{{string(m), func(ctx context.Context, k *client.Kind, n int) error {
			_, err := k.GetSnapshot(ctx, l.key(n))
			return err
		}}}
	case Query:
		return []operation{{string(m), func(ctx context.Context, k *client.Kind, _ int) error {
			_, err := k.Query(ctx, l.Type, l.Filter, 0)
			return err
		}}}
	case Mixed:
		get.name, put.name = "mixed get", "mixed put"
		return []operation{get, get, get, get, get, get, get, get, get, put}
	default:
		return []operation{put}
	}
}

// pace hands out operations until a bound is reached.
type pace struct {
	next  atomic.Int64
	began time.Time
	end   time.Time     // zero: none
	count int           // 0: no bound
	every time.Duration // between two operations; 0: none waits
}

func (l *Load) pace(rate int) *pace {
	p := &pace{began: time.Now(), count: l.Count}
	if l.Duration > 0 {
		p.end = p.began.Add(l.Duration)
	}
	if rate > 0 {
		p.every = time.Second / time.Duration(rate)
	}
	return p
}

// take waits until the next operation is due and returns its number and when that was, or false when there is none.
func (p *pace) take(ctx context.Context) (n int, due time.Time, ok bool) {
	n = int(p.next.Add(1)) - 1
	now := time.Now()
	due = now
	if p.every > 0 {
		due = p.began.Add(time.Duration(n) * p.every)
	}
	over := p.count > 0 && n >= p.count || !p.end.IsZero() && (!due.Before(p.end) || !now.Before(p.end))
	return n, due, !over && pause(ctx, due.Sub(now))
}

// pause reports whether ctx outlived it.
func pause(ctx context.Context, d time.Duration) bool {
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
	}
	return ctx.Err() == nil
}

// drive lets every client do one operation after the other until the load's bounds are reached or ctx ends. There is a result
// for each kind of operation.
func (l *Load) drive(ctx context.Context, ops []operation) (results []Result) {
	p := l.pace(l.Rate)
	tallies := make([]map[string]*tally, len(l.crowd))
	var wg sync.WaitGroup
	for i, k := range l.crowd {
		wg.Go(func() { tallies[i] = work(ctx, k, p, ops) })
	}
	wg.Wait()
	took := time.Since(p.began)
	all := newTallies(ops)
	for _, mine := range tallies {
		for name, t := range mine {
			all[name].merge(t)
		}
	}
	for _, op := range ops {
		if t, ok := all[op.name]; ok {
			results = append(results, t.result(op.name, took))
			delete(all, op.name)
		}
	}
	return results
}

func newTallies(ops []operation) map[string]*tally {
	out := map[string]*tally{}
	for _, op := range ops {
		out[op.name] = &tally{}
	}
	return out
}

// work is one client. It rests after an error, so that a store that refuses at once is not flooded.
func work(ctx context.Context, k *client.Kind, p *pace, ops []operation) map[string]*tally {
	const rest = 10 * time.Millisecond
	mine := newTallies(ops)
	for {
		n, due, ok := p.take(ctx)
		if !ok {
			return mine
		}
		op := ops[n%len(ops)]
		err := patiently(ctx, func(ctx context.Context) error { return op.do(ctx, k, n) })
		if err != nil && ctx.Err() != nil {
			return mine // interrupted, which says nothing about the store
		}
		mine[op.name].add(time.Since(due), err)
		if err != nil {
			pause(ctx, rest)
		}
	}
}

// patiently gives an operation so much time.
func patiently(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return do(ctx)
}
