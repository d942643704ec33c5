package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"vortex"
)

const compactPage = 500 // rows of the log looked at in one transaction

// Compact implements engine.Engine. What it removes does not stand in the way of writers.
func (e *Engine) Compact(ctx context.Context, rev int64) error {
	removed, err := e.markCompacted(ctx, rev)
	if err == nil {
		e.feed.compacted(rev)
	}
	for err == nil && removed < rev && ctx.Err() == nil {
		removed, err = e.removeSome(ctx, removed, rev)
	}
	return classify(ctx, "compact", err)
}

// markCompacted says that revisions before rev may be gone. It returns up to where they are.
func (e *Engine) markCompacted(ctx context.Context, rev int64) (removed int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var newest int64
	err = pgx.BeginFunc(ctx, e.pool, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, e.settings.in("SELECT @head()")).Scan(&newest); err != nil {
			return err
		}
		if rev > newest {
			return vortex.Errorf(vortex.OutOfRange, "revision %d is of the future; the newest is %d", rev, newest)
		}
		sql := "UPDATE @compaction SET compacted = greatest(compacted, $1) RETURNING removed"
		return tx.QueryRow(ctx, e.settings.in(sql), rev).Scan(&removed)
	})
	return removed, err
}

// removeSome removes what the next rows of the log made invisible: the row of the same key before each of them, and those of
// them that tell of a deletion. It returns how far it came.
func (e *Engine) removeSome(ctx context.Context, from, to int64) (upTo int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = pgx.BeginFunc(ctx, e.pool, func(tx pgx.Tx) error {
		sql := `SELECT coalesce(max(p.revision), $2) FROM (
			SELECT l.revision FROM @log l WHERE l.revision >= $1 AND l.revision <= $2 ORDER BY l.revision LIMIT $3) p`
		if err := tx.QueryRow(ctx, e.settings.in(sql), from, to, compactPage).Scan(&upTo); err != nil {
			return err
		}
		if upTo == from { // a transaction larger than a page, or the last
			upTo = min(from+1, to)
		}
		older := "DELETE FROM @log o USING @log n WHERE n.revision >= $1 AND n.revision <= $2 AND o.key = n.key AND o.revision < n.revision"
		if _, err := tx.Exec(ctx, e.settings.in(older), from, upTo); err != nil {
			return err
		}
		deletions := "DELETE FROM @log o WHERE o.revision >= $1 AND o.revision <= $2 AND o.revision < $3 AND o.deleted"
		if _, err := tx.Exec(ctx, e.settings.in(deletions), from, upTo, to); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, e.settings.in("UPDATE @compaction SET removed = greatest(removed, $1)"), upTo)
		return err
	})
	return upTo, err
}
