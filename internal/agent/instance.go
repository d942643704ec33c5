package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"vortex"
	"vortex/internal/health"
	"vortex/internal/kind"
	"vortex/internal/runtime"
)

// phase is where an instance stands with its driver. It says nothing about the record: an instance whose start failed is
// absent and Dead.
type phase uint8

const (
	absent  phase = iota // the driver does not have it
	running              // its first process runs
	exited               // the driver keeps its logs, or what a start that was cut short left
)

// instance is the state machine of one instance. Its own goroutine makes every call to the driver, one after the other;
// exits, probes and goals come from other goroutines and only change what mu guards.
type instance struct {
	agent *Agent
	id    string
	log   *slog.Logger
	wake  chan struct{} // one slot: something changed
	gone  chan struct{} // closed when nothing is left of it

	mu       sync.Mutex
	want     desire
	phase    phase
	driver   runtime.Driver // nil until it is chosen or found
	rec      vortex.ContainerRecord
	abort    context.CancelFunc // calls off the start that is going on
	early    *runtime.Status    // an exit that came before the start returned
	stopping bool               // we asked it to exit
	diedAt   time.Time          // when we learned of its last exit
	revived  int                // how often it was started again without a server's word
	probe    *health.Probe      // nil when it has no check
	probing  context.CancelFunc // ends the probes; nil before they begin
	finished bool
}

func newInstance(a *Agent, id string) *instance {
	return &instance{
		agent: a,
		id:    id,
		log:   a.log.With("instance", id),
		wake:  make(chan struct{}, 1),
		gone:  make(chan struct{}),
	}
}

// aim sets the goal. It is false when the instance is gone and a new one has to be made.
func (i *instance) aim(d desire) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.finished {
		return false
	}
	if d.release == nil {
		d.release = i.want.release
	}
	i.want = d
	if d.goal != goalRun && i.abort != nil {
		i.abort()
	}
	if p := d.placement; p != nil && i.phase == running && p.Epoch != deref(i.rec.Epoch) {
		i.rec.Epoch = &p.Epoch
		i.save()
	}
	i.poke()
	return true
}

// waitsForRelease reports whether the instance cannot go on before it knows its release.
func (i *instance) waitsForRelease() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.want.release == nil
}

// poke wakes the goroutine.
func (i *instance) poke() {
	select {
	case i.wake <- struct{}{}:
	default:
	}
}

// run takes one step after the other toward the goal until nothing is left of the instance or life ends.
func (i *instance) run(life context.Context) {
	retry := firstRetry
	for life.Err() == nil {
		step := i.next()
		if step == nil {
			select {
			case <-life.Done():
			case <-i.wake:
			}
			continue
		}
		err := step(life)
		switch {
		case life.Err() != nil:
			return
		case err != nil:
			i.log.WarnContext(life, "Driver did not do it; trying again", "err", err, "retry_in", retry)
			pause(life, retry)
			retry = min(2*retry, lastRetry)
		case i.isGone():
			return
		default:
			retry = firstRetry
		}
	}
}

// next returns the next step toward the goal, nil when there is nothing to do.
func (i *instance) next() func(context.Context) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch i.want.goal {
	case goalUnknown:
	case goalRun:
		return i.nextToRun()
	case goalStop:
		if i.phase == running {
			return i.stop
		}
		if i.rec.Status != vortex.ContainerStatusDead {
			i.neverRan()
		}
	case goalGone:
		if i.phase == running {
			return i.stop
		}
		return i.remove
	}
	return nil
}

// nextToRun is next when the instance should run. A dead one stays dead, unless it was placed anew since.
func (i *instance) nextToRun() func(context.Context) error {
	dead := i.rec.Status == vortex.ContainerStatusDead
	switch {
	case i.phase == running && i.probing == nil && i.want.release != nil:
		return i.check
	case i.phase == running:
		return nil
	case dead && i.orphaned():
		return i.revive
	case dead && i.rec.Epoch != nil && i.want.placement.Epoch > *i.rec.Epoch, !dead && i.phase == exited:
		return i.reset
	case !dead && i.want.release != nil:
		return i.start
	}
	return nil
}

// stop makes the instance exit and returns when its exit is recorded.
func (i *instance) stop(life context.Context) error {
	i.mu.Lock()
	driver := i.driver
	i.stopping = true
	i.endProbes()
	i.mu.Unlock()

	err := driver.Stop(life, i.id, i.grace())
	if err != nil && !vortex.IsKind(err, vortex.NotFound) {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.stopping = i.phase != running
		return err
	}
	if err == nil && i.awaitExit(life, time.Second) {
		return nil
	}
	return i.look(life) // the exit was not told, or the driver does not know the instance
}

// grace returns how long the instance may take to exit.
func (i *instance) grace() time.Duration {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.want.release == nil {
		return vortex.DefaultStopGrace
	}
	return i.want.release.Spec.StopGrace()
}

// awaitExit reports whether the exit was recorded before patience ended.
func (i *instance) awaitExit(life context.Context, patience time.Duration) bool {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		if !i.isRunning() {
			return true
		}
		select {
		case <-life.Done():
			return false
		case <-timer.C:
			return false
		case <-i.wake:
		}
	}
}

// look asks the driver what became of a running instance.
func (i *instance) look(life context.Context) error {
	all, err := i.driver.List(life)
	if err != nil {
		return err
	}
	for _, st := range all {
		if st.ID == i.id {
			if st.State == runtime.Exited {
				i.exit(st)
			}
			return nil
		}
	}
	i.lost("its driver does not know it any more")
	return nil
}

// remove deletes what the driver keeps, and the record.
func (i *instance) remove(life context.Context) error {
	if err := i.clear(life); err != nil {
		return err
	}
	i.agent.forget(i)
	return nil
}

// reset deletes what the driver keeps, so that the instance starts from nothing.
func (i *instance) reset(life context.Context) error {
	if err := i.clear(life); err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.phase, i.rec = absent, vortex.ContainerRecord{}
	return nil
}

func (i *instance) clear(life context.Context) error {
	i.mu.Lock()
	driver := i.driver
	i.mu.Unlock()
	if driver == nil {
		return nil
	}
	return driver.Remove(life, i.id)
}

// forget drops an instance of which nothing is left, unless it was wanted again meanwhile.
func (a *Agent) forget(i *instance) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.want.goal != goalGone {
		i.phase, i.rec = absent, vortex.ContainerRecord{}
		return
	}
	i.finished = true
	delete(a.instances, i.id)
	a.deleteRecord(i.id)
	close(i.gone)
}

// deleteRecord deletes a container's record, unless it is another node's by now.
func (a *Agent) deleteRecord(id string) {
	rec, err := kind.Get(a.cfg.Store, vortex.Containers, id)
	if err == nil && rec.Value.Node != "" && rec.Value.Node != a.cfg.Node.ID {
		return
	}
	a.writer.queue(kind.DeleteOp(vortex.Containers, id))
}

func (i *instance) isRunning() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.phase == running
}

func (i *instance) isGone() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.finished
}

// endProbes stops probing. mu is held.
func (i *instance) endProbes() {
	if i.probing != nil {
		i.probing()
		i.probing = nil
	}
}

// save queues the record. mu is held.
func (i *instance) save() { put(i.agent.writer, vortex.Containers, &i.rec, i.id) }

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
