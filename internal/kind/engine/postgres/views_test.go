package postgres_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/kind/engine/postgres/pgtest"
	"vortex/internal/kind/kindtest"
	"vortex/internal/kind/ksl"
)

// typed runs a store with the cluster's schema on a server.
func typed(t *testing.T, server *pgtest.Server) *kind.Store {
	t.Helper()
	schema, err := ksl.Parse("vortex.ksl", vortex.Schema())
	if err != nil {
		t.Fatal(err)
	}
	store, err := kind.Open(t.Context(), kind.Config{Engine: open(t, server.URL()), Schema: schema})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = store.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return store
}

// ask runs a query and returns each row as text.
func ask(t *testing.T, server *pgtest.Server, sql string) (rows []string) {
	t.Helper()
	db, err := pgx.Connect(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close(context.Background()) }()
	result, err := db.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	rows, err = pgx.CollectRows(result, pgx.RowTo[string])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return rows
}

// TestViews reads with SQL what the store wrote.
func TestViews(t *testing.T) {
	server := pgtest.Start(t)
	store := typed(t, server)
	put := func(key, value string, ttl time.Duration) {
		t.Helper()
		if _, err := store.Put(t.Context(), key, []byte(value), ttl); err != nil {
			t.Fatal(err)
		}
	}
	put("vortex:app:web", `{"name":"web","spec":{"apiVersion":"v1","kind":"App","metadata":{"name":"web"},"spec":{"type":"http","image":"nginx:1"}},`+
		`"generation":3,"created_at":"2026-11-21T10:00:00Z","updated_at":"2026-11-21T10:00:00.5Z"}`, 0)
	put("vortex:app:gone", `{"name":"gone","spec":{"apiVersion":"v1","kind":"App","metadata":{"name":"gone"},"spec":{"type":"http","image":"x"}},`+
		`"generation":1,"created_at":"2026-11-21T10:00:00Z","updated_at":"2026-11-21T10:00:00Z"}`, 0)
	if _, err := store.Delete(t.Context(), "vortex:app:gone"); err != nil {
		t.Fatal(err)
	}
	put("vortex:instance:web-1", `{"id":"web-1","client_id":"web","release":3,"wanted":"Running","created_at":"2026-11-21T10:00:00Z"}`, 0)
	put("vortex:container:web-1", `{"id":"web-1","client_id":"web","status":"Running","ip_address":"10.0.0.2","port":8080}`, 0)
	put("vortex:event:01", `{"id":"01","at":"2026-11-21T10:00:00Z","severity":"info","component":"agent","type":"Started","message":"Grüße 😀"}`, 90*24*time.Hour)
	put("vortex:metrics:web", `{"client_id":"web","current_rps":420}`, 0)
	put("vortex:metrics:brief", `{"client_id":"brief","current_rps":1}`, 300*time.Millisecond)

	for _, tt := range []struct{ sql, want string }{
		{
			"SELECT concat_ws(' ', name, type, image, generation, stopped, updated_at AT TIME ZONE 'UTC', spec #>> '{metadata,name}') FROM vortex.applications",
			"web http nginx:1 3 f 2026-11-21 10:00:00.5 web",
		},
		{"SELECT concat_ws(' ', id, wanted, application, status, release, address, port) FROM vortex.instances", "web-1 Running web Running 3 10.0.0.2 8080"},
		{"SELECT concat_ws(' ', severity, component, type, message) FROM vortex.events", "info agent Started Grüße 😀"},
		{"SELECT concat_ws(' ', application, current_rps, expires_at IS NULL) FROM vortex.metrics WHERE current_rps > 1", "web 420 t"},
		{"SELECT (expires_at - now() BETWEEN interval '89 days' AND interval '90 days')::text FROM vortex.events", "true"},
	} {
		if diff := cmp.Diff([]string{tt.want}, ask(t, server, tt.sql)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.sql, diff)
		}
	}
	kindtest.Eventually(t, "an expired record is hidden", func() bool {
		return len(ask(t, server, "SELECT application FROM vortex.metrics")) == 1
	})
}

// TestExpiryIsReadToTheMillisecond compares what SQL reads of an envelope with what the store says.
func TestExpiryIsReadToTheMillisecond(t *testing.T) {
	server := pgtest.Start(t)
	store := typed(t, server)
	for _, ttl := range []time.Duration{time.Minute, 24 * time.Hour, 100 * 365 * 24 * time.Hour} {
		if _, err := store.Put(t.Context(), "free", []byte("\x00\xff"), ttl); err != nil {
			t.Fatal(err)
		}
		rec, err := store.Get("free")
		if err != nil {
			t.Fatal(err)
		}
		got := ask(t, server, "SELECT (extract(epoch FROM expires_at) * 1000)::bigint::text FROM vortex.records('free')")
		if diff := cmp.Diff([]string{strconv.FormatInt(rec.ExpiresAt, 10)}, got); diff != "" {
			t.Errorf("expiry after %s (-store +SQL):\n%s", ttl, diff)
		}
	}
}
