package postgres_test

import (
	"fmt"
	"testing"

	"vortex/internal/kind/engine"
	"vortex/internal/kind/engine/enginetest"
	"vortex/internal/kind/engine/postgres"
	"vortex/internal/kind/engine/postgres/pgtest"
)

// open connects to a server, with further parameters of the URL, until the test ends.
func open(t *testing.T, url string) *postgres.Engine {
	t.Helper()
	e, err := postgres.Config{URL: url}.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return e
}

func TestConformance(t *testing.T) {
	server := pgtest.Start(t)
	n := 0
	enginetest.Run(t, func(t *testing.T) engine.Engine {
		t.Helper()
		n++
		return open(t, server.URL(fmt.Sprintf("kind_schema=test%d", n))) // one server, an empty schema for each test
	})
}
