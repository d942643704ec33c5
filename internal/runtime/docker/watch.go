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
				d.cfg.Log.WarnContext(ctx, "Docker Engine went away, waiting for it", "host", d.cfg.Host, "err", err)
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
			err = w.exited(ctx, m.Actor.ID, m)
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
		if err := w.exited(ctx, item.ID, events.Message{}); err != nil || w.done {
			return err
		}
	}
	return w.forget(ctx, there)
}

// forget drops what is remembered of containers that are gone.
func (w *watcher) forget(ctx context.Context, exited map[string]bool) error {
	found, err := w.d.engine.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: w.d.filters()})
	if err != nil {
		return w.d.fail("list instances", err)
	}
	for _, item := range found.Items {
		exited[item.ID] = true
	}
	w.d.mu.Lock()
	defer w.d.mu.Unlock()
	for _, set := range []map[string]bool{w.seen, w.d.yielded, w.d.removed, w.d.oomKilled} {
		maps.DeleteFunc(set, func(id string, _ bool) bool { return !exited[id] })
	}
	return nil
}

// exited yields the status of a container that is said to have exited, once. One that never ran is not an exit but a
// failed start. Of one that somebody removed at once the event, if that is what said so, is all that is known.
func (w *watcher) exited(ctx context.Context, engineID string, event events.Message) error {
	if w.seen[engineID] || w.d.isRemoved(engineID) {
		return nil
	}
	s, err := w.d.inspect(ctx, engineID)
	switch {
	case isGone(err) && event.Action == events.ActionDie && !w.d.isRemoved(engineID):
		s = statusOfEvent(event)
	case isGone(err), err == nil && s.State != runtime.Exited:
		return nil
	case err != nil:
		return err
	}
	w.seen[engineID] = true
	w.d.note(w.d.yielded, engineID)
	w.done = !w.yield(s)
	return nil
}

func (d *Driver) isRemoved(engineID string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.removed[engineID]
}
