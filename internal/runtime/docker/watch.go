package docker

import (
	"context"
	"iter"
	"maps"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"

	"vortex/internal/runtime"
)

const (
	resyncEvery  = 30 * time.Second      // the safety net under the event stream
	firstBackoff = 20 * time.Millisecond // after the engine went away, doubled up to lastBackoff
	lastBackoff  = time.Second
	lookBack     = 10 * time.Second // an engine answers before it listens: events of that gap are asked for again
)

// Watch yields the status of each instance that exits. It subscribes to the engine's events first and lists
// the exited ones then, each time the engine was away, so that no exit falls between.
func (d *Driver) Watch(ctx context.Context) iter.Seq[runtime.Status] {
	return func(yield func(runtime.Status) bool) {
		w := &watcher{d: d, yield: yield, seen: d.alreadyYielded()}
		backoff := firstBackoff
		for ctx.Err() == nil && !w.done {
			connected, err := w.session(ctx)
			if ctx.Err() != nil || w.done {
				return
			}
			if connected {
				backoff = firstBackoff
				d.cfg.Log.Warn("Docker Engine went away, waiting for it", "host", d.cfg.Host, "err", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(backoff):
			}
			backoff = min(2*backoff, lastBackoff)
		}
	}
}

func (d *Driver) alreadyYielded() map[string]bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.yielded)
}

// watcher is one Watch. Two at once both see every exit; a later one does not see what an earlier one has yielded.
type watcher struct {
	d     *Driver
	yield func(runtime.Status) bool
	seen  map[string]bool // engine ids
	done  bool            // the consumer has enough
}

// session watches until the stream breaks. It reports whether it came as far as having listed what there is.
func (w *watcher) session(ctx context.Context) (connected bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream := w.d.engine.Events(ctx, client.EventsListOptions{
		Since:   strconv.FormatInt(time.Now().Add(-lookBack).Unix(), 10),
		Filters: w.d.filters().Add("type", string(events.ContainerEventType)).Add("event", string(events.ActionDie)),
	})
	if err := w.resync(ctx); err != nil {
		return false, err
	}
	tick := time.NewTicker(resyncEvery)
	defer tick.Stop()
	for !w.done {
		select {
		case m := <-stream.Messages:
			err = w.exited(ctx, m.Actor.ID)
		case err = <-stream.Err:
			return true, err
		case <-tick.C:
			err = w.resync(ctx)
		}
		if err != nil {
			return true, err
		}
	}
	return true, nil
}

// resync yields every exited instance that was not yet, and forgets those that are gone.
func (w *watcher) resync(ctx context.Context) error {
	exited := w.d.filters().Add("status", string(container.StateExited), string(container.StateDead))
	found, err := w.d.engine.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: exited})
	if err != nil {
		return w.d.fail("list exited instances", err)
	}
	there := map[string]bool{}
	for _, item := range found.Items {
		there[item.ID] = true
		if err := w.exited(ctx, item.ID); err != nil || w.done {
			return err
		}
	}
	maps.DeleteFunc(w.seen, func(id string, _ bool) bool { return !there[id] })
	return nil
}

// exited yields the status of a container that is said to have exited, once. One that never ran is not an exit
// but a failed start, and one that is gone was removed by somebody who knew.
func (w *watcher) exited(ctx context.Context, engineID string) error {
	if w.seen[engineID] {
		return nil
	}
	s, err := w.d.inspect(ctx, engineID)
	if isGone(err) || (err == nil && s.State != runtime.Exited) {
		return nil
	}
	if err != nil {
		return err
	}
	w.seen[engineID] = true
	w.d.mu.Lock()
	w.d.yielded[engineID] = true
	w.d.mu.Unlock()
	w.done = !w.yield(s)
	return nil
}
