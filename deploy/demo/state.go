package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"vortex"
	"vortex/client"
)

// state is what the store's watches told, with the moment each thing was seen: any program may watch the same keys.
type state struct {
	mu      sync.Mutex
	backend map[string]bool                   // instances in the router
	running map[string]vortex.ContainerRecord // by id
	seen    map[string]bool                   // every instance there ever was
	load    time.Time                         // when the load record was seen that the scale job answers
	target  uint32                            // of the last scale job
	job     time.Time                         // when it was seen
	routes  time.Time                         // when the router last changed
	changed chan struct{}                     // closed and replaced at each change
	err     error
}

// watch follows the app's keys until ctx ends.
func watch(ctx context.Context, kind *client.Kind) *state {
	s := &state{
		backend: map[string]bool{}, running: map[string]vortex.ContainerRecord{}, seen: map[string]bool{},
		changed: make(chan struct{}),
	}
	for prefix, take := range map[string]func(client.KeyChange) error{
		"router:" + app:               s.takeRouter,
		"vortex:container:":           s.takeContainer,
		"vortex:queue:scale:" + app:   s.takeJob,
		"vortex:metrics:" + app + ":": s.takeMetrics,
	} {
		go s.follow(ctx, kind, prefix, take)
	}
	return s
}

// follow feeds the changes of one prefix.
func (s *state) follow(ctx context.Context, kind *client.Kind, prefix string, take func(client.KeyChange) error) {
	for change, err := range kind.Watch(ctx, prefix, 1) {
		if ctx.Err() != nil {
			return
		}
		s.mu.Lock()
		if err == nil {
			err = take(change)
		}
		s.err = errors.Join(s.err, err)
		close(s.changed)
		s.changed = make(chan struct{})
		s.mu.Unlock()
	}
}

func (s *state) takeRouter(change client.KeyChange) error {
	var router vortex.RouterRecord
	if !change.Deleted {
		if err := json.Unmarshal(change.Value, &router); err != nil {
			return err
		}
	}
	s.backend, s.routes = map[string]bool{}, time.Now()
	for _, b := range router.Backends {
		s.backend[b.Instance] = true
	}
	return nil
}

func (s *state) takeContainer(change client.KeyChange) error {
	var rec vortex.ContainerRecord
	if change.Deleted {
		delete(s.running, change.Key[len("vortex:container:"):])
		return nil
	}
	if err := json.Unmarshal(change.Value, &rec); err != nil {
		return err
	}
	s.seen[rec.ID] = true
	if rec.Status == vortex.ContainerStatusRunning {
		s.running[rec.ID] = rec
	} else {
		delete(s.running, rec.ID)
	}
	return nil
}

func (s *state) takeJob(change client.KeyChange) error {
	var job vortex.ScaleJob
	if change.Deleted {
		return nil
	}
	if err := json.Unmarshal(change.Value, &job); err != nil {
		return err
	}
	s.target, s.job = job.Target, time.Now()
	return nil
}

func (s *state) takeMetrics(change client.KeyChange) error {
	var metrics vortex.ClientMetrics
	if change.Deleted {
		return nil
	}
	if err := json.Unmarshal(change.Value, &metrics); err != nil {
		return err
	}
	// The first record of a load that asks for the peak's instances; the tolerance is the autoscaler's.
	if s.load.IsZero() && metrics.CurrentRPS > peak-target {
		s.load = time.Now()
	}
	return nil
}

// wait returns when ok does, which is called under the lock.
func (s *state) wait(ctx context.Context, what string, ok func() bool) error {
	for {
		s.mu.Lock()
		done, changed, err := ok(), s.changed, s.err
		s.mu.Unlock()
		if err != nil {
			return fmt.Errorf("watch the store: %w", err)
		}
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, context.Cause(ctx))
		}
	}
}

// scaled waits for a scale job with a target and returns when the load it answers was recorded.
func (s *state) scaled(ctx context.Context, target uint32) (recorded time.Time, err error) {
	err = s.wait(ctx, fmt.Sprintf("a scale job for %d instances", target), func() bool {
		recorded = s.load
		return s.target == target && !recorded.IsZero()
	})
	return recorded, err
}

// routed waits until so many instances are in the router and returns when that was seen.
func (s *state) routed(ctx context.Context, count int) (at time.Time, err error) {
	err = s.wait(ctx, fmt.Sprintf("%d instances in the router", count), func() bool {
		at = s.routes
		return len(s.backend) == count
	})
	return at, err
}

// unrouted waits until an instance is not in the router and returns when that was seen.
func (s *state) unrouted(ctx context.Context, id string) (at time.Time, err error) {
	err = s.wait(ctx, id+" to leave the router", func() bool {
		at = s.routes
		return !s.backend[id]
	})
	return at, err
}

// containers waits until so many instances run.
func (s *state) containers(ctx context.Context, count int) error {
	return s.wait(ctx, fmt.Sprintf("%d running instances", count), func() bool { return len(s.running) == count })
}

// only returns the instance that is alone in the router; zero when there is none or more.
func (s *state) only() (rec vortex.ContainerRecord) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.backend) == 1 {
		for id := range s.backend {
			rec = s.running[id]
		}
	}
	return rec
}

// instances returns the ids of every instance there ever was.
func (s *state) instances() (ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.seen {
		ids = append(ids, id)
	}
	return ids
}
