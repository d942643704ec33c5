package backup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"vortex"
	"vortex/internal/kind"
)

// Keeper backs a running store up into a directory: a snapshot at an interval, and with Ship every transaction between
// them. One Keeper at a time should write to a directory; a second one does no harm.
type Keeper struct {
	Store *kind.Store
	// Dir is made where it is missing.
	Dir string
	// Every is the time between two snapshots, default one hour; Keep how many stay, default 24.
	Every time.Duration
	Keep  int
	// Ship writes every transaction to the log, at the latest half a second after it happened.
	Ship bool
	// Reserve is how much space stays free on the disk, default 64 MiB: the store may be on it too.
	Reserve uint64
	// Retry is the pause after a failure, default ten seconds.
	Retry time.Duration
	// Version is that of the program.
	Version string
	// Record, unless nil, is told when backups begin to fail, and when they work again.
	Record func(vortex.EventRecord)
	Log    *slog.Logger

	failing bool
}

const (
	syncEvery    = 500 * time.Millisecond
	segmentBytes = 64 << 20
)

func (k *Keeper) setDefaults() {
	if k.Every == 0 {
		k.Every = time.Hour
	}
	if k.Keep == 0 {
		k.Keep = 24
	}
	if k.Reserve == 0 {
		k.Reserve = 64 << 20
	}
	if k.Retry == 0 {
		k.Retry = 10 * time.Second
	}
	if k.Log == nil {
		k.Log = slog.New(slog.DiscardHandler)
	}
}

// Run keeps backups until ctx ends. What fails is told once, and tried again.
func (k *Keeper) Run(ctx context.Context) error {
	k.setDefaults()
	for ctx.Err() == nil {
		wait := k.Retry
		err := k.pass(ctx)
		if _, ok := errors.AsType[*interruption](err); ok {
			k.Log.WarnContext(ctx, "Backup log interrupted", "err", err)
			wait = min(wait, time.Second)
		} else if err != nil {
			k.failed(ctx, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	return nil
}

// interruption is the end of a watch: the store's doing, and none of the directory's.
type interruption struct{ error }

func (i *interruption) Unwrap() error { return i.error }

// failed tells of the first failure of several.
func (k *Keeper) failed(ctx context.Context, err error) {
	if k.failing {
		k.Log.DebugContext(ctx, "Backup failed again", "dir", k.Dir, "err", err)
		return
	}
	k.failing = true
	k.Log.ErrorContext(ctx, "Backups fail; the store is not touched by it", "dir", k.Dir, "err", err)
	k.tell("BackupFailed", vortex.SeverityError, fmt.Sprintf("backups to %s fail: %v", k.Dir, err))
}

// works tells that backups work again, if they did not.
func (k *Keeper) works(ctx context.Context) {
	if !k.failing {
		return
	}
	k.failing = false
	k.Log.InfoContext(ctx, "Backups work again", "dir", k.Dir)
	k.tell("BackupRecovered", vortex.SeverityInfo, fmt.Sprintf("backups to %s work again", k.Dir))
}

func (k *Keeper) tell(what string, severity vortex.Severity, message string) {
	if k.Record != nil {
		k.Record(vortex.EventRecord{Component: "backup", Type: what, Severity: severity, Message: message})
	}
}

// save writes a snapshot into the directory and reads it back.
func (k *Keeper) save(ctx context.Context, snap *kind.Snapshot, log string) (path string, sum Summary, err error) {
	h := Header{Revision: snap.Revision, Taken: snap.Taken, Log: log, Version: k.Version}
	path = filepath.Join(k.Dir, snapshotName(h))
	write := func(f *os.File) (err error) {
		sum, err = Write(&guarded{ctx: ctx, file: f, room: k.room}, snap, h)
		return err
	}
	check := func(tmp string) error {
		got, err := Verify(tmp, nil)
		if err == nil && got.SHA256 != sum.SHA256 {
			err = &DamageError{File: tmp, What: "what is read back is not what was written"}
		}
		return err
	}
	return path, sum, WriteFile(path, write, check)
}

// room is an error while the disk has no more than the reserve.
func (k *Keeper) room() error {
	free, err := freeSpace(k.Dir)
	if err == nil && free < k.Reserve {
		err = vortex.Errorf(vortex.Exhausted, "the disk of %s is full: %d MiB are free, %d MiB stay free for the store", k.Dir, free>>20, k.Reserve>>20)
	}
	return err
}

// guarded is a file that is written while there is room and ctx lasts.
type guarded struct {
	ctx  context.Context //nolint:containedctx // of the one call that writes the file
	file *os.File
	room func() error
}

// Write implements io.Writer.
func (g *guarded) Write(p []byte) (int, error) {
	if err := context.Cause(g.ctx); err != nil {
		return 0, err
	}
	if err := g.room(); err != nil {
		return 0, err
	}
	return g.file.Write(p)
}
