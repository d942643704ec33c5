package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// floorDelays returns, in ms, the delays that the machine itself gives: a record of the same size is appended to a file and made
// durable, then sent to as many connections, one write each, with nothing in between. No store can be faster.
func (b *bench) floorDelays(ctx context.Context) (took []float64, err error) {
	dir, err := os.MkdirTemp("", "vortex-bench-floor-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	f, err := openFan(ctx, watchers)
	if err != nil {
		return nil, err
	}
	defer f.close()
	ticker := time.NewTicker(time.Second / watchRate)
	defer ticker.Stop()
	for n, end := 0, time.Now().Add(b.watched); time.Now().Before(end); n++ {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-ticker.C:
		}
		f.began(time.Now())
		record := value(n, 1)
		if _, err := log.Write(record); err != nil {
			return nil, err
		}
		if err := log.Sync(); err != nil {
			return nil, err
		}
		if err := f.send(record); err != nil {
			return nil, err
		}
	}
	return f.delays(), nil
}

// fan is connections that get the same, each with a reader.
type fan struct {
	senders, receivers []net.Conn
	readers            sync.WaitGroup

	mu     sync.Mutex
	starts []time.Time
	took   []float64
}

func openFan(ctx context.Context, n int) (*fan, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer func() { _ = ln.Close() }()
	f := &fan{}
	for range n {
		to, err := new(net.Dialer).DialContext(ctx, "tcp", ln.Addr().String())
		if err != nil {
			f.close()
			return nil, err
		}
		f.receivers = append(f.receivers, to)
		from, err := ln.Accept()
		if err != nil {
			f.close()
			return nil, err
		}
		f.senders = append(f.senders, from)
		f.readers.Go(func() { f.read(to) })
	}
	return f, nil
}

func (f *fan) began(at time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.starts = append(f.starts, at)
}

func (f *fan) send(record []byte) error {
	for _, conn := range f.senders {
		if _, err := conn.Write(record); err != nil {
			return err
		}
	}
	return nil
}

// read notes when each record came, until the connection is closed.
func (f *fan) read(conn net.Conn) {
	size, got := len(value(0, 1)), 0
	for buf, n := make([]byte, 32<<10), 0; ; n = got / size {
		read, err := conn.Read(buf)
		if err != nil {
			return
		}
		now := time.Now()
		got += read
		f.mu.Lock()
		for ; n < got/size; n++ {
			f.took = append(f.took, float64(now.Sub(f.starts[n]))/float64(time.Millisecond))
		}
		f.mu.Unlock()
	}
}

func (f *fan) delays() []float64 {
	f.close()
	return f.took
}

// close waits for the readers, who get what was sent first.
func (f *fan) close() {
	for _, conn := range f.senders {
		_ = conn.Close()
	}
	f.readers.Wait()
	for _, conn := range f.receivers {
		_ = conn.Close()
	}
}
