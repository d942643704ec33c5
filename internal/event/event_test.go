package event_test

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"vortex"
	"vortex/internal/event"
	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
)

func run(t *testing.T, r *event.Recorder) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("recorder: %v", err)
		}
	})
}

func TestEventsAreKeptInOrderForADay(t *testing.T) {
	store := kindtest.Open(t)
	r := &event.Recorder{Store: store, Log: slog.New(slog.DiscardHandler)}
	run(t, r)
	const events = 700
	for n := range events {
		r.Record(vortex.EventRecord{Component: "test", Type: "Counted", Message: strconv.Itoa(n)})
	}
	kindtest.Eventually(t, "all are written", func() bool { return len(kind.All(store, vortex.Events)) == events })
	for n, e := range kind.All(store, vortex.Events) {
		if e.Value.Message != strconv.Itoa(n) || e.Value.ID != e.ID || e.Value.Severity != vortex.SeverityInfo || e.Value.At.IsZero() {
			t.Fatalf("event %d is %+v", n, *e.Value)
		}
	}
	rec := store.PrefixScan(vortex.Events.Prefix + ":")[0]
	if left := time.Until(time.UnixMilli(rec.ExpiresAt)); left < 23*time.Hour || left > 24*time.Hour {
		t.Errorf("it is kept for %s more; want a day", left)
	}
}

// TestRecordingNeverWaits records more than is kept while nobody writes: the newest stay.
func TestRecordingNeverWaitsAndKeepsTheNewest(t *testing.T) {
	const kept, recorded = 10_000, 10_500
	store := kindtest.Open(t)
	var log lockedBuilder
	r := &event.Recorder{Store: store, Log: slog.New(slog.NewTextHandler(&log, nil))}
	for n := range recorded {
		r.Record(vortex.EventRecord{Component: "test", Type: "Counted", Message: strconv.Itoa(n)})
	}
	run(t, r)
	kindtest.Eventually(t, "what is kept is written", func() bool { return len(kind.All(store, vortex.Events)) == kept })
	if first := kind.All(store, vortex.Events)[0].Value.Message; first != strconv.Itoa(recorded-kept) {
		t.Errorf("the oldest kept is %s", first)
	}
	if !strings.Contains(log.String(), "count=500") {
		t.Errorf("the log does not tell of 500 dropped events: %s", log.String())
	}
}

func TestIDsSortByTime(t *testing.T) {
	at := time.Now()
	var ids []string
	for n := range 1000 {
		ids = append(ids, event.NewID(at.Add(time.Duration(n)*time.Millisecond)))
	}
	if !slices.IsSorted(ids) || len(slices.Compact(ids)) != 1000 {
		t.Error("ids of later events do not sort after those of earlier ones")
	}
}

type lockedBuilder struct {
	mu sync.Mutex
	strings.Builder
}

func (b *lockedBuilder) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Builder.Write(p)
}

func (b *lockedBuilder) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Builder.String()
}
