package kind_test

import (
	"context"
	"testing"
	"time"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/kindtest"
)

func TestStoreKeepsTypedRecordsAndFindsThemByIndex(t *testing.T) {
	store := kindtest.Open(t)
	for _, id := range []string{"a", "b"} {
		rec := vortex.ContainerRecord{ID: id, ClientID: "web", Status: vortex.ContainerStatusRunning}
		if _, err := kind.Put(t.Context(), store, vortex.Containers, &rec, id); err != nil {
			t.Fatal(err)
		}
	}
	found, err := store.Query("ContainerRecord", kind.Filter{Field: "client_id", Value: "web"}, 0, 0)
	if err != nil || len(found) != 2 {
		t.Fatalf("query: %d records, %v; want 2", len(found), err)
	}
	_, err = store.Put(t.Context(), "vortex:container:c", []byte(`{"id":"c","client_id":"web","status":"Sleeping","ip_address":""}`), 0)
	if !vortex.IsKind(err, vortex.Invalid) {
		t.Fatalf("a value outside the enum: %v; want Invalid", err)
	}
	if _, err := store.Get("vortex:container:c"); !vortex.IsKind(err, vortex.NotFound) {
		t.Fatalf("a refused record exists: %v", err)
	}
}

func TestExpiredRecordIsInvisibleAndItsEndIsAnEvent(t *testing.T) {
	store := kindtest.Open(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { _ = store.Sweep(ctx) }()
	watch := store.Watch(kind.WatchOptions{Prefixes: []string{"k"}})
	defer watch.Close()
	if _, err := store.Put(ctx, "k", []byte("v"), 30*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	var deleted bool
	for !deleted {
		batches, err := watch.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range batches {
			deleted = deleted || b.Events[0].Deleted
		}
	}
	won, err := store.Swap(ctx, "k", nil, []byte("w"), 0)
	if err != nil || !won {
		t.Fatalf("swap on an expired key: %v, %v; want true", won, err)
	}
}

func TestWatchResumesFromTheEnginesHistory(t *testing.T) {
	store := kindtest.Open(t)
	first, err := store.Put(t.Context(), "k", []byte("1"), 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{"2", "3"} {
		if _, err := store.Put(t.Context(), "k", []byte(v), 0); err != nil {
			t.Fatal(err)
		}
	}
	watch := store.Watch(kind.WatchOptions{From: first + 1})
	defer watch.Close()
	var got []string
	for len(got) < 2 {
		batches, err := watch.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range batches {
			got = append(got, string(b.Events[0].Record.Value))
		}
	}
	if got[0] != "2" || got[1] != "3" {
		t.Fatalf("resumed with %v; want 2, 3", got)
	}
}
