package kind_test

import (
	"context"
	"testing"
	"time"

	"vortex/internal/kind"
	"vortex/internal/kind/engine"
	"vortex/internal/kind/kindtest"
)

// off is a clock that is wrong by an amount.
func off(by time.Duration) func() time.Time { return func() time.Time { return time.Now().Add(by) } }

// server opens a store of that name on a shared engine, whose clock is off.
func server(t *testing.T, e engine.Engine, name string, by time.Duration) *kind.Store {
	t.Helper()
	s, _ := openStore(t, kind.Config{Engine: e, Name: name, Wall: off(by)}, userSchema)
	return s
}

// hasWritten waits until a server's mark is the newest, by which the others know of it.
func hasWritten(t *testing.T, s *kind.Store) {
	t.Helper()
	apart(t)
	put(t, s, "written", "v")
}

// keepWriting writes now and then, as a leader does that renews its lock.
func keepWriting(t *testing.T, s *kind.Store) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			_, _ = s.Put(ctx, "lease", []byte("v"), 0)
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
}

func TestClockThatIsOffEndsNoRecordEarly(t *testing.T) {
	t.Parallel()
	for name, by := range map[string]time.Duration{"ahead": time.Hour, "behind": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := openEngine(t, t.TempDir())
			t.Cleanup(func() { _ = e.Close() })
			right := server(t, e, "right", 0)
			hasWritten(t, right)
			keepWriting(t, right)
			if _, err := right.Put(t.Context(), "long", []byte("v"), 10*time.Minute); err != nil {
				t.Fatal(err)
			}
			wrong := server(t, e, "wrong", by)
			sweep(t, wrong)
			if _, err := wrong.Put(t.Context(), "theirs", []byte("v"), 10*time.Minute); err != nil {
				t.Fatal(err)
			}
			if _, err := wrong.Put(t.Context(), "brief", []byte("v"), time.Second); err != nil {
				t.Fatal(err)
			}
			for _, s := range []*kind.Store{right, wrong} {
				kindtest.Eventually(t, "a brief record ends", func() bool { _, ok := s.Latest("brief"); return !ok })
				for _, key := range []string{"long", "theirs"} {
					rec, err := s.Get(key)
					if err != nil {
						t.Fatalf("a record that lives for ten minutes: %v", err)
					}
					if left := time.Until(time.UnixMilli(rec.ExpiresAt)); left < 9*time.Minute || left > 11*time.Minute {
						t.Errorf("%s expires in %s; ten minutes were asked for", key, left)
					}
				}
				if apart := time.Since(s.Now()).Abs(); apart > time.Minute {
					t.Errorf("the store's time is off by %s", apart)
				}
			}
		})
	}
}

func sweep(t *testing.T, s *kind.Store) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Sweep(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

// A clock that is set while the server runs changes no expiry, of a server alone neither.
func TestClockThatJumpsEndsNoRecordEarly(t *testing.T) {
	for _, by := range []time.Duration{time.Hour, -time.Hour} {
		t.Run(by.String(), func(t *testing.T) {
			e := openEngine(t, t.TempDir())
			t.Cleanup(func() { _ = e.Close() })
			began := time.Now()
			jumps := func() time.Time {
				if time.Since(began) > 500*time.Millisecond {
					return time.Now().Add(by)
				}
				return time.Now()
			}
			s, _ := openStore(t, kind.Config{Engine: e, Name: "alone", Wall: jumps}, userSchema)
			sweep(t, s)
			if _, err := s.Put(t.Context(), "long", []byte("v"), 10*time.Minute); err != nil {
				t.Fatal(err)
			}
			kindtest.Eventually(t, "the clock has jumped, and was looked at twice", func() bool {
				put(t, s, "other", "v")
				return time.Since(began) > 3*time.Second
			})
			if _, err := s.Put(t.Context(), "brief", []byte("v"), 300*time.Millisecond); err != nil {
				t.Fatal(err)
			}
			kindtest.Eventually(t, "a brief record ends", func() bool { _, ok := s.Latest("brief"); return !ok })
			if _, err := s.Get("long"); err != nil {
				t.Errorf("a record that lives for ten minutes: %v", err)
			}
		})
	}
}

// What expired while nobody was there is gone when a server that was always alone starts again.
func TestServerAloneTakesTheTimeFromItsClock(t *testing.T) {
	e := openEngine(t, t.TempDir())
	t.Cleanup(func() { _ = e.Close() })
	s, stop := openStore(t, kind.Config{Engine: e, Name: "alone"}, userSchema)
	if _, err := s.Put(t.Context(), "k", []byte("v"), time.Minute); err != nil {
		t.Fatal(err)
	}
	stop()
	began := time.Now()
	later := server(t, e, "alone", time.Hour)
	if _, err := later.Get("k"); err == nil {
		t.Error("a record is there an hour after its end")
	}
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("the start took %s", took)
	}
}
