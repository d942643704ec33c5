package backup

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"vortex/internal/kind"
)

// ship begins to deliver transactions to the log: to the one in the directory where the
// store's history leads on from it, else to a new one with a snapshot of its own.
func (p *pass) ship(ctx context.Context, c *Catalog) error {
	if len(c.Snapshots) > 0 && c.Snapshots[0].Log != "" {
		if watch, batches := p.resume(ctx, c, c.Snapshots[0]); watch != nil {
			p.Log.InfoContext(ctx, "Backup log goes on", "log", p.log, "revision", p.at)
			return p.follow(ctx, watch, batches)
		}
	}
	watch := p.Store.Watch(kind.WatchOptions{})
	snap := p.Store.Snapshot()
	p.log, p.at = newLog(), snap.Revision
	p.Log.InfoContext(ctx, "Backup log begins", "log", p.log, "revision", p.at)
	if err := p.follow(ctx, watch, nil); err != nil {
		return err
	}
	p.begin(ctx, snap)
	return nil
}

// follow opens a segment and delivers what watch sees from now on.
func (p *pass) follow(ctx context.Context, watch *kind.Watch, batches []kind.Batch) error {
	if err := p.openSegment(); err != nil {
		watch.Close()
		return err
	}
	p.changes = make(chan delivery)
	p.work.Go(func() {
		defer watch.Close()
		for d := (delivery{batches: batches}); ; {
			select {
			case <-ctx.Done():
				return
			case p.changes <- d:
			}
			if d.err != nil {
				return
			}
			d.batches, d.err = watch.Next(ctx)
		}
	})
	return nil
}

// resume returns a watch that goes on where the log of a snapshot ends, with what it delivered so
// far, or nil when the store's history does not lead there: it was forgotten, or it is another one.
func (p *pass) resume(ctx context.Context, c *Catalog, snap SnapshotFile) (*kind.Watch, []kind.Batch) {
	last, err := c.last(snap.Log)
	if err != nil || p.Store.Sync(ctx) != nil || p.Store.Revision() < last.revision {
		return nil, nil
	}
	watch := p.Store.Watch(kind.WatchOptions{From: last.revision})
	batches, err := watch.Next(ctx)
	if err != nil || len(batches) == 0 || !last.is(batches[0]) {
		watch.Close()
		return nil, nil
	}
	p.log, p.at = snap.Log, last.revision
	return watch, batches[1:]
}

// last returns the last transaction of a log, nil when there is none, and cuts what is torn after it.
func (c *Catalog) last(log string) (*txn, error) {
	chain := c.segments[log]
	for _, f := range slices.Backward(chain) {
		if err := f.cut(); err != nil {
			return nil, err
		}
		var last *txn
		if _, err := f.read(func(t txn) bool { last = &t; return true }); err != nil {
			return nil, err
		}
		if last != nil {
			return last, nil
		}
	}
	return nil, errors.New("the log is empty")
}

// is reports whether a batch is the transaction.
func (t *txn) is(b kind.Batch) bool {
	if t.revision != b.Revision || len(t.changes) != len(b.Events) {
		return false
	}
	for i, ch := range t.changes {
		ev := b.Events[i]
		if ch.key != ev.Key || (ch.rec == nil) != ev.Deleted {
			return false
		}
		if ch.rec != nil && (ch.rec.ExpiresAt != ev.Record.ExpiresAt || !bytes.Equal(ch.rec.Value, ev.Record.Value)) {
			return false
		}
	}
	return true
}
