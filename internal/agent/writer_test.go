package agent

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
)

func TestRefusedRecordDoesNotHoldUpTheOthers(t *testing.T) {
	store := kindtest.Open(t)
	w := newWriter(store, slog.New(slog.DiscardHandler))
	put(w, vortex.Containers, &vortex.ContainerRecord{ID: "bad", ClientID: "web", Status: "Confused"}, "bad")
	for _, id := range []string{"a", "b", "c"} {
		put(w, vortex.Containers, &vortex.ContainerRecord{ID: id, ClientID: "web", Status: vortex.ContainerStatusRunning}, id)
	}
	w.finish(t.Context(), 10*time.Second)
	if got := len(kind.All(store, vortex.Containers)); got != 3 {
		t.Errorf("%d records written; want 3", got)
	}
}

func TestOnlyTheNewestOfARecordIsWritten(t *testing.T) {
	store := kindtest.Open(t)
	w := newWriter(store, slog.New(slog.DiscardHandler))
	before := store.Revision()
	for range 1000 {
		put(w, vortex.Containers, &vortex.ContainerRecord{ID: "a", ClientID: "web", Status: vortex.ContainerStatusProvisioning}, "a")
	}
	put(w, vortex.Containers, &vortex.ContainerRecord{ID: "a", ClientID: "web", Status: vortex.ContainerStatusDead}, "a")
	w.finish(t.Context(), 10*time.Second)
	rec, err := kind.Get(store, vortex.Containers, "a")
	if err != nil || rec.Value.Status != vortex.ContainerStatusDead {
		t.Fatalf("record: %+v, %v", rec.Value, err)
	}
	if n := store.Revision() - before; n != 1 {
		t.Errorf("%d transactions; want 1", n)
	}
	// What the store holds already is not written again, and what failed does not replace what is newer.
	put(w, vortex.Containers, rec.Value, "a")
	w.finish(t.Context(), 10*time.Second)
	if n := store.Revision() - before; n != 1 {
		t.Errorf("%d transactions after writing the same; want 1", n)
	}
}

func TestBatchThatWasNotWrittenDoesNotReplaceNewerRecords(t *testing.T) {
	store := kindtest.Open(t)
	w := newWriter(store, slog.New(slog.DiscardHandler))
	put(w, vortex.Containers, &vortex.ContainerRecord{ID: "a", ClientID: "web", Status: vortex.ContainerStatusRunning}, "a")
	batch := w.take()
	put(w, vortex.Containers, &vortex.ContainerRecord{ID: "a", ClientID: "web", Status: vortex.ContainerStatusDead}, "a")
	w.restore(batch)
	w.finish(context.WithoutCancel(t.Context()), 10*time.Second)
	if rec, err := kind.Get(store, vortex.Containers, "a"); err != nil || rec.Value.Status != vortex.ContainerStatusDead {
		t.Errorf("record: %+v, %v; want the newer one, Dead", rec.Value, err)
	}
}
