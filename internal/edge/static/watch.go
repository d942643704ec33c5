package static

import (
	"context"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	settleTime = 20 * time.Millisecond  // a writer that has paused this long is done
	patience   = 200 * time.Millisecond // but no change waits longer
	recheck    = 2 * time.Second        // how often a file is looked at although nobody told of a change: a safety net
)

// watch returns a channel that has a value soon after the file may have changed, until ctx ends. It watches the directories of the
// file and of what it links to, because editors and orchestrators put a new file in the place of the old one; a file system that tells of no
// changes is looked at every now and then.
func watch(ctx context.Context, file string, log *slog.Logger) <-chan struct{} {
	changed := make(chan struct{}, 1)
	w, err := fsnotify.NewWatcher()
	if err != nil {
		log.WarnContext(ctx, "The file is looked at every now and then only, the system tells of no changes", "file", file, "every", recheck, "err", err)
	}
	go func() {
		if w != nil {
			defer w.Close()
		}
		tell(ctx, w, file, changed, log)
	}()
	return changed
}

// tell tells of changes until ctx ends. w may be nil.
func tell(ctx context.Context, w *fsnotify.Watcher, file string, changed chan<- struct{}, log *slog.Logger) {
	var events <-chan fsnotify.Event
	var errs <-chan error
	if w != nil {
		events, errs = w.Events, w.Errors
	}
	again := time.NewTicker(recheck)
	defer again.Stop()
	quiet := time.NewTimer(recheck)
	quiet.Stop()
	var since time.Time // of the first event that was not told yet
	for {
		watchDirs(w, file)
		select {
		case <-ctx.Done():
			return
		case _, ok := <-events:
			if !ok {
				events = nil
				continue
			}
			if since.IsZero() {
				since = time.Now()
			}
			quiet.Reset(max(0, min(settleTime, patience-time.Since(since))))
			continue
		case err := <-errs: // events were lost: look
			log.DebugContext(ctx, "Changes of the file were lost, looking at it", "file", file, "err", err)
		case <-quiet.C:
		case <-again.C:
		}
		since = time.Time{}
		select {
		case changed <- struct{}{}:
		default:
		}
	}
}

// watchDirs watches the directories of the file and of what it links to now.
func watchDirs(w *fsnotify.Watcher, file string) {
	if w == nil {
		return
	}
	dirs := []string{filepath.Clean(filepath.Dir(file))}
	if target, err := filepath.EvalSymlinks(file); err == nil {
		dirs = append(dirs, filepath.Dir(target))
	}
	have := w.WatchList()
	for _, dir := range dirs {
		if !slices.Contains(have, dir) {
			_ = w.Add(dir) // what cannot be watched is looked at
		}
	}
	for _, dir := range have {
		if !slices.Contains(dirs, dir) {
			_ = w.Remove(dir)
		}
	}
}
