package api

import (
	"context"
	"fmt"
	"strings"
	"time"

	"vortex"
	"vortex/client"
	"vortex/internal/kind"
)

// goal judges how an app stands: whether it is where it should be, or why it never will be.
type goal func(*client.App) (done bool, err error)

// servesAll is the goal that every wanted instance is healthy.
func servesAll(app *client.App) (bool, error) {
	if app.Rollout != nil && app.Rollout.State == string(vortex.RolloutStateFailed) {
		return false, rolloutFailed(app)
	}
	r := app.Replicas
	return app.Status == client.StatusRunning && r.Healthy >= r.Desired, nil
}

// runsNothing is the goal that no instance is left.
func runsNothing(app *client.App) (bool, error) {
	for _, c := range app.Containers {
		if c.Status != string(vortex.ContainerStatusDead) && c.Status != client.ContainerPending && c.Status != client.ContainerLost {
			return false, nil
		}
	}
	return true, nil
}

// rolledOut is the goal that a generation's release is complete and every wanted instance is healthy.
func rolledOut(app *client.App, generation uint64) (bool, error) {
	r := app.Rollout
	if r == nil || r.Generation < generation {
		return false, nil
	}
	switch vortex.RolloutState(r.State) {
	case vortex.RolloutStateFailed, vortex.RolloutStateReverted:
		return false, rolloutFailed(app)
	case vortex.RolloutStateComplete:
		return app.Replicas.Healthy >= app.Replicas.Desired, nil
	default:
		return false, nil
	}
}

func rolloutFailed(app *client.App) error {
	r := app.Rollout
	outcome := "it failed"
	if r.State == string(vortex.RolloutStateReverted) {
		outcome = fmt.Sprintf("it was taken back to release %d", r.Active)
	}
	return withCode(client.CodeRuntime, vortex.Errorf(vortex.Conflict, "release %d of %s does not run, %s: %s\n`vortex logs %s` shows what it wrote",
		r.Release, app.Name, outcome, r.Message, app.Name))
}

// await returns when the app reaches a goal. It is context.DeadlineExceeded when that takes longer than limit.
func (s *Server) await(ctx context.Context, name string, limit time.Duration, reached goal) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	last := ""
	err := s.follow(ctx, name, func() (bool, error) {
		f, err := s.facts(name)
		if err != nil {
			return false, err
		}
		app := f.full()
		last = fmt.Sprintf("%d of %d instances healthy, status %s", app.Replicas.Healthy, app.Replicas.Desired, app.Status)
		if app.Message != "" {
			last += ": " + app.Message
		}
		return reached(&app)
	})
	return tooLate(ctx, err, name, limit, last)
}

// awaitGone returns when nothing of an app is left.
func (s *Server) awaitGone(ctx context.Context, name string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	last := ""
	err := s.follow(ctx, name, func() (bool, error) {
		left := 0
		s.Store.View(func(v kind.View) {
			left = len(kind.Find(v, vortex.Instances, "client_id", name)) + len(kind.Find(v, vortex.Containers, "client_id", name))
		})
		last = fmt.Sprintf("%d records of instances are left", left)
		return left == 0, nil
	})
	return tooLate(ctx, err, name, limit, last)
}

// tooLate makes an error of a wait that took too long.
func tooLate(ctx context.Context, err error, name string, limit time.Duration, last string) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	return fmt.Errorf("%s is not there after %s (%s); it goes on, `vortex status %s` shows how far it is: %w", name, limit, last, name, context.Cause(ctx))
}

const (
	coalesce = 50 * time.Millisecond // changes are looked at together when they are closer than this
	resync   = 10 * time.Second      // safety net: look even when no change was seen
)

// follow calls look now and after every change that could concern the app of a name, "" being all, until it says
// that it is done, fails, or ctx ends.
func (s *Server) follow(ctx context.Context, name string, look func() (done bool, err error)) error {
	watch := s.Store.Watch(kind.WatchOptions{Prefixes: statePrefixes})
	defer func() { watch.Close() }()
	safety := time.NewTicker(resync)
	defer safety.Stop()
	for {
		if done, err := look(); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(coalesce):
		}
		lost, err := s.nextChange(ctx, watch, name, safety.C)
		if err != nil {
			return err
		}
		if lost {
			watch.Close()
			watch = s.Store.Watch(kind.WatchOptions{Prefixes: statePrefixes})
		}
	}
}

// nextChange waits until something happened that concerns an app. It reports whether the watch has to be made anew.
func (s *Server) nextChange(ctx context.Context, watch *kind.Watch, name string, safety <-chan time.Time) (lost bool, err error) {
	for {
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-safety:
			return false, nil
		case <-watch.Ready():
		}
		batches, err := watch.Take()
		if err != nil {
			if vortex.IsKind(err, vortex.Unavailable) {
				return false, err // the store stops
			}
			return true, nil
		}
		for _, b := range batches {
			for _, ev := range b.Events {
				if concerns(ev.Key, name) {
					return false, nil
				}
			}
		}
	}
}

// statePrefixes are the keys that what the API shows of an app is made of.
var statePrefixes = []string{
	vortex.Apps.Prefix + ":", vortex.Rollouts.Prefix + ":", vortex.Releases.Prefix + ":", vortex.Containers.Prefix + ":",
	vortex.Instances.Prefix + ":", vortex.Placements.Prefix + ":", vortex.Metrics.Prefix + ":", vortex.ScaleJobs.Prefix + ":",
	vortex.Liveness.Prefix + ":",
}

// concerns reports whether a change of one of these keys may change what is shown of the app of a name, "" being
// any: every one of them has the app's name in it, ids of instances at their start. A node's liveness concerns all.
func concerns(key, name string) bool {
	return strings.Contains(key, name) || strings.HasPrefix(key, vortex.Liveness.Prefix+":")
}
