package postgres_test

import (
	"strings"
	"testing"

	"vortex"
	"vortex/internal/kind/engine/postgres"
	"vortex/internal/kind/engine/postgres/pgtest"
)

// TestRefusals holds that a database that cannot be used is told with what is wrong and what to do, and without the password.
func TestRefusals(t *testing.T) {
	server := pgtest.Start(t)
	server.Exec("CREATE ROLE guest LOGIN")
	server.Exec("CREATE DATABASE other")
	replica := server.Replica(pgtest.Asynchronous)
	gone := pgtest.Start(t)
	gone.Stop()
	for name, tt := range map[string]struct {
		url  string
		kind vortex.ErrorKind
		want string
	}{
		"no URL":          {"postgres://u:s3cret@host:port/db", vortex.Invalid, "expected postgres://user:password@host:5432"},
		"bad option":      {"postgres://u:s3cret@host/db?sslmode=perhaps", vortex.Invalid, "sslmode"},
		"bad schema":      {server.URL("kind_schema=a.b"), vortex.Invalid, "kind_schema: expected 1 to 50 letters"},
		"no database":     {strings.Replace(server.URL(), "/postgres?", "/missing?", 1), vortex.NotFound, `createdb -O postgres missing`},
		"no rights":       {strings.Replace(server.URL(), "postgres@", "guest:s3cret@", 1), vortex.Denied, `CREATE SCHEMA "vortex" AUTHORIZATION "guest"`},
		"no such user":    {strings.Replace(server.URL(), "postgres@", "nobody:s3cret@", 1), vortex.Unauthenticated, "pg_hba.conf"},
		"only a replica":  {replica.URL(), vortex.Unavailable, "takes writes"},
		"nobody listens":  {gone.URL(), vortex.Unavailable, "check --store"},
		"no server's TLS": {strings.Replace(server.URL(), "sslmode=disable", "sslmode=require", 1), vortex.Unavailable, "TLS"},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := postgres.Config{URL: tt.url}.Open(t.Context())
			if err == nil {
				_ = e.Close()
			}
			if !vortex.IsKind(err, tt.kind) || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%v of kind %s; want %q of kind %s, and no password", err, vortex.KindOf(err), tt.want, tt.kind)
			}
		})
	}
}

// TestTablesOfOthers holds that what a newer Vortex made is not touched, and that few rights do once the schema is there.
func TestTablesOfOthers(t *testing.T) {
	server := pgtest.Start(t)
	server.Exec("CREATE ROLE guest LOGIN")
	server.Exec("CREATE SCHEMA vortex AUTHORIZATION guest")
	asGuest := strings.Replace(server.URL(), "postgres@", "guest@", 1)
	open(t, asGuest)
	server.Exec("UPDATE vortex.version SET version = 1000")
	_, err := postgres.Config{URL: asGuest}.Open(t.Context())
	if !vortex.IsKind(err, vortex.Precondition) || !strings.Contains(err.Error(), "newer Vortex") {
		t.Errorf("tables of a newer version: %v", err)
	}
}
