package postgres

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

var (
	errReadOnly = errors.New("this server takes no writes")
	errDemoted  = errors.New("another server was promoted in this one's place")
)

// servers remembers the newest server that was seen, so that one it took over from is not used again, be it alive.
type servers struct {
	mu     sync.Mutex
	newest identity
}

// admit notes a server and reports whether it may be used.
func (s *servers) admit(id identity) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id.system == s.newest.system && id.timeline < s.newest.timeline {
		return false
	}
	s.newest = id
	return true
}

// identityKey is where a connection keeps its server's identity.
const identityKey = "vortex.identity"

// current reports whether a connection leads to a server that no other took over from.
func (e *Engine) current(conn *pgx.Conn) bool {
	id, ok := conn.PgConn().CustomData()[identityKey].(identity)
	e.servers.mu.Lock()
	defer e.servers.mu.Unlock()
	newest := e.servers.newest
	return ok && (id == newest || id.system != newest.system)
}

// hook makes every connection go to a server that takes writes, and whose log continues the one that was read.
func (e *Engine) hook(pool *pgxpool.Config) {
	pool.ConnConfig.ValidateConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		id, err := identify(ctx, conn)
		if err != nil {
			return err
		}
		if !e.servers.admit(id) {
			return errDemoted
		}
		conn.CustomData()[identityKey] = id
		return nil
	}
	pool.AfterConnect = e.verify
	pool.PrepareConn = func(_ context.Context, conn *pgx.Conn) (bool, error) { return e.current(conn), nil }
	pool.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false } // the statement itself tells
}

// connect makes a connection outside the pool. notice gets what the server remarks; nil ignores it.
func (e *Engine) connect(ctx context.Context, notice pgconn.NoticeHandler) (*pgx.Conn, error) {
	config := e.settings.pool.ConnConfig.Copy()
	config.DialFunc, config.OnNotice = dialer, notice
	conn, err := pgx.ConnectConfig(context.WithValue(ctx, connecting{}, true), config)
	if err != nil {
		return nil, err
	}
	if err := e.verify(ctx, conn); err != nil {
		_ = conn.PgConn().Conn().Close()
		return nil, err
	}
	return conn, nil
}

// verify looks on a new connection whether the newest revision that was seen is there as it was seen. When it is not, then
// this server was promoted without it, or restored from a copy: watches end, and the log is read from where it stands now.
func (e *Engine) verify(ctx context.Context, conn *pgx.Conn) error {
	last, at := e.feed.end()
	if at.IsZero() {
		return nil
	}
	var there time.Time
	err := conn.QueryRow(ctx, e.settings.in("SELECT l.committed_at FROM @log l WHERE l.revision = $1 LIMIT 1"), last).Scan(&there)
	if err == nil && there.Equal(at) {
		return nil
	}
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	end, at, err := e.end(ctx, conn)
	if err != nil {
		return err
	}
	e.log.WarnContext(ctx, "Database lacks what was acknowledged", "revision", last, "newest", end)
	e.feed.restart(end, at)
	return nil
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
