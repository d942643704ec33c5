package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"vortex"
)

// PostgreSQL's codes that mean something else than that the database does not answer.
const (
	codeLockTimeout = "55P03"
	codeNoDatabase  = "3D000"
	codeNoRight     = "42501"
	codeBadPassword = "28P01"
	codeBadLogin    = "28000"
	classResources  = "53" // disk full, out of memory, too many connections
	codeManyClients = "53300"
	codeNoTable     = "42P01"
	codeNoFunction  = "42883"
	codeNoSchema    = "3F000"
)

var (
	// errSilent is why a statement was given up.
	errSilent = errors.New("no answer in time")
	// errUnsure is why a commit that the server confirmed with a warning is not acknowledged: the wait for the replica was cut short.
	errUnsure = errors.New("the server did not wait for its replica")
)

// unavailable is the error of a database that does not answer.
func unavailable(verb string, err error) error {
	return &vortex.Error{Kind: vortex.Unavailable, Msg: "the store's database does not answer; retry", Err: fmt.Errorf("%s: %w", verb, err)}
}

// classify turns errors of the driver and the server into ours. ctx is the caller's.
func classify(ctx context.Context, verb string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*vortex.Error](err); ok {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", verb, ctx.Err())
	}
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return unavailable(verb, err)
	}
	wrapped := fmt.Errorf("%s: %w", verb, err)
	switch {
	case strings.HasPrefix(pg.Code, classResources) && pg.Code != codeManyClients:
		return &vortex.Error{Kind: vortex.Exhausted, Msg: "the database is out of disk space or memory; free some on its machine", Err: wrapped}
	case pg.Code == codeNoRight:
		return &vortex.Error{Kind: vortex.Denied, Msg: "the database refuses its user; grant it the rights on the schema", Err: wrapped}
	case pg.Code == codeNoTable || pg.Code == codeNoFunction || pg.Code == codeNoSchema:
		return &vortex.Error{Kind: vortex.Unavailable, Msg: "the store's tables are gone from the database; restore them, or restart to make new ones", Err: wrapped}
	default:
		return unavailable(verb, err)
	}
}

// unusable is the error of a database that the engine cannot start on: what is wrong, and what to do.
func (s settings) unusable(err error) error {
	if _, ok := errors.AsType[*vortex.Error](err); ok {
		return err
	}
	c := s.pool.ConnConfig
	pg, ok := errors.AsType[*pgconn.PgError](err)
	switch {
	case errors.Is(err, errReadOnly):
		return &vortex.Error{Kind: vortex.Unavailable, Msg: "no host in --store takes writes; is the primary among them?", Err: err}
	case !ok:
		return &vortex.Error{
			Kind: vortex.Unavailable, Msg: "PostgreSQL does not answer at " + s.hosts() + "; check --store and that it runs and is reachable", Err: err,
		}
	}
	kind, msg := vortex.Unavailable, "PostgreSQL refuses what the store needs"
	switch pg.Code {
	case codeNoDatabase:
		kind = vortex.NotFound
		msg = fmt.Sprintf("there is no database %q at %s; make it: createdb -O %s %s", c.Database, s.hosts(), c.User, c.Database)
	case codeBadPassword, codeBadLogin:
		kind = vortex.Unauthenticated
		msg = fmt.Sprintf("PostgreSQL does not let user %q in; check the user, the password and sslmode in --store, and pg_hba.conf", c.User)
	case codeNoRight:
		kind = vortex.Denied
		msg = fmt.Sprintf("user %q may not make or use schema %q; as an administrator of database %q run: CREATE SCHEMA %s AUTHORIZATION %q",
			c.User, s.schema, c.Database, s.quoted(), c.User)
	}
	return &vortex.Error{Kind: kind, Msg: msg, Err: err}
}

// hosts names the servers of the URL.
func (s settings) hosts() string {
	c := s.pool.ConnConfig
	all := []string{fmt.Sprintf("%s:%d", c.Host, c.Port)}
	for _, f := range c.Fallbacks {
		if addr := fmt.Sprintf("%s:%d", f.Host, f.Port); addr != all[len(all)-1] { // twice for a TLS that may be left out
			all = append(all, addr)
		}
	}
	return strings.Join(all, ",")
}
