package backup

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"vortex/internal/kind"
)

// pass is one run of a Keeper from one failure to the next.
type pass struct {
	*Keeper

	log     string        // the name of the log; "" when none is shipped
	seg     *segment      // nil when none is shipped
	at      int64         // the last revision in the log
	changes chan delivery // nil when none is shipped
	due     *time.Timer   // for the next snapshot
	saved   chan saving
	saving  bool
	work    sync.WaitGroup
}

// delivery is what a watch delivered, saving what became of a snapshot.
type (
	delivery struct {
		batches []kind.Batch
		err     error
	}
	saving struct {
		path string
		sum  Summary
		err  error
	}
)

// pass keeps backups until something fails or ctx ends.
func (k *Keeper) pass(ctx context.Context) (err error) {
	if err := os.MkdirAll(k.Dir, 0o700); err != nil {
		return err
	}
	k.sweepTemporary()
	c, err := List(k.Dir)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	p := &pass{Keeper: k, due: time.NewTimer(k.untilDue(c)), saved: make(chan saving, 1)}
	defer func() {
		cancel()
		p.work.Wait()
		if closed := p.closeSegment(); err == nil {
			err = closed
		}
	}()
	if k.Ship {
		if err := p.ship(ctx, c); err != nil {
			return err
		}
	}
	return p.loop(ctx)
}

// untilDue is how long to wait for the next snapshot.
func (k *Keeper) untilDue(c *Catalog) time.Duration {
	if len(c.Snapshots) == 0 {
		return 0
	}
	return max(0, min(k.Every, time.Until(c.Snapshots[0].Taken.Add(k.Every))))
}

// sweepTemporary removes what a process left behind that was killed while it wrote a snapshot.
func (k *Keeper) sweepTemporary() {
	left, _ := filepath.Glob(filepath.Join(k.Dir, "."+namePrefix+"*"))
	for _, path := range left {
		if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > time.Hour {
			_ = os.Remove(path)
		}
	}
}

func (p *pass) loop(ctx context.Context) error {
	ticker := time.NewTicker(syncEvery)
	defer ticker.Stop()
	defer p.due.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case d := <-p.changes:
			err = p.take(ctx, d)
		case <-ticker.C:
			err = p.sync(ctx)
		case <-p.due.C:
			p.begin(ctx, p.Store.Snapshot())
		case s := <-p.saved:
			err = p.finish(ctx, s)
		}
		if err != nil {
			return err
		}
	}
}

// begin writes a snapshot in the background.
func (p *pass) begin(ctx context.Context, snap *kind.Snapshot) {
	if p.saving {
		return
	}
	p.saving = true
	p.work.Go(func() {
		var s saving
		s.path, s.sum, s.err = p.save(ctx, snap, p.log)
		p.saved <- s
	})
}

// finish begins a new segment after a good snapshot, and lets go of what is old.
func (p *pass) finish(ctx context.Context, s saving) error {
	p.saving = false
	if s.err != nil {
		return fmt.Errorf("take a snapshot: %w", s.err)
	}
	p.due.Reset(max(0, time.Until(s.sum.Taken.Add(p.Every))))
	if err := p.rotate(); err != nil {
		return err
	}
	p.works(ctx)
	p.Log.InfoContext(ctx, "Snapshot taken and read back", "path", s.path, "revision", s.sum.Revision, "records", s.sum.Records, "bytes", s.sum.Bytes)
	if err := prune(p.Dir, p.Keep); err != nil {
		return fmt.Errorf("remove old backups: %w", err)
	}
	return nil
}

// take ships what a watch delivered.
func (p *pass) take(ctx context.Context, d delivery) error {
	switch {
	case ctx.Err() != nil:
		return nil //nolint:nilerr // it is the end
	case d.err != nil:
		return &interruption{d.err}
	default:
		return p.append(d.batches)
	}
}

// append ships transactions that are not in the log yet.
func (p *pass) append(batches []kind.Batch) error {
	for len(batches) > 0 && batches[0].Revision <= p.at {
		batches = batches[1:]
	}
	if len(batches) == 0 {
		return nil
	}
	if err := p.seg.append(batches); err != nil {
		return fmt.Errorf("ship transactions: %w", err)
	}
	p.at = p.seg.end.Revision
	return nil
}

// sync brings the log to the disk, and begins a new segment where one has grown large.
func (p *pass) sync(ctx context.Context) error {
	if p.seg == nil {
		return nil
	}
	if err := p.seg.sync(); err != nil {
		return fmt.Errorf("ship transactions: %w", err)
	}
	if p.seg.frames.size > segmentBytes {
		if err := p.rotate(); err != nil {
			return err
		}
	}
	if err := p.room(); err != nil {
		return err
	}
	if !p.saving {
		p.works(ctx)
	}
	return nil
}

// rotate ends the segment and begins the next one.
func (p *pass) rotate() error {
	if p.seg == nil {
		return nil
	}
	if err := p.closeSegment(); err != nil {
		return err
	}
	return p.openSegment()
}

func (p *pass) openSegment() (err error) {
	h := segmentHeader{Log: p.log, After: p.at, Time: time.Now().UTC(), Version: p.Version}
	if p.seg, err = createSegment(filepath.Join(p.Dir, segmentName(h)), h); err != nil {
		return fmt.Errorf("begin a segment of the log: %w", err)
	}
	return nil
}

func (p *pass) closeSegment() error {
	if p.seg == nil {
		return nil
	}
	err := p.seg.close()
	p.seg = nil
	if err != nil {
		return fmt.Errorf("end a segment of the log: %w", err)
	}
	return nil
}

// newLog is a name that no other log has.
func newLog() string { return strings.ToLower(rand.Text()[:8]) }
