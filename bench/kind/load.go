package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"vortex/bench/process"
	"vortex/bench/report"
)

// fleet is a number of clients of one server, each with its own connection.
type fleet struct {
	server  server
	conns   []*grpc.ClientConn
	clients []store
}

// gather connects n clients to a server.
func gather(s server, n int) (*fleet, error) {
	f := &fleet{server: s}
	for range n {
		conn, err := s.dial()
		if err != nil {
			return nil, errors.Join(err, f.close())
		}
		f.conns = append(f.conns, conn)
		f.clients = append(f.clients, s.client(conn))
	}
	return f, nil
}

func (f *fleet) close() error {
	var errs []error
	for _, conn := range f.conns {
		errs = append(errs, conn.Close())
	}
	return errors.Join(errs...)
}

// sample is what a load showed.
type sample struct {
	ops  int
	took time.Duration
	cpu  time.Duration // of the server
	p99  float64       // ms
}

// rate is operations a second.
func (s sample) rate() float64 { return float64(s.ops) / s.took.Seconds() }

// cost is the server's CPU time of one operation in microseconds.
func (s sample) cost() float64 { return float64(s.cpu.Microseconds()) / float64(s.ops) }

// operation is done by a client; n counts over all clients.
type operation func(ctx context.Context, s store, n int) error

// load lets every client of the fleet do one operation after the other for a while.
func (f *fleet) load(ctx context.Context, d time.Duration, do operation) (sample, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	before, err := process.CPU(f.server.pid())
	if err != nil {
		return sample{}, err
	}
	began := time.Now()
	latencies := f.drive(ctx, cancel, began.Add(d), do)
	took := time.Since(began)
	if ctx.Err() != nil {
		return sample{}, context.Cause(ctx)
	}
	after, err := process.CPU(f.server.pid())
	return sample{ops: len(latencies), took: took, cpu: after - before, p99: report.Percentile(latencies, p99)}, err
}

const p99 = 0.99

// drive returns how long each operation took, in ms; a failed one ends all through fail.
func (f *fleet) drive(ctx context.Context, fail context.CancelCauseFunc, end time.Time, do operation) (all []float64) {
	var next atomic.Int64
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, c := range f.clients {
		wg.Go(func() {
			var mine []float64
			for at := time.Now(); at.Before(end) && ctx.Err() == nil; {
				if err := do(ctx, c, int(next.Add(1))); err != nil {
					fail(fmt.Errorf("under load: %w", err))
				}
				now := time.Now()
				mine = append(mine, float64(now.Sub(at))/float64(time.Millisecond))
				at = now
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, mine...)
		})
	}
	wg.Wait()
	return all
}

// fill writes records from 0 up to n in transactions of a hundred.
func (f *fleet) fill(ctx context.Context, n int) error {
	const batch = 100
	var next atomic.Int64
	errs := make([]error, len(f.clients))
	var wg sync.WaitGroup
	for i, c := range f.clients {
		wg.Go(func() {
			for errs[i] == nil {
				from := int(next.Add(batch)) - batch
				if from >= n {
					return
				}
				names, values := make([]string, 0, batch), make([][]byte, 0, batch)
				for r := from; r < min(from+batch, n); r++ {
					names, values = append(names, key(r)), append(values, value(r, 0))
				}
				errs[i] = c.putAll(ctx, names, values)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
