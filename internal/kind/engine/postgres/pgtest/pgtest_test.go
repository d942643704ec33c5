package pgtest_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"vortex/internal/kind/engine/postgres/pgtest"
)

// read asks a server for the sum of what the tests put there.
func read(t *testing.T, url string) (sum int) {
	t.Helper()
	db, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close(t.Context()) }()
	if err := db.QueryRow(t.Context(), "SELECT sum(n) FROM kept").Scan(&sum); err != nil {
		t.Fatal(err)
	}
	return sum
}

func TestServerSurvivesItsCrash(t *testing.T) {
	server := pgtest.Start(t)
	server.Exec("CREATE TABLE kept AS SELECT 1 AS n")
	server.Kill()
	server.Restart()
	server.Exec("INSERT INTO kept VALUES (2)")
	server.Stop()
	server.Restart()
	if got := read(t, server.URL()); got != 3 {
		t.Errorf("after a crash and a stop the rows add up to %d, want 3", got)
	}
}

func TestReplicaTakesOver(t *testing.T) {
	primary := pgtest.Start(t)
	replica := primary.Replica(pgtest.Synchronous)
	primary.Exec("CREATE TABLE kept AS SELECT 1 AS n")
	primary.Kill()
	replica.Promote()
	replica.Exec("INSERT INTO kept VALUES (2)")
	if got := read(t, pgtest.URL([]*pgtest.Server{primary, replica})); got != 3 {
		t.Errorf("after the promotion the rows add up to %d, want 3", got)
	}
}
