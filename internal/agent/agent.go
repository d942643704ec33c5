package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	stdruntime "runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"vortex"
	"vortex/internal/kind"
	"vortex/internal/loop"
	"vortex/internal/runtime"
)

// Images makes images ready to start from.
type Images interface {
	// Ensure returns when the image is on this node. It calls progress, with a few words for people, only
	// when it has to be fetched. The message of a *vortex.Error is shown to the user.
	Ensure(ctx context.Context, ref string, progress func(string)) error
}

// Events takes what happened. Record must not block.
type Events interface {
	Record(ev vortex.EventRecord)
}

// Config says which node an agent works for, and with what.
type Config struct {
	// Node is the record of this node; the agent fills in Drivers and StartedAt when they are missing.
	Node vortex.NodeRecord
	// Store is read, watched and written. It must be running.
	Store *kind.Store
	// Drivers run instances, by the name an App spec gives as its runtime.
	Drivers map[string]runtime.Driver
	// Default is the driver of apps whose runtime is auto. It may be empty when there is only one driver.
	Default string
	// Images prepares images for drivers that do not implement Images themselves; nil leaves it to the drivers.
	Images Images
	// VolumesDir holds the apps' volumes, at <VolumesDir>/<app>/<volume>.
	VolumesDir string
	// Events takes what happened; nil discards.
	Events Events
	// Log receives what an operator would act on; nil discards.
	Log *slog.Logger
	// Sweep is how often drivers and records are compared, as a safety net; default 5 s.
	Sweep time.Duration
	// Starts is how many instances may be starting at once; default twice the number of CPUs.
	Starts int
	// Alone is how long the store has to be away before an instance that dies is started again here, because nobody can replace
	// it; twice as long each time. Default 10 s.
	Alone time.Duration
	// StopOnExit stops and removes every instance when Run's context ends. Else they go on.
	StopOnExit bool
}

const (
	defaultSweep = 5 * time.Second
	farewell     = 2 * time.Second  // for the last writes after the context ended
	retirement   = 20 * time.Second // for drivers to remove everything, besides the grace
)

// validate fills in defaults and returns every problem at once.
func (c *Config) validate() error {
	var problems []error
	if c.Node.ID == "" {
		problems = append(problems, vortex.Errorf(vortex.Invalid, "the agent needs the id of its node"))
	}
	if c.Store == nil {
		problems = append(problems, vortex.Errorf(vortex.Invalid, "the agent needs a store"))
	}
	names := slices.Sorted(maps.Keys(c.Drivers))
	if c.Default == "" && len(names) == 1 {
		c.Default = names[0]
	}
	if c.Drivers[c.Default] == nil {
		problems = append(problems, vortex.Errorf(vortex.Invalid, "the default runtime %q is not among this node's: %v", c.Default, names))
	}
	if len(c.Node.Drivers) == 0 {
		c.Node.Drivers = names
	}
	if c.Sweep == 0 {
		c.Sweep = defaultSweep
	}
	if c.Alone == 0 {
		c.Alone = defaultAlone
	}
	if c.Starts == 0 {
		c.Starts = 2 * stdruntime.NumCPU()
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return errors.Join(problems...)
}

// Agent is the loop of one node. Its methods are safe for concurrent use.
type Agent struct {
	cfg    Config
	log    *slog.Logger
	writer *writer
	slots  chan struct{}             // one per start that may be going on
	away   atomic.Pointer[time.Time] // since when the store does not answer; nil while it does

	mu        sync.Mutex
	instances map[string]*instance
	work      sync.WaitGroup // the goroutines of instances and probes
}

// New returns an agent that Run starts. An error is Invalid.
func New(cfg Config) (*Agent, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &Agent{
		cfg:       cfg,
		log:       cfg.Log,
		writer:    newWriter(cfg.Store, cfg.Log),
		slots:     make(chan struct{}, cfg.Starts),
		instances: map[string]*instance{},
	}, nil
}

// Run adopts the instances that are there and then does what the store says until ctx ends. Instances
// go on without it, unless StopOnExit is set.
func (a *Agent) Run(ctx context.Context) error {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var parts sync.WaitGroup
	parts.Go(func() { a.writer.run(life) })
	labels := a.writeNode()
	parts.Go(func() { a.followLabels(life, labels) })
	a.adopt(ctx, life)
	for name, driver := range a.cfg.Drivers {
		parts.Go(func() { a.watchExits(life, name, driver) })
	}

	err := a.follow(ctx, life)
	if a.cfg.StopOnExit {
		a.retire()
	}
	end()
	parts.Wait()
	a.work.Wait()
	a.writer.finish(context.WithoutCancel(ctx), farewell)
	return err
}

// follow keeps the instances' goals at what the store says until ctx ends.
func (a *Agent) follow(ctx, life context.Context) error {
	if !a.catchUp(ctx) {
		return nil
	}
	var sweeper sync.WaitGroup
	defer sweeper.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sweeper.Go(func() { a.sweepEvery(ctx, life) })
	var prefixes []string
	for _, table := range []string{vortex.Placements.Prefix, vortex.Instances.Prefix, vortex.Releases.Prefix} {
		prefixes = append(prefixes, table+":")
	}
	l := loop.Loop{Store: a.cfg.Store, Prefixes: prefixes, Log: a.log}
	err := l.Run(ctx, func(_ context.Context, changes loop.Changes) (time.Duration, error) {
		a.tick(life, changes)
		return 0, nil
	})
	if err != nil {
		return fmt.Errorf("follow placements: %w", err)
	}
	return nil
}

// catchUp waits until the store has taken in everything acknowledged before now: a store that lags
// behind must not make the agent stop what was placed here meanwhile. It is false when ctx ended first.
func (a *Agent) catchUp(ctx context.Context) bool {
	for retry := firstRetry; ; retry = min(2*retry, lastRetry) {
		err := a.cfg.Store.Sync(ctx)
		if err == nil {
			return true
		}
		if ctx.Err() == nil {
			a.log.WarnContext(ctx, "Store not current yet; instances go on as they are", "err", err)
		}
		if !pause(ctx, retry) {
			return false
		}
	}
}

// retire stops and removes every instance. It returns when all are gone, or when they had their grace
// and a driver still does not do it: ending this process must not depend on a driver that hangs.
func (a *Agent) retire() {
	all := a.all()
	patience := time.Duration(0)
	for _, i := range all {
		i.aim(desire{goal: goalGone})
		patience = max(patience, i.grace())
	}
	expired := time.After(patience + retirement)
	for _, i := range all {
		select {
		case <-i.gone:
		case <-expired:
			a.log.Error("Instances left behind", "instance", i.id)
			return
		}
	}
}

// find returns a known instance.
func (a *Agent) find(id string) (*instance, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i, ok := a.instances[id]
	return i, ok
}

// instance returns the instance with the given id, and starts its state machine when it is new.
func (a *Agent) instance(life context.Context, id string) *instance {
	a.mu.Lock()
	defer a.mu.Unlock()
	i, ok := a.instances[id]
	if !ok {
		i = newInstance(a, id)
		a.instances[id] = i
		a.work.Go(func() { i.run(life) })
	}
	return i
}

// all returns every instance the agent knows.
func (a *Agent) all() []*instance {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Collect(maps.Values(a.instances))
}

// record queues an event about an instance.
func (a *Agent) record(rec *vortex.ContainerRecord, typ string, severity vortex.Severity, message string) {
	if a.cfg.Events == nil {
		return
	}
	a.cfg.Events.Record(vortex.EventRecord{
		At: time.Now(), Severity: severity, Component: "agent", Type: typ, Message: message,
		ClientID: rec.ClientID, Instance: rec.ID, Node: a.cfg.Node.ID, Cause: vortex.Placements.Key(rec.ID),
	})
}

// pause waits for d; it is false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
