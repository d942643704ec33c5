package postgres

import (
	"context"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"vortex"
	"vortex/internal/kind/engine"
)

const (
	logPage   = 1000            // rows of the log read at once
	pollEvery = 2 * time.Second // when nothing was notified; it also shows that the connection lives
)

// Watch implements engine.Engine.
func (e *Engine) Watch(ctx context.Context, from int64) iter.Seq2[engine.Batch, error] {
	return func(yield func(engine.Batch, error) bool) {
		epoch, err := e.feed.begin(from)
		for err == nil && ctx.Err() == nil {
			var batches []engine.Batch
			if batches, err = e.next(ctx, from, epoch); err != nil {
				break
			}
			for _, b := range batches {
				if !yield(b, nil) {
					return
				}
				from = b.Revision + 1
			}
		}
		if err != nil && ctx.Err() == nil {
			yield(engine.Batch{}, err)
		}
	}
}

// next waits for batches from a revision on. An error is final; nothing at all means to ask again.
func (e *Engine) next(ctx context.Context, from int64, epoch int) ([]engine.Batch, error) {
	batches, wait, err := e.feed.after(from, epoch)
	switch {
	case err != nil || batches != nil:
		return batches, err
	case wait != nil:
		select {
		case <-wait:
		case <-ctx.Done():
		}
		return nil, nil
	}
	batches, err = e.past(ctx, from)
	if vortex.IsKind(err, vortex.Unavailable) || err == nil && len(batches) == 0 {
		pause(ctx, retryAfter)
		return nil, nil
	}
	return batches, err
}

// past reads batches of the log that are no longer in memory.
func (e *Engine) past(ctx context.Context, from int64) ([]engine.Batch, error) {
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := e.pool.Acquire(ctx)
	if err != nil {
		return nil, classify(caller, "watch", err)
	}
	defer conn.Release()
	batches, _, err := e.readLog(ctx, conn.Conn(), from)
	return batches, classify(caller, "watch", err)
}

// follow reads the end of the log into the feed until ctx ends.
func (e *Engine) follow(ctx context.Context) {
	delay := retryAfter
	for ctx.Err() == nil {
		began := time.Now()
		err := e.listen(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > retryAtMost {
			delay = retryAfter
			e.log.WarnContext(ctx, "Connection to the database lost", "err", err)
		}
		pause(ctx, delay)
		delay = min(2*delay, retryAtMost)
	}
}

// listen reads the log on one connection whenever a revision is notified, until the connection is lost.
func (e *Engine) listen(ctx context.Context) error {
	conn, err := e.listener(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.PgConn().Conn().Close() }()
	for e.current(conn) {
		if err := e.drain(ctx, conn); err != nil {
			return err
		}
		if err := e.await(ctx, conn); err != nil {
			return err
		}
	}
	return errDemoted
}

// listener makes the connection that notifications come through.
func (e *Engine) listener(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := e.connect(ctx, nil)
	if err != nil {
		return nil, err
	}
	_, err = conn.Exec(ctx, "LISTEN "+pgx.Identifier{e.settings.channel()}.Sanitize())
	if err != nil {
		_ = conn.PgConn().Conn().Close()
	}
	return conn, err
}

// await returns when a revision was notified that is not in the feed, or when it is time to look without.
func (e *Engine) await(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, pollEvery)
	defer cancel()
	for {
		note, err := conn.WaitForNotification(ctx)
		if ctx.Err() != nil {
			return nil // time to look
		}
		if err != nil {
			return err
		}
		if e.writer.pid.Load() != note.PID { // what this process wrote, its writer puts into the feed
			return nil
		}
	}
}

// drain reads everything that was added to the log.
func (e *Engine) drain(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		last, epoch := e.feed.position()
		batches, at, err := e.readLog(ctx, conn, last+1)
		if vortex.IsKind(err, vortex.OutOfRange) { // it was away for so long that others compacted what it has not seen
			end, at, err := e.end(ctx, conn)
			if err != nil {
				return err
			}
			e.feed.restart(end, at)
			continue
		}
		if err != nil {
			return err
		}
		if len(batches) == 0 {
			return nil
		}
		e.feed.read(epoch, batches, at)
	}
}

// readLog returns the next batches from a revision on, and when the last of them was made.
func (e *Engine) readLog(ctx context.Context, conn *pgx.Conn, from int64) ([]engine.Batch, time.Time, error) {
	read := e.settings.in("SELECT l.revision, l.key, l.created, l.deleted, l.value, l.committed_at FROM @log l ")
	for limit := logPage; ; limit *= 4 {
		query := &pgx.Batch{}
		query.Queue(read+"WHERE l.revision >= $1 ORDER BY l.revision LIMIT $2", from, limit)
		query.Queue(e.settings.in("SELECT compacted FROM @compaction"))
		results := conn.SendBatch(ctx, query)
		batches, at, err := scanLog(results, limit)
		if err == nil {
			err = notCompacted(results, from)
		}
		if closed := results.Close(); err == nil {
			err = closed
		}
		if err != nil || batches != nil {
			return batches, at, err
		}
	}
}

// scanLog groups rows of the log by revision. It leaves out the last revision of a full page, of which there may be more
// rows; no batches at all says that the page is too small for one.
func scanLog(results pgx.BatchResults, limit int) ([]engine.Batch, time.Time, error) {
	rows, err := results.Query()
	if err != nil {
		return nil, time.Time{}, err
	}
	defer rows.Close()
	batches, count := []engine.Batch{}, 0
	var at, before time.Time
	for ; rows.Next(); count++ {
		var c engine.Change
		var key []byte
		var made time.Time
		if err := rows.Scan(&c.ModRevision, &key, &c.CreateRevision, &c.Delete, &c.Value, &made); err != nil {
			return nil, at, err
		}
		c.Key = string(key)
		if n := len(batches); n == 0 || batches[n-1].Revision != c.ModRevision {
			batches = append(batches, engine.Batch{Revision: c.ModRevision})
			before, at = at, made
		}
		batches[len(batches)-1].Changes = append(batches[len(batches)-1].Changes, c)
	}
	if count == limit {
		batches, at = batches[:len(batches)-1], before
		if len(batches) == 0 {
			batches = nil
		}
	}
	for _, b := range batches {
		sortChanges(b.Changes)
	}
	return batches, at, rows.Err()
}

// sortChanges puts the changes of one transaction in the order of their keys.
func sortChanges(changes []engine.Change) {
	slices.SortFunc(changes, func(a, b engine.Change) int { return strings.Compare(a.Key, b.Key) })
}

// notCompacted refuses a revision of which something may be removed. It is read after the rows: whoever removes
// them says so before.
func notCompacted(results pgx.BatchResults, rev int64) error {
	var compacted int64
	if err := results.QueryRow().Scan(&compacted); err != nil {
		return err
	}
	if rev < compacted {
		return errCompacted(rev, compacted)
	}
	return nil
}
