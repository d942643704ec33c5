package postgres

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"vortex"
)

//go:embed sql/*.sql
var sqlFiles embed.FS

// migrationLock is the advisory lock under which one server at a time brings the tables up to date.
const migrationLock = 8_227_063_161_014_382_703

// step is one version of the tables: what leads to it from the version before.
type step struct {
	version int
	text    string
}

// steps returns the files of sql/, whose names begin with their version, in order.
func steps() ([]step, error) {
	names, err := fs.Glob(sqlFiles, "sql/*.sql")
	if err != nil {
		return nil, err
	}
	found := make([]step, 0, len(names))
	for _, name := range names {
		text, err := sqlFiles.ReadFile(name)
		if err != nil {
			return nil, err
		}
		digits, _, _ := strings.Cut(strings.TrimPrefix(name, "sql/"), "_")
		version, err := strconv.Atoi(digits)
		if err != nil {
			return nil, fmt.Errorf("version of %s: %w", name, err)
		}
		found = append(found, step{version, string(text)})
	}
	slices.SortFunc(found, func(a, b step) int { return a.version - b.version })
	return found, nil
}

var placeholder = regexp.MustCompile(`@[a-z_]+`)

// in puts the name of the database schema, and of its channel, into a text that writes them as @name.
func (s settings) in(text string) string {
	return placeholder.ReplaceAllStringFunc(text, func(name string) string {
		switch name {
		case "@channel":
			return s.channel()
		case "@schema":
			return s.quoted()
		default:
			return s.quoted() + "." + name[1:]
		}
	})
}

// migrate brings the tables to the version that this program works with.
func migrate(ctx context.Context, conn *pgx.Conn, s settings) error {
	all, err := steps()
	if err != nil {
		return err
	}
	wanted := all[len(all)-1].version
	if have, err := version(ctx, conn, s); err == nil && have >= wanted {
		return notNewer(s, have, wanted)
	}
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", int64(migrationLock)); err != nil {
		return err
	}
	if err := prepareSchema(ctx, tx, s); err != nil {
		return err
	}
	have, err := version(ctx, conn, s)
	if err != nil {
		return err
	}
	for _, st := range all {
		if st.version <= have {
			continue
		}
		if _, err := tx.Exec(ctx, s.in(st.text), pgx.QueryExecModeSimpleProtocol); err != nil {
			return fmt.Errorf("make version %d of the tables: %w", st.version, err)
		}
		if _, err := tx.Exec(ctx, s.in("UPDATE @version SET version = $1"), st.version); err != nil {
			return err
		}
	}
	if err := notNewer(s, have, wanted); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// prepareSchema makes the schema and the table of its version where they are missing.
func prepareSchema(ctx context.Context, tx pgx.Tx, s settings) error {
	var exists bool
	if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", s.schema).Scan(&exists); err != nil {
		return err
	}
	if !exists { // not IF NOT EXISTS, which asks for the right to make schemas even where there is nothing to make
		if _, err := tx.Exec(ctx, s.in("CREATE SCHEMA @schema")); err != nil {
			return err
		}
	}
	_, err := tx.Exec(ctx, s.in(`CREATE TABLE IF NOT EXISTS @version (version int NOT NULL);
		INSERT INTO @version SELECT 0 WHERE NOT EXISTS (SELECT FROM @version)`), pgx.QueryExecModeSimpleProtocol)
	return err
}

// version reads which version the tables have.
func version(ctx context.Context, conn *pgx.Conn, s settings) (v int, err error) {
	err = conn.QueryRow(ctx, s.in("SELECT version FROM @version")).Scan(&v)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	return v, err
}

func notNewer(s settings, have, wanted int) error {
	if have <= wanted {
		return nil
	}
	return vortex.Errorf(vortex.Precondition,
		"the tables in schema %q have version %d, made by a newer Vortex; this one works with version %d: upgrade it", s.schema, have, wanted)
}
