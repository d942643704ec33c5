package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"

	"vortex/internal/runtime"
)

const (
	oomBefore = 10 * time.Second      // how long before the exit its cause is looked for
	oomAfter  = 50 * time.Millisecond // and after it: how late the engine may hear of it
)

// lateOOM reports whether a container that SIGKILL ended was killed for its memory, although its state does not say so: the
// engine learns of the exit and of the cause by two messages, and forgets the cause when it comes second. Its event
// stream still has it. The answer is kept, because the engine remembers its last events only.
func (d *Driver) lateOOM(ctx context.Context, c container.InspectResponse, s runtime.Status) bool {
	if s.ExitCode != sigkill || c.HostConfig == nil || c.HostConfig.Memory == 0 || s.FinishedAt.IsZero() {
		return false
	}
	d.mu.Lock()
	killed, known := d.oomKilled[c.ID]
	d.mu.Unlock()
	if known {
		return killed
	}
	ctx, cancel := context.WithTimeout(ctx, cleanupTime)
	defer cancel()
	stream := d.engine.Events(ctx, client.EventsListOptions{
		Since: unixTime(s.FinishedAt.Add(-oomBefore)), Until: unixTime(s.FinishedAt.Add(oomAfter)),
		Filters: client.Filters{}.Add("type", string(events.ContainerEventType)).Add("event", string(events.ActionOOM)).Add("container", c.ID),
	})
	select {
	case <-stream.Messages:
		killed = true
	case err := <-stream.Err:
		if !errors.Is(err, io.EOF) {
			return false // no answer; whoever asks next may get one
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.oomKilled[c.ID] = killed
	return killed
}

// unixTime writes a time as the engine's API reads it.
func unixTime(t time.Time) string { return fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond()) }
