package kind_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
)

// watchMany opens watches that are read all the time, and returns how many events they got.
func watchMany(b *testing.B, s *kind.Store, n int, prefix func(i int) string) (delivered *atomic.Int64, stop func()) {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	delivered = &atomic.Int64{}
	var readers sync.WaitGroup
	for i := range n {
		w := s.Watch(kind.WatchOptions{Prefixes: []string{prefix(i)}})
		readers.Go(func() {
			defer w.Close()
			for {
				batches, err := w.Next(ctx)
				if err != nil {
					return
				}
				for _, batch := range batches {
					delivered.Add(int64(len(batch.Events)))
				}
			}
		})
	}
	return delivered, func() { cancel(); readers.Wait() }
}

// BenchmarkPutWatched puts from many writers while nobody, one and a thousand watch: all the same prefix, or each its own.
func BenchmarkPutWatched(b *testing.B) {
	own := func(i int) string { return "bench:" + strconv.Itoa(i%1000) + ":" }
	same := func(int) string { return "bench:" }
	for _, c := range []struct {
		name     string
		watchers int
		prefix   func(int) string
	}{
		{"none", 0, same}, {"one", 1, same}, {"1000-same-prefix", 1000, same}, {"1000-own-prefixes", 1000, own},
	} {
		for _, writers := range []int{1, 100} {
			b.Run(fmt.Sprintf("%s/writers=%d", c.name, writers), func(b *testing.B) {
				s := kindtest.Open(b)
				delivered, stop := watchMany(b, s, c.watchers, c.prefix)
				value := make([]byte, 512)
				var next atomic.Int64
				b.ResetTimer()
				var wg sync.WaitGroup
				for range writers {
					wg.Go(func() {
						for {
							n := next.Add(1)
							if n > int64(b.N) {
								return
							}
							if _, err := s.Put(context.Background(), own(int(n))+"k", value, 0); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.StopTimer()
				stop()
				b.ReportMetric(float64(delivered.Load())/float64(b.N), "events/op")
			})
		}
	}
}

// BenchmarkWatchDelay puts at a fixed rate and reports how long an event takes to the slowest of a number of watchers.
func BenchmarkWatchDelay(b *testing.B) {
	for _, watchers := range []int{1, 100, 1000} {
		b.Run(strconv.Itoa(watchers), func(b *testing.B) {
			s := kindtest.Open(b)
			var began atomic.Int64
			var mu sync.Mutex
			var delays []time.Duration
			ctx, cancel := context.WithCancel(b.Context())
			var readers sync.WaitGroup
			for range watchers {
				w := s.Watch(kind.WatchOptions{Prefixes: []string{"k"}})
				readers.Go(func() {
					defer w.Close()
					for {
						if _, err := w.Next(ctx); err != nil {
							return
						}
						d := time.Duration(time.Now().UnixNano() - began.Load())
						mu.Lock()
						delays = append(delays, d)
						mu.Unlock()
					}
				})
			}
			tick := time.NewTicker(2 * time.Millisecond)
			defer tick.Stop()
			for b.Loop() {
				<-tick.C
				began.Store(time.Now().UnixNano())
				if _, err := s.Put(ctx, "k", []byte("v"), 0); err != nil {
					b.Fatal(err)
				}
			}
			cancel()
			readers.Wait()
			slices.Sort(delays)
			b.ReportMetric(float64(delays[len(delays)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(delays[len(delays)*99/100].Microseconds()), "p99-µs")
			b.ReportMetric(0, "ns/op")
		})
	}
}
