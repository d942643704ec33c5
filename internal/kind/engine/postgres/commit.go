package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"vortex"
	"vortex/internal/kind/engine"
)

const (
	maxKey        = 2048      // bytes; a row of an index in PostgreSQL has no room for much more
	maxTxnBytes   = 256 << 20 // a message of PostgreSQL has no room for four times that
	maxGroup      = 512       // transactions in one SQL transaction
	maxGroupBytes = 8 << 20   // of their values, unless one alone is larger
)

// writer makes groups of the transactions that wait and commits them one after the other on a connection of its own.
type writer struct {
	engine *Engine
	life   context.Context //nolint:containedctx // the engine's, from Open to Close
	pid    atomic.Uint32   // of the server's process behind conn
	warned bool            // the server warned of something in the statement that runs

	mu      sync.Mutex
	queue   []*request
	running bool

	conn *pgx.Conn // used by run alone; nil when there is none
}

// request is a transaction that waits for its group.
type request struct {
	txn     engine.Txn
	bytes   int
	ctx     context.Context //nolint:containedctx // the caller's: once it has gone, nobody waits for the outcome
	outcome chan outcome    // one slot
}

type outcome struct {
	result engine.Result
	err    error
}

// Commit implements engine.Engine. It does not wait for a group to fill: what comes while one is under way is the next.
func (e *Engine) Commit(ctx context.Context, txn engine.Txn) (engine.Result, error) {
	r := &request{txn: txn, ctx: ctx, outcome: make(chan outcome, 1)}
	if err := r.check(); err != nil {
		return engine.Result{}, err
	}
	if err := ctx.Err(); err != nil {
		return engine.Result{}, fmt.Errorf("commit: %w", err)
	}
	e.writer.submit(r)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case o := <-r.outcome:
		return o.result, o.err
	case <-ctx.Done():
		return engine.Result{}, fmt.Errorf("commit: %w", ctx.Err())
	case <-timer.C:
		return engine.Result{}, unavailable("commit", errSilent)
	}
}

// check refuses what PostgreSQL would refuse together with all other transactions of its group.
func (r *request) check() error {
	keys := make([]string, 0, len(r.txn.Compares)+len(r.txn.Writes))
	for _, c := range r.txn.Compares {
		keys = append(keys, c.Key)
	}
	for _, w := range r.txn.Writes {
		keys = append(keys, w.Key)
		r.bytes += len(w.Key) + len(w.Value)
	}
	for _, key := range keys {
		if len(key) > maxKey {
			return vortex.Errorf(vortex.Invalid, "a key may have %d bytes in PostgreSQL, got %d", maxKey, len(key))
		}
	}
	if r.bytes > maxTxnBytes {
		return vortex.Errorf(vortex.Invalid, "a transaction may have %d MiB in PostgreSQL, got %d", maxTxnBytes>>20, r.bytes>>20)
	}
	return nil
}

// submit queues a request and sees to it that somebody works on the queue.
func (w *writer) submit(r *request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = append(w.queue, r)
	if !w.running {
		w.running = true
		w.engine.done.Go(w.run)
	}
}

// run commits groups until nothing waits.
func (w *writer) run() {
	for {
		group := w.take()
		if group == nil {
			return
		}
		base, err := w.commit(group)
		for i, r := range group {
			if err != nil {
				r.outcome <- outcome{err: err}
			} else {
				r.outcome <- outcome{result: base.result(i)}
			}
		}
	}
}

// take removes the next group from the queue: in order, and without those that touch what another one writes.
func (w *writer) take() []*request {
	w.mu.Lock()
	defer w.mu.Unlock()
	var group, rest []*request
	bytes, keys := 0, touched{}
	for _, r := range w.queue {
		switch {
		case r.ctx.Err() != nil: // it did not happen, and nobody asks
		case len(group) < maxGroup && (bytes+r.bytes <= maxGroupBytes || len(group) == 0) && keys.take(r.txn):
			group = append(group, r)
			bytes += r.bytes
		default:
			rest = append(rest, r)
		}
	}
	w.queue = rest
	w.running = len(group) > 0
	return group
}

// touched holds the keys of a group: true for those that are written.
type touched map[string]bool

// take adds a transaction's keys, unless it and the others would see each other's writes.
func (t touched) take(txn engine.Txn) bool {
	for _, c := range txn.Compares {
		if t[c.Key] {
			return false
		}
	}
	for _, w := range txn.Writes {
		if _, ok := t[w.Key]; ok {
			return false
		}
	}
	for _, c := range txn.Compares {
		t[c.Key] = false
	}
	for _, w := range txn.Writes {
		t[w.Key] = true
	}
	return true
}

// commit makes a group durable, in one round trip, and hands what it changed to the watches of this engine.
func (w *writer) commit(group []*request) (*committed, error) {
	ctx, cancel := context.WithTimeout(w.life, patience)
	defer cancel()
	if err := w.ready(ctx); err != nil {
		return nil, classify(w.life, "connect", err)
	}
	_, epoch := w.engine.feed.position()
	args := arguments(group)
	done := &committed{}
	w.warned = false
	err := w.conn.QueryRow(ctx, w.engine.settings.in("SELECT * FROM @commit_group($1, $2, $3, $4, $5, $6)"), args[:]...).
		Scan(&done.base, &done.at, &done.lost, &done.keys, &done.created)
	if err == nil && w.warned {
		err = errUnsure
	}
	if err != nil {
		w.drop(err)
		return nil, classify(w.life, "commit", err)
	}
	done.arrange(group)
	w.engine.feed.made(epoch, done.group)
	return done, nil
}

// ready makes the connection when there is none, or when its server is not the newest.
func (w *writer) ready(ctx context.Context) error {
	if w.conn != nil && !w.conn.IsClosed() && w.engine.current(w.conn) {
		return nil
	}
	w.close()
	conn, err := w.engine.connect(ctx, w.notice)
	if err != nil {
		return err
	}
	w.conn = conn
	w.pid.Store(conn.PgConn().PID())
	return nil
}

// notice hears a warning: the wait for the replica was cut short, and the commit may be on this server alone.
func (w *writer) notice(_ *pgconn.PgConn, n *pgconn.Notice) {
	w.warned = w.warned || n.SeverityUnlocalized == "WARNING"
}

// drop closes the connection after an error, unless the server said no more than that it waited too long for another one's group.
func (w *writer) drop(err error) {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == codeLockTimeout {
		return
	}
	w.close()
}

// close ends the connection without canceling what the server still does.
func (w *writer) close() {
	if w.conn != nil {
		_ = w.conn.PgConn().Conn().Close()
		w.conn = nil
		w.pid.Store(0)
	}
}

// arguments flattens a group into the arrays of commit_group.
func arguments(group []*request) [6]any {
	var (
		compareTxn, writeTxn []int32
		compareKey, writeKey [][]byte
		revisions            []int64
		values               [][]byte
	)
	for i, r := range group {
		n := int32(i + 1) //nolint:gosec // at most maxGroup
		for _, c := range r.txn.Compares {
			compareTxn, compareKey = append(compareTxn, n), append(compareKey, []byte(c.Key))
			revisions = append(revisions, c.ModRevision)
		}
		for _, write := range r.txn.Writes {
			value := write.Value
			switch {
			case write.Delete:
				value = nil
			case value == nil:
				value = []byte{}
			}
			writeTxn, writeKey, values = append(writeTxn, n), append(writeKey, []byte(write.Key)), append(values, value)
		}
	}
	return [6]any{compareTxn, compareKey, revisions, writeTxn, writeKey, values}
}

// committed is what became of a group.
type committed struct {
	group

	lost    []int32  // the numbers of the transactions whose compares did not hold
	keys    [][]byte // what changed, …
	created []int64  // … and when those keys came into being

	results []engine.Result
}

func (c *committed) result(i int) engine.Result { return c.results[i] }

// arrange works out each transaction's result and batch. Transaction n of the group is revision base + n, if it changed something.
func (c *committed) arrange(requests []*request) {
	changed := make(map[string]int64, len(c.keys))
	for i, key := range c.keys {
		changed[string(key)] = c.created[i]
	}
	lost := make(map[int]bool, len(c.lost))
	for _, n := range c.lost {
		lost[int(n)-1] = true
	}
	last := c.base
	c.results = make([]engine.Result, len(requests))
	for i, r := range requests {
		if !lost[i] {
			if batch := c.batch(c.base+int64(i)+1, r.txn.Writes, changed); len(batch.Changes) > 0 {
				c.batches = append(c.batches, batch)
				last = batch.Revision
			}
		}
		c.results[i] = engine.Result{Committed: !lost[i], Revision: last}
	}
}

func (c *committed) batch(rev int64, writes []engine.Write, changed map[string]int64) engine.Batch {
	batch := engine.Batch{Revision: rev, Changes: make([]engine.Change, 0, len(writes))}
	for _, w := range writes {
		created, ok := changed[w.Key]
		if !ok { // an absent key was deleted
			continue
		}
		kv := engine.KV{Key: w.Key, Value: w.Value, CreateRevision: created, ModRevision: rev}
		if w.Delete {
			kv.Value = nil
		}
		batch.Changes = append(batch.Changes, engine.Change{KV: kv, Delete: w.Delete})
	}
	sortChanges(batch.Changes)
	return batch
}
