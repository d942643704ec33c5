package kind_test

import (
	"context"
	"iter"
	"sync/atomic"
	"testing"
	"time"

	"vortex/internal/kind"
	"vortex/internal/kind/engine"
)

// mute is an engine that can leave reads without an answer, as one does whose host has just lost its power.
type mute struct {
	engine.Engine

	on atomic.Bool
}

func (m *mute) Range(ctx context.Context, lo, hi string, rev *int64) iter.Seq2[engine.KV, error] {
	if !m.on.Load() {
		return m.Engine.Range(ctx, lo, hi, rev)
	}
	return func(yield func(engine.KV, error) bool) {
		<-ctx.Done()
		yield(engine.KV{}, context.Cause(ctx))
	}
}

// TestFeedBeginsWithoutTheEngine follows changes from a revision that memory has, while the engine answers no read.
func TestFeedBeginsWithoutTheEngine(t *testing.T) {
	e := &mute{Engine: embedded(t)}
	s := run(t, e)
	mustPut(t, s, "k", []byte("1"))
	from := s.Revision()
	mustPut(t, s, "k", []byte("2"))
	e.on.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	feed, err := s.Feed(ctx, []kind.Selection{{Prefix: "k"}}, from, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	defer feed.Close()
	for want := from; want <= s.Revision(); {
		batches, err := feed.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range batches {
			if b.Revision != want {
				t.Fatalf("revision %d comes where %d is due", b.Revision, want)
			}
			want++
		}
	}
}
