package loop_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"vortex/internal/kind"
	"vortex/internal/kind/engine/etcd"
	"vortex/internal/kind/kindtest"
	"vortex/internal/loop"
)

// run runs a loop until the test ends.
func run(t *testing.T, store *kind.Store, tick loop.Tick) {
	t.Helper()
	l := loop.Loop{Store: store, Prefixes: []string{"k"}, Resync: time.Hour, Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx, tick) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("loop: %v", err)
		}
	})
}

func put(t *testing.T, s *kind.Store, key string) int64 {
	t.Helper()
	rev, err := s.Put(t.Context(), key, []byte("v"), 0)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func receive[T any](t *testing.T, ch <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(20 * time.Second):
		t.Fatal("no tick within 20 s")
	}
	return v
}

// TestNoChangeIsMissed writes before, during and between ticks: every change is in a tick that began after it.
func TestNoChangeIsMissed(t *testing.T) {
	store := kindtest.Open(t)
	const writers, each = 4, 100
	var mu sync.Mutex
	seen := map[string]bool{}
	run(t, store, func(_ context.Context, ch loop.Changes) (time.Duration, error) {
		store.View(func(v kind.View) {
			mu.Lock()
			defer mu.Unlock()
			for _, ev := range ch.Events {
				if v.Revision() < ev.Revision {
					t.Errorf("a tick for revision %d sees revision %d", ev.Revision, v.Revision())
				}
				seen[ev.Key] = true
			}
			if ch.Full {
				v.Prefix("k", func(r *kind.Record) bool { seen[r.Key] = true; return true })
			}
		})
		return 0, nil
	})
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for n := range each {
				put(t, store, fmt.Sprintf("k%d-%d", w, n))
			}
		})
	}
	wg.Wait()
	kindtest.Eventually(t, "every change was in a tick", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(seen) == writers*each
	})
}

func TestChangesDuringATickMakeOneMore(t *testing.T) {
	store := kindtest.Open(t)
	ticks, proceed := make(chan loop.Changes), make(chan struct{})
	run(t, store, func(ctx context.Context, ch loop.Changes) (time.Duration, error) {
		select {
		case ticks <- ch:
			<-proceed
		case <-ctx.Done():
		}
		return 0, nil
	})
	if first := receive(t, ticks); !first.Full {
		t.Error("the first tick is not full")
	}
	for n := range 3 {
		put(t, store, fmt.Sprintf("k%d", n))
	}
	put(t, store, "other")
	proceed <- struct{}{}
	if second := receive(t, ticks); second.Full || len(second.Events) != 3 {
		t.Errorf("the second tick has %d events, full %t; want 3", len(second.Events), second.Full)
	}
	proceed <- struct{}{}
}

func TestFailedTickIsTriedAgainInFull(t *testing.T) {
	store := kindtest.Open(t)
	ticks := make(chan bool)
	fail := 3
	run(t, store, func(ctx context.Context, ch loop.Changes) (time.Duration, error) {
		select {
		case ticks <- ch.Full:
		case <-ctx.Done():
			return 0, nil
		}
		if fail--; fail > 0 {
			return 0, errors.New("not yet")
		}
		return 0, nil
	})
	for range 3 {
		if !receive(t, ticks) {
			t.Error("a tick after a failure is not full")
		}
	}
}

func TestAgainCallsWithoutChanges(t *testing.T) {
	store := kindtest.Open(t)
	ticks := make(chan loop.Changes)
	run(t, store, func(ctx context.Context, ch loop.Changes) (time.Duration, error) {
		select {
		case ticks <- ch:
		case <-ctx.Done():
		}
		return time.Millisecond, nil
	})
	receive(t, ticks)
	if second := receive(t, ticks); second.Full || len(second.Events) != 0 {
		t.Errorf("a tick asked for by the last one has %+v", second)
	}
}

// TestOverflowMakesAFullTick lets a loop fall behind further than its watch buffers.
func TestOverflowMakesAFullTick(t *testing.T) {
	engine, err := etcd.Embedded{Dir: t.TempDir()}.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = engine.Close() })
	store, err := kind.Open(t.Context(), kind.Config{Engine: engine, WatchBuffer: 5})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() { defer close(stopped); _ = store.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-stopped })
	ticks, proceed := make(chan loop.Changes), make(chan struct{}, 1)
	run(t, store, func(ctx context.Context, ch loop.Changes) (time.Duration, error) {
		select {
		case ticks <- ch:
			<-proceed
		case <-ctx.Done():
		}
		return 0, nil
	})
	receive(t, ticks)
	for n := range 20 {
		put(t, store, fmt.Sprintf("k%d", n))
	}
	proceed <- struct{}{}
	if second := receive(t, ticks); !second.Full {
		t.Errorf("after an overflow the loop looks at %d events only", len(second.Events))
	}
	proceed <- struct{}{}
	put(t, store, "k-after")
	if third := receive(t, ticks); third.Full || len(third.Events) != 1 {
		t.Errorf("after that it has %d events, full %t; want the one", len(third.Events), third.Full)
	}
	proceed <- struct{}{}
}
