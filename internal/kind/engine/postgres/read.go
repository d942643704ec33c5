package postgres

import (
	"context"
	"iter"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"vortex"
	"vortex/internal/kind/engine"
)

const rangePage = 1000 // keys read at once by Range

// Range implements engine.Engine.
func (e *Engine) Range(ctx context.Context, lo, hi string, rev *int64) iter.Seq2[engine.KV, error] {
	return func(yield func(engine.KV, error) bool) {
		if err := e.pin(ctx, rev); err != nil {
			yield(engine.KV{}, err)
			return
		}
		for {
			page, next, err := e.page(ctx, lo, hi, *rev)
			if err != nil {
				yield(engine.KV{}, err)
				return
			}
			for _, kv := range page {
				if !yield(kv, nil) {
					return
				}
			}
			if next == "" {
				return
			}
			lo = next
		}
	}
}

// pin sets a revision of 0 to the newest, and refuses one that is not there yet.
func (e *Engine) pin(ctx context.Context, rev *int64) error {
	newest, err := e.head(ctx)
	switch {
	case err != nil:
		return classify(ctx, "range", err)
	case *rev == 0:
		*rev = newest
	case *rev > newest:
		return vortex.Errorf(vortex.OutOfRange, "revision %d is of the future; the newest is %d", *rev, newest)
	}
	return nil
}

// head asks for the newest revision.
func (e *Engine) head(ctx context.Context) (rev int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = e.pool.QueryRow(ctx, e.settings.in("SELECT @head()")).Scan(&rev)
	return rev, err
}

// page reads the state of some keys as of a revision, and where to go on; next is empty at the end.
func (e *Engine) page(ctx context.Context, lo, hi string, rev int64) (page []engine.KV, next string, err error) {
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := e.pool.Acquire(ctx)
	if err != nil {
		return nil, "", classify(caller, "range", err)
	}
	defer conn.Release()
	query := &pgx.Batch{}
	sql, args := e.selection(lo, hi, rev)
	query.Queue(sql, args...)
	query.Queue(e.settings.in("SELECT compacted FROM @compaction"))
	results := conn.SendBatch(ctx, query)
	page, next, err = scanPage(results)
	if err == nil {
		err = notCompacted(results, rev)
	}
	if closed := results.Close(); err == nil {
		err = closed
	}
	return page, next, classify(caller, "range", err)
}

// selection is the statement that reads a page. The newest rows of a key come first in its index.
func (e *Engine) selection(lo, hi string, rev int64) (sql string, args []any) {
	const fields = "l.key, l.revision, l.created, l.deleted, l.value FROM @log l "
	switch hi {
	case lo + "\x00": // one key, of which there may be many revisions
		sql = "SELECT " + fields + "WHERE l.key = $1 AND l.revision <= $2 ORDER BY l.revision DESC LIMIT 1"
		return e.settings.in(sql), []any{[]byte(lo), rev}
	case "":
		sql = "SELECT DISTINCT ON (l.key) " + fields + "WHERE l.key >= $1 AND l.revision <= $2 ORDER BY l.key, l.revision DESC LIMIT $3"
		return e.settings.in(sql), []any{[]byte(lo), rev, rangePage}
	default:
		sql = "SELECT DISTINCT ON (l.key) " + fields +
			"WHERE l.key >= $1 AND l.revision <= $2 AND l.key < $4 ORDER BY l.key, l.revision DESC LIMIT $3"
		return e.settings.in(sql), []any{[]byte(lo), rev, rangePage, []byte(hi)}
	}
}

// scanPage takes the rows of a page, those of deleted keys left out.
func scanPage(results pgx.BatchResults) (page []engine.KV, next string, err error) {
	rows, err := results.Query()
	if err != nil {
		return nil, "", err
	}
	defer rows.Close()
	count := 0
	for ; rows.Next(); count++ {
		var kv engine.KV
		var key []byte
		var deleted bool
		if err := rows.Scan(&key, &kv.ModRevision, &kv.CreateRevision, &deleted, &kv.Value); err != nil {
			return nil, "", err
		}
		kv.Key = string(key)
		next = kv.Key + "\x00"
		if !deleted {
			page = append(page, kv)
		}
	}
	if count < rangePage {
		next = ""
	}
	return page, next, rows.Err()
}

// heads answers everybody who asks for the newest revision while a question is under way with the next question.
type heads struct {
	engine *Engine
	life   context.Context //nolint:containedctx // the engine's, from Open to Close

	mu      sync.Mutex
	running bool
	next    *question
}

// question is one look at the end of the log.
type question struct {
	done chan struct{} // closed when it is answered
	rev  int64
	err  error
}

// ReadIndex implements engine.Engine.
func (e *Engine) ReadIndex(ctx context.Context) (int64, error) {
	q := e.heads.ask()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-q.done:
		return q.rev, q.err
	case <-ctx.Done():
		return 0, classify(ctx, "read index", ctx.Err())
	case <-timer.C:
		return 0, unavailable("read index", errSilent)
	}
}

// ask returns a question that is not sent yet.
func (h *heads) ask() *question {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.next == nil {
		h.next = &question{done: make(chan struct{})}
	}
	if !h.running {
		h.running = true
		h.engine.done.Go(h.run)
	}
	return h.next
}

// run sends questions until nobody asks.
func (h *heads) run() {
	for {
		h.mu.Lock()
		q := h.next
		h.next, h.running = nil, q != nil
		h.mu.Unlock()
		if q == nil {
			return
		}
		rev, err := h.engine.head(h.life)
		q.rev, q.err = rev, classify(h.life, "read index", err)
		close(q.done)
	}
}
