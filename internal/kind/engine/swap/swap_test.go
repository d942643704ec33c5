package swap_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/engine"
	"vortex/internal/kind/engine/enginetest"
	"vortex/internal/kind/engine/etcd"
	"vortex/internal/kind/engine/swap"
	"vortex/internal/kind/kindtest"
)

func TestSwap(t *testing.T) {
	enginetest.Run(t, func(t *testing.T) engine.Engine {
		t.Helper()
		e, err := etcd.Embedded{Dir: t.TempDir()}.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s := swap.New(e)
		t.Cleanup(func() { _ = s.Close() })
		return s
	})
}

// kept is an engine that somebody else closes.
type kept struct{ engine.Engine }

func (kept) Close() error { return nil }

// pair is two members of one group.
func pair(t *testing.T) (a, b *etcd.Engine) {
	t.Helper()
	members, group := make([]etcd.Embedded, 2), map[string]string{}
	for i := range members {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprint("m", i)
		members[i] = etcd.Embedded{Dir: t.TempDir(), Name: name, PeerAddr: l.Addr().String(), Group: group}
		group[name] = "http://" + l.Addr().String()
		_ = l.Close()
	}
	engines := make([]*etcd.Engine, 2)
	var all sync.WaitGroup
	for i := range members {
		all.Go(func() {
			var err error
			if engines[i], err = members[i].Open(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(func() {
		var all sync.WaitGroup
		for _, e := range engines {
			all.Go(func() { _ = e.Close() })
		}
		all.Wait()
	})
	return engines[0], engines[1]
}

// TestReplacedUnderLoad moves a store between two members and back, again and again, under eight writers and a watcher: every write is in
// the watch once, in order, and none fails.
func TestReplacedUnderLoad(t *testing.T) {
	a, b := pair(t)
	s := swap.New(kept{a})
	store, err := kind.Open(t.Context(), kind.Config{Engine: s, WatchBuffer: 100_000})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	parts.Go(func() { _ = store.Run(ctx) })
	t.Cleanup(func() { cancel(); parts.Wait() })
	watch := store.Watch(kind.WatchOptions{Prefixes: []string{"k"}})
	defer watch.Close()
	const writers, rounds = 8, 150
	var written sync.WaitGroup
	var count atomic.Int64
	for w := range writers {
		written.Go(func() {
			for n := range rounds {
				if _, err := store.Put(t.Context(), fmt.Sprint("k", w), []byte(strconv.Itoa(n)), 0); err != nil {
					t.Errorf("write %d of %d: %v", n, w, err)
					return
				}
				count.Add(1)
			}
		})
	}
	done := make(chan struct{})
	go func() { defer close(done); written.Wait() }()
	swaps := 0
	for running := true; running; swaps++ {
		next := engine.Engine(kept{b})
		if swaps%2 == 1 {
			next = kept{a}
		}
		if err := s.Replace(t.Context(), next); err != nil {
			t.Fatal(err)
		}
		select {
		case <-done:
			running = false
		default:
		}
	}
	if t.Failed() {
		return
	}
	t.Logf("%d writes over %d changes of the engine", count.Load(), swaps)
	seen := map[string]int{}
	for total := 0; total < writers*rounds; {
		batches, err := watch.Next(t.Context())
		if err != nil {
			t.Fatalf("after %d events: %v", total, err)
		}
		for _, batch := range batches {
			for _, ev := range batch.Events {
				if want := strconv.Itoa(seen[ev.Key]); string(ev.Record.Value) != want {
					t.Fatalf("%s is %s; want %s", ev.Key, ev.Record.Value, want)
				}
				seen[ev.Key]++
				total++
			}
		}
	}
}

// TestTheNextEngineMustFollow refuses an engine that has not got what was shown already.
func TestTheNextEngineMustFollow(t *testing.T) {
	a, b := pair(t)
	s := swap.New(kept{a})
	enginetest.Commit(t, s, enginetest.Put("a", "1"))
	other, err := etcd.Embedded{Dir: t.TempDir()}.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	if err := s.Replace(t.Context(), other); !vortex.IsKind(err, vortex.Unavailable) {
		t.Errorf("an engine that is behind: %v; want Unavailable", err)
	}
	w := enginetest.Watch(t, s, 1)
	w.Next()
	if err := s.Replace(t.Context(), kept{b}); err != nil {
		t.Fatal(err)
	}
	kindtest.Eventually(t, "the engine in use is the next one", func() bool { return s.Current() == engine.Engine(kept{b}) })
	enginetest.Commit(t, s, enginetest.Put("a", "2"))
	if _, changes := w.Next(); changes[0] != "a=2" {
		t.Errorf("the watch goes on with %v", changes)
	}
}

// broken is an engine that does not close well.
type broken struct{ engine.Engine }

func (broken) Close() error { return errors.New("the server stopped") }

// TestTheNextEngineIsInUseHoweverTheOneBeforeEnds replaces an engine whose end fails: who is told of a failure closes the next one.
func TestTheNextEngineIsInUseHoweverTheOneBeforeEnds(t *testing.T) {
	a, b := pair(t)
	s := swap.New(broken{a})
	enginetest.Commit(t, s, enginetest.Put("a", "1"))
	if err := s.Replace(t.Context(), kept{b}); err != nil {
		t.Errorf("replaced, and yet: %v", err)
	}
	if s.Current() != engine.Engine(kept{b}) {
		t.Error("the engine in use is not the next one")
	}
	enginetest.Commit(t, s, enginetest.Put("a", "2"))
}
