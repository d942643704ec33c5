package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"vortex"
)

const (
	defaultSchema  = "vortex"
	defaultPool    = 4
	connectTimeout = 2 * time.Second // for one host of several
)

// schemaName is what a schema may be called. With the prefix of its channel it must stay below PostgreSQL's 63 bytes.
var schemaName = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,50}$`)

// settings are what a database URL says, with what the engine needs of every connection.
type settings struct {
	pool   *pgxpool.Config
	schema string
}

// parse reads a database URL.
func parse(url string) (settings, error) {
	pool, err := pgxpool.ParseConfig(url)
	if err != nil {
		return settings{}, &vortex.Error{
			Kind: vortex.Invalid,
			Msg:  "the database URL cannot be read; expected postgres://user:password@host:5432[,host:5432]/database?sslmode=verify-full: " + reason(err),
		}
	}
	s := settings{pool: pool, schema: defaultSchema}
	params := pool.ConnConfig.RuntimeParams
	if name, ok := params["kind_schema"]; ok {
		s.schema = name
		delete(params, "kind_schema")
	}
	if !schemaName.MatchString(s.schema) {
		return settings{}, vortex.Errorf(vortex.Invalid, "kind_schema: expected 1 to 50 letters, digits, - and _, got %q", s.schema)
	}
	if !strings.Contains(url, "pool_max_conns") {
		pool.MaxConns = defaultPool
	}
	if pool.ConnConfig.ConnectTimeout == 0 {
		pool.ConnConfig.ConnectTimeout = connectTimeout
	}
	maps.Copy(params, sessionParameters)
	if params["application_name"] == "" {
		params["application_name"] = "vortex"
	}
	return s, nil
}

// sessionParameters hold every session to what the statements count on. A plan made while a table was empty must still do
// when it is not: so only plans that use an index, and no compiler for what the planner then takes to be expensive.
var sessionParameters = map[string]string{
	"default_transaction_isolation": "read committed",
	"enable_seqscan":                "off",
	"enable_bitmapscan":             "off",
	"enable_hashjoin":               "off",
	"enable_mergejoin":              "off",
	"jit":                           "off",
	"plan_cache_mode":               "force_generic_plan",
	"lock_timeout":                  "4s", // the writer of a group waits no longer for another server's
}

// reason is why a URL cannot be read, without the URL and the password in it.
func reason(err error) string {
	if inner := errors.Unwrap(err); inner != nil {
		err = inner
	}
	text := err.Error()
	if i := strings.LastIndex(text, "`: "); i >= 0 {
		text = text[i+len("`: "):]
	}
	return text
}

// quoted is the schema's name as SQL writes it.
func (s settings) quoted() string { return pgx.Identifier{s.schema}.Sanitize() }

// channel is where revisions are notified.
func (s settings) channel() string { return "vortex:" + s.schema }

// connecting marks the context of a connection that is being made.
type connecting struct{}

// dialer connects, but only to make a connection: the driver also dials to cancel a statement that it gives up. A
// commit must not be canceled while it waits for a replica: the server would show it to readers and not have replicated it.
func dialer(ctx context.Context, network, addr string) (net.Conn, error) {
	if ctx.Value(connecting{}) == nil {
		return nil, errors.New("a statement that was sent is left to the server")
	}
	return (&net.Dialer{KeepAlive: 5 * time.Second}).DialContext(ctx, network, addr)
}

// identity is what tells a server from one that it took over from.
type identity struct {
	system   int64 // of the database cluster; copies share it
	timeline int64 // grows with every promotion
}

// identify asks a server whether it takes writes and who it is; one that does not is an error.
func identify(ctx context.Context, conn *pgconn.PgConn) (identity, error) {
	state, err := row(ctx, conn, "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool, "+
		"CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', false) END")
	if err != nil {
		return identity{}, err
	}
	if state[0] != "f" {
		return identity{}, errReadOnly
	}
	var id identity
	// Both are left out where they may not be asked for: then nothing is known of what this server is.
	if system, err := row(ctx, conn, "SELECT system_identifier FROM pg_control_system()"); err == nil {
		_, _ = fmt.Sscan(system[0], &id.system)
	}
	if file, err := row(ctx, conn, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())"); err == nil && len(file[0]) >= 8 {
		_, _ = fmt.Sscanf(file[0][:8], "%x", &id.timeline)
	}
	return id, nil
}

// row runs a statement that returns one row of text.
func row(ctx context.Context, conn *pgconn.PgConn, sql string) ([]string, error) {
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	if len(results) != 1 || len(results[0].Rows) != 1 {
		return nil, fmt.Errorf("no answer to %s", sql)
	}
	var fields []string
	for _, field := range results[0].Rows[0] {
		fields = append(fields, string(field))
	}
	return fields, nil
}
