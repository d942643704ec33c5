package agent

import (
	"context"
	"fmt"
	"time"

	"vortex"
	"vortex/internal/runtime"
)

// watchExits hands every exit that a driver tells of to its instance.
func (a *Agent) watchExits(life context.Context, name string, driver runtime.Driver) {
	for life.Err() == nil {
		for st := range driver.Watch(life) {
			if i, ok := a.find(st.ID); ok {
				i.exit(st)
			}
		}
		if life.Err() == nil {
			a.log.WarnContext(life, "Driver stopped telling of exits; asking again", "driver", name)
			pause(life, lastRetry)
		}
	}
}

// exit takes in that the instance exited. It never waits for the driver.
func (i *instance) exit(st runtime.Status) {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case i.phase == running && !i.earlier(st):
		i.dead(st)
	case i.phase != running && i.abort != nil:
		i.early = &st
	}
}

// earlier reports whether a status is of an earlier start with this id. Both times are the driver's, of one start each, so that a
// step of the clock in between does not matter; precision may differ. mu is held.
func (i *instance) earlier(st runtime.Status) bool {
	return !st.StartedAt.IsZero() && st.StartedAt.Before(i.rec.StartedAt.Add(-time.Second))
}

// lost records that a running instance is no more, and that its exit code cannot be known.
func (i *instance) lost(why string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.phase == running {
		i.dead(runtime.Status{ID: i.id, State: runtime.Exited, ExitCode: -1, Reason: why})
	}
}

// dead records an exit. mu is held.
func (i *instance) dead(st runtime.Status) {
	i.endProbes()
	i.phase = exited
	i.diedAt = time.Now()
	i.rec.Status = vortex.ContainerStatusDead
	i.rec.PID = nil
	if i.rec.Health == vortex.HealthHealthy {
		i.rec.Health = vortex.HealthUnknown
	}
	if i.rec.FinishedAt = st.FinishedAt.UTC(); st.FinishedAt.IsZero() {
		i.rec.FinishedAt = time.Now().UTC()
	}
	if code := int32(st.ExitCode); code >= 0 {
		i.rec.ExitCode = &code
	}
	if st.OOMKilled {
		i.rec.OOMKilled = &st.OOMKilled
	}
	i.rec.Reason = exitReason(st)
	if i.stopping {
		i.rec.Reason = stopReason(i.want, i.rec.Reason)
	}
	i.save() // before anything else: what heals waits for it
	i.announceExit()
	i.poke()
}

// announceExit logs an exit and records it as an event. mu is held.
func (i *instance) announceExit() {
	if i.stopping {
		i.log.Info("Instance stopped", "app", i.rec.ClientID, "reason", i.rec.Reason)
		i.agent.record(&i.rec, "InstanceStopped", vortex.SeverityInfo, i.rec.Reason)
		return
	}
	i.log.Warn("Instance died", "app", i.rec.ClientID, "reason", i.rec.Reason)
	i.agent.record(&i.rec, "InstanceDied", vortex.SeverityError, "died: "+i.rec.Reason)
}

// neverRan records that an instance was stopped before it ran. mu is held.
func (i *instance) neverRan() {
	if i.rec.ID == "" {
		i.rec.ID, i.rec.ClientID, i.rec.Node = i.id, i.want.placement.ClientID, i.agent.cfg.Node.ID
		i.rec.Release, i.rec.Epoch = &i.want.placement.Release, &i.want.placement.Epoch
	}
	i.rec.Status = vortex.ContainerStatusDead
	i.rec.FinishedAt = time.Now().UTC()
	i.rec.Reason = stopReason(i.want, "before it ran")
	i.save()
}

// stopReason says that an instance was stopped, how it ended and why it had to.
func stopReason(want desire, how string) string {
	reason := "stopped: " + how
	if want.reason != "" {
		reason += " (" + want.reason + ")"
	}
	return reason
}

// exitReason says in a few words how an instance exited.
func exitReason(st runtime.Status) string {
	const signalled = 128 // exit codes above it are signals
	switch {
	case st.OOMKilled:
		return "killed: it used more memory than its limit; raise resources.limits.memory"
	case st.Reason != "":
		return st.Reason
	case st.ExitCode < 0:
		return "its exit code cannot be known"
	case st.ExitCode > signalled && st.ExitCode <= signalled+64:
		return fmt.Sprintf("killed by signal %d", st.ExitCode-signalled)
	default:
		return fmt.Sprintf("exited with code %d", st.ExitCode)
	}
}
