// Package election gives exactly one server of a cluster the lead: it holds vortex:daemon:leader, a
// compare-and-swap lock with a time to live.
//
// It guarantees more than the lock alone can: every lead has an epoch, larger than all before, and a kind.Writer whose commits
// carry it, so that a server which lost the lead while it was paused cannot write any more. A server that finds
// its own name in the lock takes it at once: its earlier process is dead. So it does when it knows that the leader is dead, and can
// commit: should it be wrong, the epoch keeps the old leader from writing all the same.
package election

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"vortex"
	"vortex/internal/kind"
)

// Election competes for the lead.
type Election struct {
	Store *kind.Store
	// ID names this server; no two servers may share it.
	ID string
	// Address is where this server's API answers; kept in the lock for the others.
	Address string
	// TTL, Renew and Retry default to 5 s, 3 s and 2 s.
	TTL, Renew, Retry time.Duration
	// Peers know which servers have died; nil waits for the lock's expiry.
	Peers Peers
	Log   *slog.Logger

	seen  int64 // the revision of the lock as it was last seen
	since time.Time
	fence int64     // the revision of the fence as it was last seen
	took  time.Time // when it was seen to change; zero when it was what it is before this server looked
}

// Peers know which servers have died.
type Peers interface {
	// Dead reports whether a server's death is confirmed, and since when.
	Dead(server string) (since time.Time, dead bool)
	// Watch returns a channel that holds a value when that may have changed, and what ends it.
	Watch() (news <-chan struct{}, stop func())
}

// The keys of the lock and of the fence. The fence changes only when the lead does.
const (
	lockID  = "leader"
	fenceID = "epoch"
)

const (
	renewRetries = 10               // how often within the renewal's interval a failed one is tried again
	takeRetries  = 20               // how often within the time between tries one is made that the store refused for want of a quorum
	tellEvery    = 10 * time.Second // that it refuses
)

// LockKey is where the lock lives.
var LockKey = vortex.LeaderLocks.Key(lockID)

var fenceKey = vortex.LeaderLocks.Key(fenceID)

// errLost is the cause of a lead that ended because somebody else took it or it could not be renewed.
var errLost = errors.New("the lead was lost")

// Run competes until ctx ends and calls lead, with a context that ends when the
// lead does, every time this server is elected. lead must return soon after its context has ended.
func (e *Election) Run(ctx context.Context, lead func(ctx context.Context, w kind.Writer) error) error {
	e.setDefaults()
	watch := e.Store.Watch(kind.WatchOptions{Prefixes: []string{LockKey}})
	defer func() { watch.Close() }()
	var news <-chan struct{}
	if e.Peers != nil {
		var stop func()
		news, stop = e.Peers.Watch()
		defer stop()
	}
	var told time.Time
	for ctx.Err() == nil {
		won, err := e.take(ctx)
		switch {
		case err == nil:
			if err := e.hold(ctx, won, lead); err != nil {
				return err
			}
		case vortex.IsKind(err, vortex.Conflict), ctx.Err() != nil:
			watch = e.wait(ctx, watch, news)
		default: // the store cannot be written, which may be over in a moment
			if time.Since(told) >= tellEvery {
				e.Log.WarnContext(ctx, "Lock not taken", "err", err)
				told = time.Now()
			}
			pause(ctx, e.Retry/takeRetries)
		}
	}
	return nil
}

func (e *Election) setDefaults() {
	if e.TTL == 0 {
		e.TTL = 5 * time.Second
	}
	if e.Renew == 0 {
		e.Renew = 3 * time.Second
	}
	if e.Retry == 0 {
		e.Retry = 2 * time.Second
	}
}

// won is a lead that was taken.
type won struct {
	lock   []byte      // its value
	rev    int64       // of the fence
	writer kind.Writer // fenced by the new epoch
}

// take tries once to take the lock.
func (e *Election) take(ctx context.Context) (won, error) {
	ctx, cancel := context.WithTimeout(ctx, e.Retry)
	defer cancel()
	free, err := e.free()
	if err != nil {
		return won{}, err
	}
	epoch, fenceRev := uint64(0), int64(0)
	if fence, err := kind.Get(e.Store, vortex.LeaderLocks, fenceID); err == nil {
		epoch, fenceRev = fence.Value.Epoch, fence.ModRevision
	}
	lock, err := json.Marshal(vortex.LeaderLock{ID: e.ID, Epoch: epoch + 1, Address: e.Address})
	if err != nil {
		return won{}, fmt.Errorf("encode lock: %w", err)
	}
	rev, err := e.Store.Commit(ctx, kind.Txn{
		If:  []kind.Condition{free, kind.IfRevision(fenceKey, fenceRev)},
		Ops: []kind.Op{{Key: LockKey, Value: lock, TTL: e.TTL}, {Key: fenceKey, Value: lock}},
	})
	if err != nil {
		return won{}, err
	}
	e.fence = rev
	return won{lock, rev, kind.Writer{Store: e.Store, If: []kind.Condition{kind.IfRevision(fenceKey, rev)}}}, nil
}

// free returns the condition under which the lock may be taken: absent, left by our own earlier process or by a server that died, or
// expired, when this server has seen itself that it was not renewed for as long: its clock may be wrong, or another's.
func (e *Election) free() (kind.Condition, error) {
	rec, ok := e.Store.Latest(LockKey)
	if !ok {
		return kind.IfValue(LockKey, nil), nil
	}
	var held vortex.LeaderLock
	if err := json.Unmarshal(rec.Value, &held); err != nil {
		return kind.Condition{}, fmt.Errorf("read lock: %w", err)
	}
	if rec.ModRevision != e.seen {
		e.seen, e.since = rec.ModRevision, time.Now()
	}
	late := e.Store.Now().Sub(time.UnixMilli(rec.ExpiresAt))
	switch {
	case held.ID == e.ID, e.dead(held.ID), late >= 0 && time.Since(e.since) >= e.TTL, late >= e.TTL:
		return kind.Condition{Key: LockKey, ByRevision: true, Revision: rec.ModRevision, Exact: true}, nil
	default:
		return kind.Condition{}, vortex.Errorf(vortex.Conflict, "%s leads", held.ID)
	}
}

// dead reports whether a leader has died. One that has taken the lead after its death was confirmed has not: two servers which do not hear each
// other yet, after a cut, would take the lead from each other again and again.
func (e *Election) dead(leader string) bool {
	if e.Peers == nil {
		return false
	}
	if fence, ok := e.Store.Latest(fenceKey); ok && fence.ModRevision != e.fence {
		if e.fence != 0 {
			e.took = time.Now()
		}
		e.fence = fence.ModRevision
	}
	since, dead := e.Peers.Dead(leader)
	return dead && since.After(e.took)
}

// wait returns when it is worth trying again: the lock changed, expired, a server died, the retry time has
// passed, or ctx ended. It returns the watch to go on with.
func (e *Election) wait(ctx context.Context, watch *kind.Watch, news <-chan struct{}) *kind.Watch {
	delay := e.Retry
	if rec, ok := e.Store.Latest(LockKey); ok && rec.ModRevision == e.seen {
		expires := time.UnixMilli(rec.ExpiresAt).Sub(e.Store.Now())
		delay = min(delay, max(expires, time.Until(e.since.Add(e.TTL)), time.Millisecond))
	}
	select {
	case <-ctx.Done():
	case <-time.After(delay):
	case <-news:
	case <-watch.Ready():
		if _, err := watch.Take(); err != nil {
			watch.Close()
			watch = e.Store.Watch(kind.WatchOptions{Prefixes: []string{LockKey}})
			pause(ctx, e.Retry/renewRetries) // a store that stops ends every watch at once
		}
	}
	return watch
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// hold runs lead while it renews the lock, and gives the lock back at the end.
func (e *Election) hold(ctx context.Context, won won, lead func(context.Context, kind.Writer) error) error {
	e.Log.InfoContext(ctx, "Lead taken")
	term, end := context.WithCancelCause(ctx)
	var renewal sync.WaitGroup
	renewal.Go(func() { e.renew(term, won, end) })
	err := lead(term, won.writer)
	lost := errors.Is(context.Cause(term), errLost)
	end(nil)
	renewal.Wait()
	if !lost {
		e.release(won.lock)
	}
	if err != nil {
		return fmt.Errorf("lead: %w", err)
	}
	e.Log.InfoContext(ctx, "Lead ended", "lost", lost)
	return nil
}

// renew prolongs the lock until the term ends, and ends the term when it cannot in time, or sees that another leads.
func (e *Election) renew(term context.Context, won won, end context.CancelCauseFunc) {
	watch := e.watchFence()
	defer func() { watch.Close() }()
	expires := time.Now().Add(e.TTL)
	due := time.After(e.Renew)
	for {
		select {
		case <-term.Done():
			return
		case <-watch.Ready():
			if _, err := watch.Take(); err != nil {
				watch.Close()
				pause(term, e.Renew/renewRetries) // a store that stops ends every watch at once
				watch = e.watchFence()
			}
			if rec, ok := e.Store.Latest(fenceKey); ok && rec.ModRevision > won.rev {
				end(errLost)
				return
			}
			continue
		case <-due:
		}
		attempt := time.Now()
		ctx, cancel := context.WithDeadline(term, expires)
		_, err := e.Store.Commit(ctx, kind.Txn{
			If:  []kind.Condition{{Key: LockKey, Value: won.lock, Exact: true}},
			Ops: []kind.Op{{Key: LockKey, Value: won.lock, TTL: e.TTL}},
		})
		cancel()
		switch {
		case err == nil:
			expires, due = attempt.Add(e.TTL), time.After(e.Renew)
		case vortex.IsKind(err, vortex.Conflict), time.Now().After(expires):
			end(errLost)
			return
		default:
			due = time.After(min(e.Renew/renewRetries, time.Until(expires)))
		}
	}
}

// watchFence watches who has the lead.
func (e *Election) watchFence() *kind.Watch {
	return e.Store.Watch(kind.WatchOptions{Prefixes: []string{fenceKey}})
}

// release gives the lock back, so that the next leader need not wait for its expiry.
func (e *Election) release(lock []byte) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, err := e.Store.Commit(ctx, kind.Txn{
		If:  []kind.Condition{kind.IfValue(LockKey, lock)},
		Ops: []kind.Op{{Key: LockKey, Delete: true}},
	})
	if err != nil && !vortex.IsKind(err, vortex.Conflict) {
		e.Log.Warn("Lock not given back; it expires by itself", "err", err)
	}
}
