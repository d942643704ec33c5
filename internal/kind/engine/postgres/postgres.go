// Package postgres is Kind's engine on PostgreSQL: an append-only log of revisions in one table.
//
// Every transaction becomes rows of the log in one SQL transaction; concurrent ones share it. One advisory lock puts them
// in order, so that revisions become visible in order on every server that uses the database. Watches are fed by one
// reader of the log, which NOTIFY wakes. Nothing else is kept in memory. What is rejected is told in
// docs/adr/0008-postgresql-engine.md.
//
// A database that is lost is an error of kind vortex.Unavailable within five seconds; the engine reconnects by itself,
// to another host of the URL where one was promoted.
//
//	engine, err := postgres.Config{URL: "postgres://vortex@db1,db2/vortex"}.Open(ctx)
package postgres

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"vortex/internal/kind/engine"
)

// Config says which database to use.
type Config struct {
	// URL names it: postgres://user:password@host:5432,host:5432/database?sslmode=verify-full. Of several hosts the one that takes
	// writes is used. kind_schema=name keeps the tables in another schema than vortex, pool_max_conns=n bounds the
	// connections for reads, 4 by default; two more are for writes and for watches.
	URL string
	// Log receives what an operator would act on; nil discards.
	Log *slog.Logger
}

const (
	patience     = 4500 * time.Millisecond // after which a statement that is not answered is given up
	openPatience = 30 * time.Second        // for making the tables
	retryAfter   = 100 * time.Millisecond  // pause before a lost connection is made again …
	retryAtMost  = time.Second             // … and what it grows to
)

// Engine keeps keys in PostgreSQL.
type Engine struct {
	settings settings
	log      *slog.Logger
	pool     *pgxpool.Pool
	servers  servers
	feed     *feed
	writer   writer
	heads    heads

	stop context.CancelFunc
	done sync.WaitGroup
}

// Open connects, brings the tables up to date, and starts to follow the log until Close.
func (c Config) Open(ctx context.Context) (*Engine, error) {
	s, err := parse(c.URL)
	if err != nil {
		return nil, err
	}
	e := &Engine{settings: s, log: c.Log, feed: newFeed()}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	if err := e.prepare(ctx); err != nil {
		return nil, s.unusable(err)
	}
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	e.stop = stop
	e.writer.engine, e.writer.life = e, life
	e.heads.engine, e.heads.life = e, life
	e.done.Go(func() { e.follow(life) })
	return e, nil
}

// prepare makes the tables and the pool, and finds where the log stands.
func (e *Engine) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, openPatience)
	defer cancel()
	e.hook(e.settings.pool)
	conn, err := e.connect(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	if err := migrate(ctx, conn, e.settings); err != nil {
		return err
	}
	end, at, err := e.end(ctx, conn)
	if err != nil {
		return err
	}
	e.feed.restart(end, at)
	e.pool, err = pgxpool.NewWithConfig(ctx, e.settings.pool)
	return err
}

// end returns the newest revision and the time it was made at.
func (e *Engine) end(ctx context.Context, conn *pgx.Conn) (rev int64, at time.Time, err error) {
	sql := e.settings.in("SELECT h, (SELECT l.committed_at FROM @log l WHERE l.revision = h LIMIT 1) FROM @head() h")
	var made *time.Time
	if err := conn.QueryRow(ctx, sql).Scan(&rev, &made); err != nil {
		return 0, at, fmt.Errorf("read the end of the log: %w", err)
	}
	if made != nil {
		at = *made
	}
	return rev, at, nil
}

// Close implements engine.Engine.
func (e *Engine) Close() error {
	e.stop()
	e.done.Wait()
	e.writer.close()
	e.pool.Close()
	return nil
}

var _ engine.Engine = (*Engine)(nil)
