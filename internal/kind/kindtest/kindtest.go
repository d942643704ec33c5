// Package kindtest opens real stores for tests: an embedded engine in a temporary directory.
package kindtest

import (
	"context"
	"testing"
	"time"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/engine/etcd"
	"vortex/internal/kind/ksl"
)

// Open returns a running store with the cluster's schema. It stops when the test ends.
func Open(tb testing.TB) *kind.Store {
	tb.Helper()
	engine, err := etcd.Embedded{Dir: tb.TempDir()}.Open(tb.Context())
	if err != nil {
		tb.Fatalf("open engine: %v", err)
	}
	schema, err := ksl.Parse("vortex.ksl", vortex.Schema())
	if err != nil {
		tb.Fatalf("parse schema: %v", err)
	}
	store, err := kind.Open(tb.Context(), kind.Config{Engine: engine, Schema: schema})
	if err != nil {
		tb.Fatalf("open store: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = store.Run(ctx) }()
	tb.Cleanup(func() {
		cancel()
		<-done
		if err := engine.Close(); err != nil {
			tb.Errorf("close engine: %v", err)
		}
	})
	return store
}

// Eventually waits until ok returns true, and fails the test when it does not within ten seconds.
func Eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			tb.Fatalf("not within ten seconds: %s", what)
		}
		select {
		case <-tb.Context().Done():
			tb.Fatalf("test ended while waiting: %s", what)
		case <-time.After(time.Millisecond):
		}
	}
}
